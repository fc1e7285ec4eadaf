"""Attention inside documents, against one masked softmax over the whole stream."""

import math
from typing import Any

import pytest
import torch
import torch.nn.attention.varlen as varlen_module
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tunesmith.model.attention import GroupedSDPA, PackedLayout, VarlenAttention
from tunesmith.model.gpt2_config import SHORT_DOCUMENT_TOKENS

LENGTHS = st.lists(st.integers(1, 20), min_size=1, max_size=12)


def layout_of(lengths: list[int]) -> PackedLayout:
    """Documents of these lengths side by side."""
    offsets = [0]
    for length in lengths:
        offsets.append(offsets[-1] + length)
    return PackedLayout.of(tuple(offsets))


def masked_softmax(q_NHD: Tensor, k_NHD: Tensor, v_NHD: Tensor, layout: PackedLayout, scale: float) -> Tensor:
    """The definition: scores over the whole stream, everything but one's own past in one's own document masked."""
    n_tokens = len(q_NHD)
    document_N = torch.bucketize(torch.arange(n_tokens), torch.tensor(layout.offsets[1:]), right=True)
    allowed_NN = (document_N[:, None] == document_N) & torch.ones(n_tokens, n_tokens, dtype=torch.bool).tril()
    scores_HNN = torch.einsum("nhd,mhd->hnm", q_NHD, k_NHD) * scale
    weights_HNN = scores_HNN.masked_fill(~allowed_NN, -math.inf).softmax(-1)
    return torch.einsum("hnm,mhd->nhd", weights_HNN, v_NHD)


def random_qkv(n_tokens: int) -> list[Tensor]:
    """Queries, keys and values of 2 heads of 8."""
    generator = torch.Generator().manual_seed(n_tokens)
    return [torch.randn(n_tokens, 2, 8, generator=generator, requires_grad=True) for _ in range(3)]


@given(LENGTHS)
def test_runs_cover_the_stream(lengths: list[int]) -> None:
    """Runs stand end to end, hold every document, and neighbors differ in length."""
    layout = layout_of(lengths)
    assert [run.length for run in layout.runs for _ in range(run.documents)] == lengths
    ends = [run.start + run.documents * run.length for run in layout.runs]
    assert [0, *ends[:-1]] == [run.start for run in layout.runs]
    assert ends[-1] == sum(lengths)
    assert all(one.length != other.length for one, other in zip(layout.runs, layout.runs[1:], strict=False))
    assert layout.longest == max(lengths)


@pytest.mark.parametrize(
    "lengths", [[1], [5, 5, 5], [3, 1, 1, 9, 9, 2], [SHORT_DOCUMENT_TOKENS + 1, 4], [SHORT_DOCUMENT_TOKENS, 1]]
)
def test_equals_the_definition(lengths: list[int]) -> None:
    """Values and gradients equal those of the masked softmax, for short, long and repeated lengths."""
    layout = layout_of(lengths)
    ours, plain = random_qkv(sum(lengths)), random_qkv(sum(lengths))
    y_NHD = GroupedSDPA(layout)(*ours, 0.3)
    expected_NHD = masked_softmax(*plain, layout, 0.3)
    torch.testing.assert_close(y_NHD, expected_NHD, atol=1e-5, rtol=1e-5)
    upstream_NHD = torch.randn_like(expected_NHD)
    y_NHD.backward(upstream_NHD)
    expected_NHD.backward(upstream_NHD)
    for mine, theirs in zip(ours, plain, strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("length", [10, SHORT_DOCUMENT_TOKENS + 10])
def test_bf16_comes_back_as_bf16(length: int) -> None:
    """Short documents are computed in fp32 and long ones in bf16; both come back in bf16, close to exact."""
    qkv = [tensor.detach().bfloat16() for tensor in random_qkv(length)]
    y_NHD = GroupedSDPA(layout_of([length]))(*qkv, 0.3)
    assert y_NHD.dtype == torch.bfloat16
    expected_NHD = masked_softmax(*(tensor.float() for tensor in qkv), layout_of([length]), 0.3)
    torch.testing.assert_close(y_NHD.float(), expected_NHD, atol=0.03, rtol=0.03)


def test_the_kernel_for_cards_is_called_causally(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its default window looks into the future: ours is (-1, 0), with the scale and lengths of the model."""
    calls: list[dict[str, Any]] = []

    def fake(q_NHD: Tensor, *arguments: Any, **keywords: Any) -> Tensor:
        calls.append({"arguments": arguments, **keywords})
        return q_NHD

    monkeypatch.setattr(varlen_module, "varlen_attn", fake)
    q_NHD, k_NHD, v_NHD = random_qkv(9)
    offsets = torch.tensor([0, 4, 9], dtype=torch.int32)
    assert VarlenAttention(offsets, 5)(q_NHD, k_NHD, v_NHD, 0.3) is q_NHD
    (call,) = calls
    assert call["window_size"] == (-1, 0)
    assert call["scale"] == 0.3
    assert call["arguments"] == (k_NHD, v_NHD, offsets, offsets, 5, 5)
