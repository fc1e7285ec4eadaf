"""Causal attention inside each document of a packed token stream.

Shapes: N tokens in the stream, H heads, D channels of a head; a run is R documents of T tokens each that
stand next to each other (N of the run = R * T).

On CUDA one `varlen_attn` call does the whole stream. On the CPU there is no such kernel: documents of equal
length that stand side by side are a view [R, T, H, D] and are attended in one call, so a batch that orders
its documents by length needs as many calls as it has different lengths. Short ones are attended in fp32 there:
the bf16 kernels were measured two to six times slower on them, and prepare themselves anew for each length.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

SHORT_DOCUMENT_TOKENS = 512
"""Up to this length the CPU's fused attention is faster in fp32 than in bf16, casts included."""


@dataclass(frozen=True)
class Run:
    """Documents of equal length that stand next to each other in the stream."""

    start: int
    documents: int
    length: int


@dataclass(frozen=True)
class DocumentLayout:
    """Where documents begin and end in a packed stream.

    Attributes:
        offsets: first token of each document and, last, the end of the stream; strictly increasing, from 0.
    """

    offsets: tuple[int, ...]

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """The documents, with neighbours of equal length put together."""
        runs: list[Run] = []
        for start, end in zip(self.offsets, self.offsets[1:], strict=False):
            length = end - start
            if runs and runs[-1].length == length:
                runs[-1] = Run(runs[-1].start, runs[-1].documents + 1, length)
            else:
                runs.append(Run(start, 1, length))
        return tuple(runs)

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest document."""
        return max(run.length for run in self.runs)


class PackedAttention:
    """Each token sees its own document up to itself, and nothing else."""

    def __init__(self, layout: DocumentLayout) -> None:
        self.layout = layout
        self._offsets_on: dict[torch.device, Tensor] = {}

    def __call__(self, layer: int, q_NHD: Tensor, k_NHD: Tensor, v_NHD: Tensor, scale: float) -> Tensor:
        del layer  # every layer sees the same documents
        if q_NHD.is_cuda and q_NHD.dtype in {torch.float16, torch.bfloat16}:
            return attend_varlen(
                q_NHD, k_NHD, v_NHD, offsets=self._offsets(q_NHD.device), longest=self.layout.longest, scale=scale
            )
        # split, not slices: the gradient of a split is one concatenation, that of a slice a whole zeroed stream
        run_tokens = [run.documents * run.length for run in self.layout.runs]
        split = (t_NHD.split(run_tokens) for t_NHD in (q_NHD, k_NHD, v_NHD))
        pieces = [
            attend_run(q, k, v, run=run, scale=scale) for run, q, k, v in zip(self.layout.runs, *split, strict=True)
        ]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def _offsets(self, device: torch.device) -> Tensor:
        """The offsets as the int32 tensor that `varlen_attn` reads, sent once for all layers."""
        if device not in self._offsets_on:
            offsets = torch.tensor(self.layout.offsets, dtype=torch.int32)
            self._offsets_on[device] = offsets.pin_memory().to(device, non_blocking=True)
        return self._offsets_on[device]


def attend_run(q_NHD: Tensor, k_NHD: Tensor, v_NHD: Tensor, *, run: Run, scale: float) -> Tensor:
    """Causal attention in each of a run's equally long documents, [R * T, H, D]."""
    _, n_head, head_dim = q_NHD.shape
    q_RHTD, k_RHTD, v_RHTD = (
        t_NHD.view(run.documents, run.length, n_head, head_dim).transpose(1, 2) for t_NHD in (q_NHD, k_NHD, v_NHD)
    )
    if run.length <= SHORT_DOCUMENT_TOKENS and not q_NHD.is_cuda:
        q_RHTD, k_RHTD, v_RHTD = q_RHTD.float(), k_RHTD.float(), v_RHTD.float()
    y_RHTD = F.scaled_dot_product_attention(q_RHTD, k_RHTD, v_RHTD, is_causal=True, scale=scale).to(q_NHD.dtype)
    return y_RHTD.transpose(1, 2).reshape(run.documents * run.length, n_head, head_dim)


def attend_varlen(
    q_NHD: Tensor, k_NHD: Tensor, v_NHD: Tensor, *, offsets: Tensor, longest: int, scale: float
) -> Tensor:
    """Causal attention in each document of the stream, [N, H, D]; CUDA only, fp16 or bf16.

    Args:
        q_NHD: queries.
        k_NHD: keys.
        v_NHD: values.
        offsets: int32 on the device, first token of each document and, last, N.
        longest: tokens of the longest document.
        scale: of the query-key products.
    """
    from torch.nn.attention.varlen import varlen_attn  # noqa: PLC0415  of no use where there is no card

    y_NHD = varlen_attn(
        q_NHD,
        k_NHD,
        v_NHD,
        offsets,
        offsets,
        longest,
        longest,
        scale=scale,
        window_size=(-1, 0),  # causal; the default (-1, -1) would leak the future
    )
    assert isinstance(y_NHD, Tensor)  # a pair only where auxiliary results are asked for
    return y_NHD
