"""Cross-entropy over the vocabulary, without ever holding tokens x vocabulary.

Shapes: N tokens, M of them predicted, C channels, V vocabulary as padded in memory, K rows of a chunk, S rows of a
    slice of the head.

The logits of 1,024 tokens over 50,257 entries take 200 MB in fp32, several times over in a plain
implementation. Here a chunk of rows at a time is projected into one buffer, turned there into losses and into
gradients (`model/softmax.py`), and multiplied back at once, so that the forward pass leaves the two finished gradients
behind and the backward pass only scales them. All losses are natural logarithms ("nats") and sums, never means:
dividing by the tokens of a whole step is the caller's business.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from tunesmith.model.shape import LOSS_CHUNK_ROWS, LOSS_HEAD_SLICES
from tunesmith.model.softmax import nats_and_gradient

ROWS_MULTIPLE = 64


def sum_of_nats(
    hidden_NC: Tensor, head_VC: Tensor, targets_M: Tensor, vocab_size: int, *, rows_M: Tensor | None = None
) -> Tensor:
    """Summed cross-entropy in nats, a differentiable fp32 scalar.

    Args:
        hidden_NC: hidden states in the compute dtype.
        head_VC: output projection, in the dtype it is kept in; its gradient comes back in that dtype.
        targets_M: int64 ids of the tokens to predict, each below `vocab_size`.
        vocab_size: rows of `head_VC` that are real; the others pad it and get no probability.
        rows_M: int64, the hidden state behind which each target is predicted, none twice; by default all of them.
            The others are not projected at all.
    """
    nats = _SumOfNats.apply(hidden_NC, head_VC, targets_M, vocab_size, rows_M)  # type: ignore[no-untyped-call]
    return cast("Tensor", nats)


@torch.no_grad()
def nats_of_each_token(hidden_NC: Tensor, head_VC: Tensor, targets_N: Tensor, vocab_size: int) -> Tensor:
    """Cross-entropy of each token in nats, [N] in fp32, without gradients."""
    head_VC = head_VC.to(hidden_NC.dtype)
    nats_N = torch.empty(len(targets_N), dtype=torch.float32, device=hidden_NC.device)
    n_rows = LOSS_CHUNK_ROWS[hidden_NC.device.type]
    for start in range(0, len(targets_N), n_rows):
        rows = slice(start, start + n_rows)
        logits_KV = F.linear(hidden_NC[rows], head_VC)[:, :vocab_size].float()
        nats_N[rows] = F.cross_entropy(logits_KV, targets_N[rows], reduction="none")
    return nats_N


class _SumOfNats(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        hidden_NC: Tensor,
        head_VC: Tensor,
        targets_M: Tensor,
        vocab_size: int,
        rows_M: Tensor | None,
    ) -> Tensor:
        dtype, device = hidden_NC.dtype, hidden_NC.device
        weight_VC = head_VC.to(dtype)
        n_targets = len(targets_M)
        # Matrix products prepare themselves for every new number of rows: the last chunk is filled up.
        filling = -n_targets % ROWS_MULTIPLE
        targets_M = F.pad(targets_M, (0, filling), value=-1)
        n_rows = max(min(LOSS_CHUNK_ROWS[device.type], len(targets_M)), 1)
        states_KC = torch.zeros(n_rows, hidden_NC.shape[1], dtype=dtype, device=device)
        buffer_KV = torch.empty(n_rows, len(head_VC), dtype=dtype, device=device)
        learns_head = ctx.needs_input_grad[1]
        slice_rows = -(-len(head_VC) // LOSS_HEAD_SLICES)
        product_SC = torch.empty_like(weight_VC[:slice_rows]) if learns_head else None
        nats_M = torch.empty(len(targets_M), dtype=torch.float32, device=device)
        grad_hidden_NC = torch.zeros_like(hidden_NC)
        grad_head_VC = torch.zeros_like(head_VC, dtype=torch.float32) if learns_head else None
        for start in range(0, len(targets_M), n_rows):
            chunk = slice(start, start + n_rows)
            chosen = slice(start, min(start + n_rows, n_targets)) if rows_M is None else rows_M[chunk]
            hidden_KC = hidden_NC[chosen]
            n_real = len(hidden_KC)
            targets_K = targets_M[chunk]
            if n_real < len(targets_K):
                states_KC[:n_real] = hidden_KC
                hidden_KC = states_KC[: len(targets_K)]
            logits_KV = buffer_KV[: len(targets_K)]
            torch.mm(hidden_KC, weight_VC.t(), out=logits_KV)
            nats_and_gradient(logits_KV, targets_K, vocab_size, out_K=nats_M[chunk])  # logits become gradients
            grad_hidden_NC[chosen] = torch.mm(logits_KV, weight_VC)[:n_real]
            if grad_head_VC is not None and product_SC is not None:
                slices = zip(grad_head_VC.split(slice_rows), logits_KV.split(slice_rows, dim=1), strict=True)
                for sum_SC, logits_KS in slices:
                    sum_SC.add_(torch.mm(logits_KS.t(), hidden_KC, out=product_SC[: len(sum_SC)]))
        ctx.save_for_backward(grad_hidden_NC, grad_head_VC)
        ctx.head_dtype = head_VC.dtype
        return nats_M.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor | None, None, None, None]:  # noqa: ANN401
        (grad_nats,) = grad_outputs
        grad_hidden_NC, grad_head_VC = ctx.saved_tensors
        # The scale is applied in fp32: fp16 could lose a small loss scale, bf16 its last digits.
        grad_hidden_NC = (grad_hidden_NC.float() * grad_nats).to(grad_hidden_NC.dtype)
        if grad_head_VC is not None:
            grad_head_VC = grad_head_VC.mul_(grad_nats).to(ctx.head_dtype)
        return grad_hidden_NC, grad_head_VC, None, None, None
