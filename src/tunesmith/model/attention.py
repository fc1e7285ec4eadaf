"""Causal attention inside each document of a packed token stream.

Shapes: N tokens in the stream, H heads, D channels of a head; a group is R documents of T tokens each, next to
each other (N of the group = R * T).

Which kernel computes it is decided in `tunesmith.backends`. On CUDA one call does the whole stream, or a few where the
GPU or torch's build has no FlashAttention. The CPU does not have such a kernel: documents of equal
length next to each other are a view [R, T, H, D] and are attended in one call, so a batch that orders
its documents by length needs as many calls as it has different lengths. Short ones are attended in fp32 there:
the bf16 kernels were measured two to six times slower on them, and prepare themselves again for each length.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from tunesmith.backends import AttentionBackend, detect_device, resolve_attention
from tunesmith.model.gpt2 import GPT2, Attend
from tunesmith.model.gpt2_config import SHORT_DOCUMENT_TOKENS, padded_document_count
from tunesmith.utils.device import Decision


@dataclass(frozen=True)
class EqualLengthGroup:
    """Consecutive documents of equal length in the stream."""

    start: int
    documents: int
    length: int


@dataclass(frozen=True)
class PackedLayout:
    """Where documents begin and end in a packed stream.

    Attributes:
        offsets: first token of each document and, last, the end of the stream; strictly increasing, from 0.
        longest: no document has more tokens; the same for all streams of a run, so that kernels stay what they are.
    """

    offsets: tuple[int, ...]
    longest: int

    @classmethod
    def of(cls, offsets: tuple[int, ...]) -> "PackedLayout":
        """A layout for itself."""
        return cls(offsets, max(end - start for start, end in pairwise(offsets)))

    @cached_property
    def runs(self) -> tuple[EqualLengthGroup, ...]:
        """The documents, with neighbors of equal length in one group."""
        runs: list[EqualLengthGroup] = []
        for start, end in pairwise(self.offsets):
            length = end - start
            if runs and runs[-1].length == length:
                runs[-1] = EqualLengthGroup(runs[-1].start, runs[-1].documents + 1, length)
            else:
                runs.append(EqualLengthGroup(start, 1, length))
        return tuple(runs)

    @property
    def slots(self) -> int:
        """How many documents a kernel is prepared for."""
        return padded_document_count(len(self.offsets) - 1)

    def padded_cu_seqlens(self) -> Tensor:
        """int32 [slots + 1]: the offsets, the last one repeated; those documents are empty."""
        offsets = torch.full((self.slots + 1,), self.offsets[-1], dtype=torch.int32)
        offsets[: len(self.offsets)] = torch.tensor(self.offsets, dtype=torch.int32)
        return offsets


def attention_backend(model: GPT2) -> Decision[AttentionBackend]:
    """What computes this model's attention, where it is and in the dtype that it has now."""
    name = str(model.attention_dtype).removeprefix("torch.")
    return resolve_attention(detect_device(model.head_VC.device), name, model.config.head_dim)


def attention_for(layout: PackedLayout, model: GPT2) -> Attend:
    """What attends to these documents in this model."""
    device, backend = model.head_VC.device, attention_backend(model).value
    if backend == "flash_varlen":
        return VarlenAttention(_on_device(layout.padded_cu_seqlens(), device), layout.longest)
    if backend == "efficient_varlen":
        return EfficientVarlenAttention(layout, device)
    return GroupedSDPA(layout)


def _on_device(offsets: Tensor, device: torch.device) -> Tensor:
    """Offsets where the kernel reads them; a GPU fetches them without making anybody wait."""
    return offsets.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else offsets


class GroupedSDPA:
    """Each token sees its own document up to itself, and nothing else: a fused call for each run, on any device."""

    def __init__(self, layout: PackedLayout) -> None:
        self.runs = layout.runs  # now, not in a layer: before Python 3.12 a cached property takes a lock

    def __call__(self, q_NHD: Tensor, k_NHD: Tensor, v_NHD: Tensor, scale: float) -> Tensor:
        # split, not slices: the gradient of a split is one concatenation, that of a slice a whole zeroed stream
        run_tokens = [run.documents * run.length for run in self.runs]
        split = (t_NHD.split(run_tokens) for t_NHD in (q_NHD, k_NHD, v_NHD))
        pieces = [attend_group(q, k, v, run=run, scale=scale) for run, q, k, v in zip(self.runs, *split, strict=True)]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


class EfficientVarlenAttention:
    """The same in one kernel for the whole stream, or in a few where lengths differ much; every GPU, every dtype."""

    def __init__(self, layout: PackedLayout, device: torch.device) -> None:
        from tunesmith.model.efficient_attention import section_offsets, sections_of

        self.sections = sections_of(layout.offsets)
        self.offsets = _on_device(section_offsets(layout.offsets, self.sections), device)

    def __call__(self, q_NHD: Tensor, k_NHD: Tensor, v_NHD: Tensor, scale: float) -> Tensor:
        from tunesmith.model.efficient_attention import efficient_varlen_attention

        return efficient_varlen_attention(q_NHD, k_NHD, v_NHD, self.offsets, self.sections, scale)


class VarlenAttention:
    """The same by FlashAttention-2, one kernel for the whole stream; CUDA only, fp16 or bf16.

    Args:
        offsets: int32 on the device, first token of each document and, last, N, repeated as often as one likes.
        longest: no document has more tokens; a constant of the run.
    """

    def __init__(self, offsets: Tensor, longest: int) -> None:
        self.offsets = offsets
        self.longest = longest

    def __call__(self, q_NHD: Tensor, k_NHD: Tensor, v_NHD: Tensor, scale: float) -> Tensor:
        from torch.nn.attention.varlen import varlen_attn

        y_NHD = varlen_attn(
            q_NHD,
            k_NHD,
            v_NHD,
            self.offsets,
            self.offsets,
            self.longest,
            self.longest,
            scale=scale,
            window_size=(-1, 0),  # causal; the default (-1, -1) would leak the future
        )
        assert isinstance(y_NHD, Tensor)  # a pair only where auxiliary results are asked for
        return y_NHD


def attend_group(q_NHD: Tensor, k_NHD: Tensor, v_NHD: Tensor, *, run: EqualLengthGroup, scale: float) -> Tensor:
    """Causal attention in each of a run's equally long documents, [R * T, H, D]."""
    _, n_head, head_dim = q_NHD.shape
    q_RHTD, k_RHTD, v_RHTD = (
        t_NHD.view(run.documents, run.length, n_head, head_dim).transpose(1, 2) for t_NHD in (q_NHD, k_NHD, v_NHD)
    )
    if run.length <= SHORT_DOCUMENT_TOKENS and not q_NHD.is_cuda:
        q_RHTD, k_RHTD, v_RHTD = q_RHTD.float(), k_RHTD.float(), v_RHTD.float()
    y_RHTD = F.scaled_dot_product_attention(q_RHTD, k_RHTD, v_RHTD, is_causal=True, scale=scale).to(q_NHD.dtype)
    return y_RHTD.transpose(1, 2).reshape(run.documents * run.length, n_head, head_dim)


def forward_packed(
    model: GPT2,
    tokens_N: npt.NDArray[np.int64],
    positions_N: npt.NDArray[np.int64],
    layout: PackedLayout,
    *,
    call: Callable[..., Tensor] | None = None,
) -> Tensor:
    """Hidden states of packed documents, [N, C] on the model's device.

    Args:
        model: on its device.
        tokens_N: int64 ids.
        positions_N: int64, from 0 in each document.
        layout: where documents begin and end.
        call: what computes, where that is wrapped around the model.
    """
    attend = attention_for(layout, model)
    compute = model if call is None else call
    hidden_NC: Tensor = compute(
        to_model_device(model, tokens_N), to_model_device(model, positions_N), lambda _layer: attend
    )
    return hidden_NC


def select_rows(hidden_NC: Tensor, rows_M: npt.NDArray[np.int64]) -> Tensor:
    """Select the hidden states that predict something, [M, C]; all of them where none is excluded."""
    if len(rows_M) == len(hidden_NC):
        return hidden_NC
    return hidden_NC[_to(hidden_NC.device, rows_M)]


def to_model_device(model: GPT2, values_N: npt.NDArray[np.int64]) -> Tensor:
    """Copy an int64 array to the model's device, without making the host wait."""
    return _to(model.head_VC.device, values_N)


def _to(device: torch.device, values_N: npt.NDArray[np.int64]) -> Tensor:
    """From pinned memory, without which a GPU's copy makes the host wait whatever it is asked."""
    tensor_N = torch.from_numpy(values_N)
    return tensor_N.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor_N
