"""Memory-efficient attention over packed documents: sections, values and gradients, against one document at a time."""

import importlib.util
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from tunesmith.model.attention import EfficientVarlenAttention, PackedLayout
from tunesmith.model.efficient_attention import (
    MAX_PADDING,
    efficient_varlen,
    efficient_varlen_attention,
    efficient_varlen_backward,
    section_offsets,
    sections_of,
)

LENGTHS = {
    "one": [7],
    "equal": [33, 33, 33],
    "longest first, as batches are": [70, 64, 31, 9, 9, 8, 3, 1, 1],
    "with filling at the end": [40, 12, 11, 10, 2, 2, 2, 40, 40, 17],
    "in no order": [3, 50, 1, 1, 20, 2, 64],
}


@pytest.fixture(autouse=True)
def _on_cpu() -> Iterator[None]:
    spec = importlib.util.spec_from_file_location("attention_on_cpu", Path(__file__).with_name("attention_on_cpu.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with module.gpu_attention_on_cpu():
        yield


def offsets_of(lengths: list[int]) -> tuple[int, ...]:
    """First token of each document and the end."""
    return tuple(sum(lengths[:number]) for number in range(len(lengths) + 1))


def random_qkv(lengths: list[int], head_dim: int, dtype: torch.dtype) -> list[Tensor]:
    """Queries, keys and values of 3 heads as the model has them: three views of what one projection gives."""
    generator = torch.Generator().manual_seed(sum(lengths))
    qkv_N3HD = torch.randn(sum(lengths), 3, 3, head_dim, generator=generator).to(dtype)
    return [tensor.requires_grad_() for tensor in qkv_N3HD.unbind(1)]


def document_by_document(qkv: list[Tensor], offsets: tuple[int, ...], scale: float) -> Tensor:
    """The definition in double precision: torch's attention, called for each document by itself."""
    parts = []
    for start, end in pairwise(offsets):
        q, k, v = (tensor[start:end].transpose(0, 1)[None] for tensor in qkv)
        parts.append(F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)[0].transpose(0, 1))
    return torch.cat(parts)


@given(st.lists(st.integers(1, 300), min_size=1, max_size=40))
def test_sections_cover_the_stream_and_pad_little(lengths: list[int]) -> None:
    """Every document is in one section, offsets count from its first token, and padding at most doubles a section."""
    offsets = offsets_of(lengths)
    sections = sections_of(offsets)
    packed = section_offsets(offsets, sections)
    starts = [section.start + int(at) for section in sections for at in packed[section.offsets][:-1]]
    assert starts == list(offsets[:-1])
    assert [section.end for section in sections] == [*(section.start for section in sections[1:]), offsets[-1]]
    assert len(packed) == len(lengths) + len(sections)
    for section in sections:
        inside = packed[section.offsets].diff()
        assert int(inside.max()) == section.longest
        assert section.documents * section.longest <= MAX_PADDING * (section.end - section.start)


def test_usual_batches_take_few_sections() -> None:
    """Documents longest first: a call for equal lengths, a handful for lengths from 1,024 down to 8."""
    assert len(sections_of(offsets_of([1024] * 32))) == 1
    spread = sorted((int(8 * 128 ** (number / 199)) for number in range(200)), reverse=True)
    assert len(sections_of(offsets_of(spread))) <= 5


@pytest.mark.parametrize("name", LENGTHS)
@pytest.mark.parametrize("head_dim", [8, 10])
def test_values_and_gradients_are_those_of_the_definition(name: str, head_dim: int) -> None:
    """In fp32, against double precision; heads that the kernel cannot load are padded and cut again."""
    lengths, scale = LENGTHS[name], 0.3
    ours = random_qkv(lengths, head_dim, torch.float32)
    exact = [tensor.detach().double().requires_grad_() for tensor in ours]
    layout = PackedLayout.of(offsets_of(lengths))
    y_NHD = EfficientVarlenAttention(layout, torch.device("cpu"))(*ours, scale)
    expected_NHD = document_by_document(exact, layout.offsets, scale)
    torch.testing.assert_close(y_NHD.double(), expected_NHD, rtol=1e-5, atol=1e-5)
    upstream_NHD = torch.randn(y_NHD.shape, generator=torch.Generator().manual_seed(1))
    gradients = torch.autograd.grad(y_NHD, ours, upstream_NHD)
    expected = torch.autograd.grad(expected_NHD, exact, upstream_NHD.double())
    for mine, theirs in zip(gradients, expected, strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_close(dtype: torch.dtype) -> None:
    """Values and gradients come back in the dtype that went in, as close as it allows."""
    lengths = LENGTHS["longest first, as batches are"]
    ours = random_qkv(lengths, 64, dtype)
    exact = [tensor.detach().double().requires_grad_() for tensor in ours]
    layout = PackedLayout.of(offsets_of(lengths))
    y_NHD = EfficientVarlenAttention(layout, torch.device("cpu"))(*ours, 1 / 8)
    expected_NHD = document_by_document(exact, layout.offsets, 1 / 8)
    leeway = 4 * torch.finfo(dtype).eps
    assert y_NHD.dtype == dtype
    torch.testing.assert_close(y_NHD.double(), expected_NHD, rtol=leeway, atol=leeway)
    gradients = torch.autograd.grad(y_NHD.float().square().sum(), ours)
    expected = torch.autograd.grad(expected_NHD.square().sum(), exact)
    for mine, theirs in zip(gradients, expected, strict=True):
        assert mine.dtype == dtype
        assert (mine.double() - theirs).norm() <= leeway * theirs.norm() * 2


def test_the_operators_are_what_torch_expects_of_operators() -> None:
    """Schema, fake implementation and autograd registration agree with what is computed (torch.library.opcheck)."""
    lengths = LENGTHS["longest first, as batches are"]
    q, k, v = random_qkv(lengths, 8, torch.float32)
    sections = sections_of(offsets_of(lengths))
    packed = section_offsets(offsets_of(lengths), sections)
    numbers = [number for s in sections for number in (s.start, s.end, s.at, s.documents, s.longest)]
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(efficient_varlen, (q, k, v, packed, numbers, 0.3), test_utils=tests)
    with torch.no_grad():
        y_NHD, normalizers_P = efficient_varlen(q, k, v, packed, numbers, 0.3)
        inputs = (torch.ones_like(y_NHD), q, k, v, y_NHD, normalizers_P.nan_to_num(), packed, numbers, 0.3)
        torch.library.opcheck(efficient_varlen_backward, inputs, test_utils=("test_schema", "test_faketensor"))


def test_nothing_crosses_documents_or_goes_back_in_time() -> None:
    """A changed token changes its own and later tokens of its document, and no other."""
    lengths = LENGTHS["in no order"]
    q, k, v = (tensor.detach() for tensor in random_qkv(lengths, 8, torch.float32))
    attend = EfficientVarlenAttention(PackedLayout.of(offsets_of(lengths)), torch.device("cpu"))
    before_NHD = attend(q, k, v, 0.3)
    k[20], v[20] = k[20] + 1, v[20] - 1  # in the second document, tokens 3 to 52
    same_N = (attend(q, k, v, 0.3) == before_NHD).flatten(1).all(1)
    assert same_N[:20].all()
    assert not same_N[20:53].any()
    assert same_N[53:].all()


def test_shapes_are_right_on_tensors_that_are_not_there() -> None:
    """Forward and backward on fake tensors, whose shapes and dtypes are those of real ones."""
    lengths = LENGTHS["longest first, as batches are"]
    sections = sections_of(offsets_of(lengths))
    packed = section_offsets(offsets_of(lengths), sections)
    with FakeTensorMode(allow_non_fake_inputs=True):
        qkv = [torch.empty(sum(lengths), 3, 20, dtype=torch.float16, requires_grad=True) for _ in range(3)]
        y_NHD = efficient_varlen_attention(*qkv, packed, sections, 0.3)
        gradients = torch.autograd.grad(y_NHD.sum(), qkv)
    for tensor in (y_NHD, *gradients):
        assert (tensor.shape, tensor.dtype) == ((sum(lengths), 3, 20), torch.float16)
