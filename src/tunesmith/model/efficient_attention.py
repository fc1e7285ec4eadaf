"""Variable-length causal attention by torch's memory-efficient kernels, as a custom operator with its own gradient.

What `scaled_dot_product_attention` calls for dense batches takes documents of different lengths, too, when it is called
as nested tensors do: the stream as one batch entry, [1, N, H, D], and where documents begin. It computes in fp16, fp32
and (from Ampere on) bf16, on every GPU and on Windows, where FlashAttention is not available.

The kernel keeps the softmax's normalizers of each document, and sums the gradient of the queries, in memory padded to
the longest document. So the stream is divided into sections: the longest documents come first, and a section ends
before padding would more than double it.

Shapes: N tokens in the stream, H heads, D channels of a head; P normalizers of all sections as padded.
"""

from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

CAUSAL_FROM_TOP_LEFT = 1
"""torch's number (sdp_utils) for: a token sees its own document up to itself."""
HEAD_DIM_MULTIPLE = 8
"""16 bytes of fp16: what the fast kernels load at once. Other heads are padded with zeros."""
NORMALIZER_MULTIPLE = 32
"""The kernel pads what it keeps of each document and head to a multiple of this."""
MAX_PADDING = 2
"""Padded over real tokens of a section."""


@dataclass(frozen=True)
class Section:
    """Documents that one call of the kernel computes.

    Attributes:
        start: first token.
        end: first token after it.
        at: where its offsets begin in the tensor of all sections' offsets.
        documents: how many.
        longest: tokens of the longest of them.
    """

    start: int
    end: int
    at: int
    documents: int
    longest: int

    @property
    def offsets(self) -> slice:
        """Its part of the tensor of offsets; they count from its own first token."""
        return slice(self.at, self.at + self.documents + 1)

    def normalizers_shape(self, n_head: int) -> tuple[int, int, int]:
        """[documents, H, longest as padded]."""
        return self.documents, n_head, -(-self.longest // NORMALIZER_MULTIPLE) * NORMALIZER_MULTIPLE


def sections_of(offsets: tuple[int, ...]) -> list[Section]:
    """Divide a stream; as few sections as padding allows.

    Args:
        offsets: first token of each document and, last, N; strictly increasing, from 0.
    """
    sections: list[Section] = []
    first, longest = 0, 0
    for number, (start, end) in enumerate(pairwise(offsets)):
        longest_then = max(longest, end - start)
        padded = longest_then * (number + 1 - first)
        if number > first and padded > MAX_PADDING * (end - offsets[first]):
            sections.append(_section(offsets, first, number, longest, len(sections)))
            first, longest_then = number, end - start
        longest = longest_then
    sections.append(_section(offsets, first, len(offsets) - 1, longest, len(sections)))
    return sections


def _section(offsets: tuple[int, ...], first: int, end: int, longest: int, before: int) -> Section:
    return Section(offsets[first], offsets[end], first + before, end - first, longest)


def section_offsets(offsets: tuple[int, ...], sections: Sequence[Section]) -> Tensor:
    """int32 [documents + sections]: the offsets of each section, counted from its first token, one after the other."""
    numbers: list[int] = []
    first = 0
    for section in sections:
        numbers += [offset - section.start for offset in offsets[first : first + section.documents + 1]]
        first += section.documents
    return torch.tensor(numbers, dtype=torch.int32)


def efficient_varlen_attention(
    q_NHD: Tensor, k_NHD: Tensor, v_NHD: Tensor, offsets: Tensor, sections: Sequence[Section], scale: float
) -> Tensor:
    """Causal attention inside each document, [N, H, D].

    Args:
        q_NHD: queries, in fp16, bf16 or fp32; the last dimension contiguous.
        k_NHD: keys.
        v_NHD: values.
        offsets: on the device, as of `section_offsets`.
        sections: as of `sections_of`.
        scale: of the products before the softmax.
    """
    head_dim = q_NHD.shape[-1]
    if more := -head_dim % HEAD_DIM_MULTIPLE:
        q_NHD, k_NHD, v_NHD = (F.pad(t_NHD, (0, more)) for t_NHD in (q_NHD, k_NHD, v_NHD))
    numbers = [number for section in sections for number in astuple(section)]
    y_NHD: Tensor = efficient_varlen(q_NHD, k_NHD, v_NHD, offsets, numbers, scale)[0]
    return y_NHD[..., :head_dim] if more else y_NHD


@torch.library.custom_op("tunesmith::efficient_varlen", mutates_args=())
def efficient_varlen(
    q_NHD: Tensor, k_NHD: Tensor, v_NHD: Tensor, offsets: Tensor, sections: Sequence[int], scale: float
) -> tuple[Tensor, Tensor]:
    """The attended values, [N, H, D], and the normalizers, fp32 [P]."""
    values: list[Tensor] = []
    normalizers: list[Tensor] = []
    for section in _read(sections):
        part = slice(section.start, section.end)
        y_1NHD, normalizers_RHT, *_ = torch.ops.aten._efficient_attention_forward(  # noqa: SLF001  its public name in a graph
            q_NHD[None, part],
            k_NHD[None, part],
            v_NHD[None, part],
            None,
            offsets[section.offsets],
            offsets[section.offsets],
            section.longest,
            section.longest,
            0.0,
            CAUSAL_FROM_TOP_LEFT,
            True,  # the normalizers, for the backward pass
            scale=scale,
        )
        values.append(y_1NHD[0])
        normalizers.append(normalizers_RHT.flatten())
    return _joined(values), _joined(normalizers)


@torch.library.custom_op("tunesmith::efficient_varlen_backward", mutates_args=())
def efficient_varlen_backward(
    gradient_NHD: Tensor,
    q_NHD: Tensor,
    k_NHD: Tensor,
    v_NHD: Tensor,
    y_NHD: Tensor,
    normalizers_P: Tensor,
    offsets: Tensor,
    sections: Sequence[int],
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of queries, keys and values, each [N, H, D]."""
    gradients: tuple[list[Tensor], ...] = ([], [], [])
    read, used = list(_read(sections)), 0
    nothing = torch.empty((), dtype=torch.int64, device=q_NHD.device)  # the state of dropout, of which there is none
    for section in read:
        part = slice(section.start, section.end)
        shape = section.normalizers_shape(q_NHD.shape[1])
        size = shape[0] * shape[1] * shape[2]
        *found, _ = torch.ops.aten._efficient_attention_backward(  # noqa: SLF001
            gradient_NHD[None, part],
            q_NHD[None, part],
            k_NHD[None, part],
            v_NHD[None, part],
            None,
            y_NHD[None, part],
            offsets[section.offsets],
            offsets[section.offsets],
            section.longest,
            section.longest,
            normalizers_P[used : used + size].view(shape),
            0.0,
            nothing,
            nothing,
            CAUSAL_FROM_TOP_LEFT,
            False,
            scale=scale,
        )
        used += size
        for all_of_them, gradient_1NHD in zip(gradients, found, strict=True):
            all_of_them.append(gradient_1NHD[0])
    q, k, v = map(_joined, gradients)
    return q, k, v


def _fake(q_NHD: Tensor, *others: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401
    shapes = [section.normalizers_shape(q_NHD.shape[1]) for section in _read(others[3])]
    size = sum(documents * heads * length for documents, heads, length in shapes)
    return q_NHD.new_empty(q_NHD.shape), q_NHD.new_empty(size, dtype=torch.float32)


def _fake_backward(*inputs: Any) -> tuple[Tensor, ...]:  # noqa: ANN401
    return tuple(t_NHD.new_empty(t_NHD.shape) for t_NHD in inputs[1:4])


efficient_varlen.register_fake(_fake)
efficient_varlen_backward.register_fake(_fake_backward)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:  # noqa: ANN401
    q_NHD, k_NHD, v_NHD, offsets, ctx.sections, ctx.scale = inputs
    y_NHD, normalizers_P = output
    ctx.mark_non_differentiable(normalizers_P)
    ctx.save_for_backward(q_NHD, k_NHD, v_NHD, y_NHD, normalizers_P, offsets)


def _gradients(ctx: Any, gradient_NHD: Tensor, _normalizers: Tensor | None) -> tuple[Tensor | None, ...]:  # noqa: ANN401
    *kept, offsets = ctx.saved_tensors
    gradients = efficient_varlen_backward(gradient_NHD, *kept, offsets, ctx.sections, ctx.scale)
    return (*gradients, None, None, None)


efficient_varlen.register_autograd(_gradients, setup_context=_keep)


def _read(numbers: Sequence[int]) -> Iterator[Section]:
    """Sections as operators take them: five integers each."""
    for at in range(0, len(numbers), 5):
        yield Section(*numbers[at : at + 5])


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
