"""Cross-entropy over the vocabulary, without ever holding tokens x vocabulary.

Shapes: N tokens, C channels, V vocabulary as padded in memory, K rows of a chunk.

The logits of 1,024 tokens over 50,257 entries take 200 MB in fp32, several times over in a plain
implementation. Here a chunk of rows at a time is projected, turned into losses and, in place, into gradients,
and multiplied back at once, so that the forward pass leaves the two finished gradients behind and the
backward pass only scales them. All losses are natural logarithms ("nats") and sums, never means: dividing by
the tokens of a whole step is the caller's business.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK_ROWS = 512
"""Rows projected at a time: large enough for the matrix product, small enough for the cache of a CPU."""


def sum_of_nats(hidden_NC: Tensor, head_VC: Tensor, targets_N: Tensor, vocab_size: int) -> Tensor:
    """Summed cross-entropy in nats, a differentiable fp32 scalar.

    Args:
        hidden_NC: hidden states in the compute dtype.
        head_VC: output projection, in the dtype it is kept in; its gradient comes back in fp32.
        targets_N: int64 ids of the tokens to predict, each below `vocab_size`.
        vocab_size: rows of `head_VC` that are real; the others pad it and get no probability.
    """
    return cast("Tensor", _SumOfNats.apply(hidden_NC, head_VC, targets_N, vocab_size))  # type: ignore[no-untyped-call]


@torch.no_grad()
def nats_of_each_token(hidden_NC: Tensor, head_VC: Tensor, targets_N: Tensor, vocab_size: int) -> Tensor:
    """Cross-entropy of each token in nats, [N] in fp32, without gradients."""
    head_VC = head_VC.to(hidden_NC.dtype)
    nats_N = torch.empty(len(targets_N), dtype=torch.float32, device=hidden_NC.device)
    for start in range(0, len(targets_N), CHUNK_ROWS):
        rows = slice(start, start + CHUNK_ROWS)
        logits_KV = F.linear(hidden_NC[rows], head_VC)[:, :vocab_size].float()
        nats_N[rows] = F.cross_entropy(logits_KV, targets_N[rows], reduction="none")
    return nats_N


class _SumOfNats(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_NC: Tensor, head_VC: Tensor, targets_N: Tensor, vocab_size: int) -> Tensor:  # noqa: ANN401
        dtype = hidden_NC.dtype
        weight_VC = head_VC.to(dtype)
        nats = torch.zeros((), dtype=torch.float32, device=hidden_NC.device)
        grad_hidden_NC = torch.empty_like(hidden_NC)
        grad_head_VC = torch.zeros_like(head_VC, dtype=torch.float32)
        for start in range(0, len(targets_N), CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            hidden_KC, targets_K1 = hidden_NC[rows], targets_N[rows, None]
            logits_KV = F.linear(hidden_KC, weight_VC).float()
            logits_KV[:, vocab_size:] = -torch.inf
            log_normaliser_K1 = logits_KV.logsumexp(-1, keepdim=True)
            nats += (log_normaliser_K1 - logits_KV.gather(1, targets_K1)).sum()
            # d nats / d logits = softmax - one-hot, written over the logits
            grad_KV = logits_KV.sub_(log_normaliser_K1).exp_()
            grad_KV.scatter_add_(1, targets_K1, grad_KV.new_full(targets_K1.shape, -1.0))
            grad_KV = grad_KV.to(dtype)
            torch.mm(grad_KV, weight_VC, out=grad_hidden_NC[rows])
            grad_head_VC += grad_KV.t() @ hidden_KC
        ctx.save_for_backward(grad_hidden_NC, grad_head_VC)
        ctx.head_dtype = head_VC.dtype
        return nats

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, None, None]:  # noqa: ANN401
        (grad_nats,) = grad_outputs
        grad_hidden_NC, grad_head_VC = ctx.saved_tensors
        # The scale is applied in fp32: fp16 could lose a small loss scale, bf16 its last digits.
        grad_hidden_NC = (grad_hidden_NC.float() * grad_nats).to(grad_hidden_NC.dtype)
        return grad_hidden_NC, (grad_head_VC * grad_nats).to(ctx.head_dtype), None, None
