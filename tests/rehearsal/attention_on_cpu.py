"""CPU kernels for the operators that only GPUs have, so that what calls them can be run, traced and differentiated.

Plain arithmetic, document by document. What the CUDA kernels check, these check; what they leave unwritten is NaN.

Shapes: N tokens, H heads, D channels of a head, T tokens of a document.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor


def _scores(q_NHD: Tensor, k_NHD: Tensor, at: slice, scale: float) -> Tensor:
    q_HTD, k_HTD = (t_NHD[at].transpose(0, 1).float() for t_NHD in (q_NHD, k_NHD))
    scores_HTT = q_HTD @ k_HTD.transpose(1, 2) * scale
    future = torch.ones(scores_HTT.shape[-2:], dtype=torch.bool).triu(1)
    return scores_HTT.masked_fill(future, -math.inf)


def _documents(offsets: Tensor) -> Iterator[tuple[int, slice]]:
    """Number and place of each document that has tokens."""
    for number, (start, end) in enumerate(pairwise(offsets.tolist())):
        if end > start:
            yield number, slice(start, end)


def _backward(
    gradient_NHD: Tensor,
    q_NHD: Tensor,
    k_NHD: Tensor,
    v_NHD: Tensor,
    y_NHD: Tensor,
    normalizers: list[Tensor],
    offsets: Tensor,
    scale: float,
) -> list[Tensor]:
    """Gradients of queries, keys and values, from the normalizers [H, T] that the forward pass kept."""
    found = [torch.full(t.shape, math.nan, dtype=t.dtype) for t in (q_NHD, k_NHD, v_NHD)]
    for number, at in _documents(offsets):
        weights_HTT = (_scores(q_NHD, k_NHD, at, scale) - normalizers[number][..., None]).exp()
        q_HTD, k_HTD, v_HTD, g_HTD, y_HTD = (
            t[at].transpose(0, 1).float() for t in (q_NHD, k_NHD, v_NHD, gradient_NHD, y_NHD)
        )
        delta_HT1 = (g_HTD * y_HTD).sum(-1, keepdim=True)
        d_scores_HTT = weights_HTT * (g_HTD @ v_HTD.transpose(1, 2) - delta_HT1) * scale
        parts = (d_scores_HTT @ k_HTD, d_scores_HTT.transpose(1, 2) @ q_HTD, weights_HTT.transpose(1, 2) @ g_HTD)
        for whole_NHD, part_HTD in zip(found, parts, strict=True):
            whole_NHD[at] = part_HTD.transpose(0, 1).to(whole_NHD.dtype)
    return found


def _forward(q_NHD: Tensor, k_NHD: Tensor, v_NHD: Tensor, offsets: Tensor, scale: float) -> tuple[Tensor, list[Tensor]]:
    y_NHD = torch.full(v_NHD.shape, math.nan, dtype=v_NHD.dtype)
    normalizers = [torch.empty(q_NHD.shape[1], 0)] * (len(offsets) - 1)
    for number, at in _documents(offsets):
        scores_HTT = _scores(q_NHD, k_NHD, at, scale)
        normalizers[number] = scores_HTT.logsumexp(-1)
        y_NHD[at] = (scores_HTT.softmax(-1) @ v_NHD[at].transpose(0, 1).float()).transpose(0, 1).to(y_NHD.dtype)
    return y_NHD, normalizers


def _check(q: Tensor, k: Tensor, v: Tensor, offsets: tuple[Tensor, Tensor], longest: tuple[int, int]) -> None:
    """attention.cu and attention_backward.cu."""
    assert q.dim() == k.dim() == v.dim() == 4
    assert q.shape[0] == 1, "cu_seqlen only supports batch_size=1"
    assert q.dtype in {torch.float16, torch.bfloat16, torch.float32}
    for tensor in (q, k, v):
        assert tensor.stride(-1) == 1
        assert tensor.stride(-2) * tensor.element_size() % 16 == 0, "heads are not aligned"
    for tensor, most in zip(offsets, longest, strict=True):
        assert tensor.dtype == torch.int32
        assert tensor.dim() == 1
        assert tensor.is_contiguous()
        assert 0 < most <= q.shape[1], "Invalid max_seqlen"
        assert int(tensor.diff().max()) <= most
        assert (int(tensor[0]), int(tensor[-1])) == (0, q.shape[1]), "tokens of no document stay unwritten"


def efficient_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: None,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float,
    custom_mask_type: int,
    compute_log_sumexp: bool = False,  # noqa: FBT001, FBT002
    *,
    scale: float,
    seqlen_k: None = None,
    window_size: None = None,
) -> tuple[Any, ...]:
    """aten::_efficient_attention_forward."""
    assert (bias, dropout_p, custom_mask_type, compute_log_sumexp, seqlen_k, window_size) == (
        None,
        0,
        1,
        True,
        None,
        None,
    )
    _check(query, key, value, (cu_seqlens_q, cu_seqlens_k), (max_seqlen_q, max_seqlen_k))
    y_NHD, normalizers = _forward(query[0], key[0], value[0], cu_seqlens_q, scale)
    padded = torch.full((len(normalizers), query.shape[2], -(-max_seqlen_q // 32) * 32), math.nan)
    for number, normalizers_HT in enumerate(normalizers):
        padded[number, :, : normalizers_HT.shape[1]] = normalizers_HT
    seed = torch.empty((), dtype=torch.int64)
    return y_NHD[None], padded, seed, seed.clone(), max_seqlen_q, max_seqlen_k


def efficient_backward(
    grad_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: None,
    out: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    logsumexp: Tensor,
    dropout_p: float,
    philox_seed: Tensor,
    philox_offset: Tensor,
    custom_mask_type: int,
    bias_requires_grad: bool,  # noqa: FBT001
    *,
    scale: float,
    num_splits_key: None = None,
    window_size: None = None,
    shared_storage_dqdkdv: bool = False,
) -> tuple[Tensor, ...]:
    """aten::_efficient_attention_backward."""
    assert (bias, dropout_p, custom_mask_type, bias_requires_grad) == (None, 0, 1, False)
    assert (num_splits_key, window_size, shared_storage_dqdkdv) == (None, None, False)
    assert philox_seed.dtype == philox_offset.dtype == torch.int64
    _check(query, key, value, (cu_seqlens_q, cu_seqlens_k), (max_seqlen_q, max_seqlen_k))
    assert logsumexp.shape == (len(cu_seqlens_q) - 1, query.shape[2], -(-max_seqlen_q // 32) * 32)
    lengths = cu_seqlens_q.diff().tolist()
    normalizers = [logsumexp[number, :, :length] for number, length in enumerate(lengths)]
    found = _backward(grad_out[0], query[0], key[0], value[0], out[0], normalizers, cu_seqlens_q, scale)
    return (*(tensor[None] for tensor in found), torch.empty(()))


def flash_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,  # noqa: ARG001
    max_q: int,
    max_k: int,  # noqa: ARG001
    is_causal: bool = False,  # noqa: ARG001, FBT001, FBT002
    scale: float | None = None,
    window_size: list[int] | None = None,
    *_: Any,
    **__: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """torch_attn::_varlen_attn."""
    assert query.dtype in {torch.float16, torch.bfloat16}, "FlashAttention only supports fp16 and bf16"
    assert query.shape[-1] % 8 == 0
    assert query.shape[-1] <= 256
    assert window_size == [-1, 0]
    assert scale is not None
    assert int(cu_seq_q.diff().max()) <= max_q
    y_NHD, normalizers = _forward(query, key, value, cu_seq_q, scale)
    return y_NHD, torch.cat(normalizers, dim=1), torch.zeros(2, dtype=torch.uint64)


def flash_backward(
    grad_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,  # noqa: ARG001
    max_q: int,  # noqa: ARG001
    max_k: int,  # noqa: ARG001
    is_causal: bool,  # noqa: ARG001, FBT001
    rng_state: Tensor,  # noqa: ARG001
    scale: float | None = None,
    window_size: list[int] | None = None,  # noqa: ARG001
) -> tuple[Tensor, ...]:
    """torch_attn::_varlen_attn_backward."""
    assert scale is not None
    normalizers = list(lse.split(cu_seq_q.diff().tolist(), dim=1))
    return tuple(_backward(grad_out, query, key, value, out, normalizers, cu_seq_q, scale))


@contextmanager
def gpu_attention_on_cpu() -> Iterator[None]:
    """Both backends' operators run on CPU tensors while this lasts."""
    from torch.nn.attention import varlen  # noqa: F401  defines the operators

    aten, torch_attn = torch.library.Library("aten", "IMPL"), torch.library.Library("torch_attn", "IMPL")
    aten.impl("_efficient_attention_forward", efficient_forward, "CPU")
    aten.impl("_efficient_attention_backward", efficient_backward, "CPU")
    torch_attn.impl("_varlen_attn", flash_forward, "CPU")
    torch_attn.impl("_varlen_attn_backward", flash_backward, "CPU")
    try:
        yield
    finally:
        aten._destroy()
        torch_attn._destroy()
