"""Cross-entropy over the vocabulary, without ever holding tokens x vocabulary.

Shapes: N tokens, M of them predicted, C channels, V vocabulary as padded in memory, K rows of a chunk, S rows of a
    slice of the head.

The logits of 1,024 tokens over 50,257 entries take 200 MB in fp32, several times over in a plain
implementation. Here a chunk of rows at a time is projected into one buffer, turned there into losses and into
gradients (`cross_entropy_backward_`), and multiplied back at once, so that the forward pass keeps the two finished
gradients and the backward pass only scales them. All losses are natural logarithms ("nats") and sums, never means:
dividing by the tokens of a whole step is the caller's business.
"""

from functools import cache
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from tunesmith.backends import detect_device, probe_triton, resolve_kernels
from tunesmith.model.gpt2_config import EVALUATION_CHUNK_ROWS, LOSS_CHUNK_ROWS, LOSS_HEAD_SLICES

ROWS_MULTIPLE = 64


def fused_linear_cross_entropy(
    hidden_NC: Tensor, head_VC: Tensor, targets_M: Tensor, vocab_size: int, *, rows_M: Tensor | None = None
) -> Tensor:
    """Summed cross-entropy in nats, a differentiable fp32 scalar.

    Args:
        hidden_NC: hidden states in the compute dtype.
        head_VC: output projection, in the dtype it is kept in; its gradient comes back in that dtype.
        targets_M: int64 ids of the tokens to predict, each below `vocab_size`.
        vocab_size: rows of `head_VC` that are real; the others pad it and get no probability.
        rows_M: int64, the hidden state that predicts each target, none twice; by default all of them.
            The others are not projected at all.
    """
    nats = _SumOfNats.apply(hidden_NC, head_VC, targets_M, vocab_size, rows_M)  # type: ignore[no-untyped-call]
    return cast("Tensor", nats)


@torch.no_grad()
def token_cross_entropy(hidden_NC: Tensor, head_VC: Tensor, targets_N: Tensor, vocab_size: int) -> Tensor:
    """Cross-entropy of each token in nats, [N] in fp32, without gradients."""
    weight_VC = _weight_for_logits(head_VC, hidden_NC, vocab_size)
    nats_N = torch.empty(len(targets_N), dtype=torch.float32, device=hidden_NC.device)
    n_rows = EVALUATION_CHUNK_ROWS[hidden_NC.device.type]
    for start in range(0, len(targets_N), n_rows):
        rows = slice(start, start + n_rows)
        cross_entropy_of_rows(F.linear(hidden_NC[rows], weight_VC), targets_N[rows], vocab_size, out_K=nats_N[rows])
    return nats_N


def centered_head(head_VC: Tensor, vocab_size: int, dtype: torch.dtype) -> Tensor:
    """The head less its mean row, which takes the same number from all of a token's logits.

    No probability changes, and neither does a gradient: the gradient of a token's logits sums to 0. GPT-2's logits lie
    around -100, where neighbors in bf16 are half a nat apart; around 0 they are much closer.

    Args:
        head_VC: output projection with its padded rows.
        vocab_size: rows that are real.
        dtype: of the copy, [V, C].
    """
    mean_C = head_VC[:vocab_size].mean(dim=0, dtype=torch.float32)
    return torch.sub(head_VC, mean_C, out=torch.empty_like(head_VC, dtype=dtype))


def _weight_for_logits(head_VC: Tensor, hidden_NC: Tensor, vocab_size: int) -> Tensor:
    """The head in the dtype of the hidden states; centered where that dtype is too coarse for GPT-2's logits."""
    if _centers(hidden_NC):
        return centered_head(head_VC, vocab_size, hidden_NC.dtype)
    return head_VC.to(hidden_NC.dtype)


def _centers(hidden_NC: Tensor) -> bool:
    """Whether logits are computed from a centered head: on a GPU in 16 bits, where the head is copied in any case."""
    return hidden_NC.is_cuda and hidden_NC.dtype.itemsize == 2


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
        weight_VC = _weight_for_logits(head_VC, hidden_NC, vocab_size)
        n_targets = len(targets_M)
        # Matrix products prepare themselves for every new number of rows: the last chunk is filled up.
        filling = -n_targets % ROWS_MULTIPLE
        targets_M = F.pad(targets_M, (0, filling), value=-1)
        n_rows = max(min(LOSS_CHUNK_ROWS[device.type], len(targets_M)), 1)
        states_KC = torch.zeros(n_rows, hidden_NC.shape[1], dtype=dtype, device=device)
        buffer_KV = torch.empty(n_rows, len(head_VC), dtype=dtype, device=device)
        learns_head = ctx.needs_input_grad[1]
        nats_M = torch.empty(len(targets_M), dtype=torch.float32, device=device)
        grad_hidden_NC = torch.zeros_like(hidden_NC)
        grad_head_VC = torch.zeros_like(head_VC, dtype=torch.float32) if learns_head else None
        product_SC = _product_buffer(head_VC, dtype) if learns_head else None
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
            cross_entropy_backward_(logits_KV, targets_K, vocab_size, out_K=nats_M[chunk])  # logits become gradients
            grad_hidden_NC[chosen] = torch.mm(logits_KV, weight_VC)[:n_real]
            if grad_head_VC is not None:
                _add_product(grad_head_VC, logits_KV, hidden_KC, product_SC)
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


def _product_buffer(head_VC: Tensor, dtype: torch.dtype) -> Tensor | None:
    """What a slice of the head's gradient is computed in before it is added to the fp32 sum; None on a GPU.

    Never fp16: no loss scale has been applied yet, and a token that the model gives no probability, a few hundred times
    in a chunk, takes the product beyond 65,504.
    """
    if head_VC.is_cuda:
        return None
    slice_rows = -(-len(head_VC) // LOSS_HEAD_SLICES)
    return head_VC.new_empty(slice_rows, head_VC.shape[1], dtype=torch.float32 if dtype == torch.float16 else dtype)


def _add_product(sum_VC: Tensor, grad_KV: Tensor, hidden_KC: Tensor, product_SC: Tensor | None) -> None:
    """Add a chunk's gradient of the head, grad_KV^T hidden_KC, to the fp32 sum; `product_SC` is overwritten."""
    if product_SC is not None:
        hidden_KC = hidden_KC.to(product_SC.dtype)
        slices = zip(sum_VC.split(len(product_SC)), grad_KV.split(len(product_SC), dim=1), strict=True)
        for sum_SC, grad_KS in slices:
            sum_SC.add_(torch.mm(grad_KS.t().to(product_SC.dtype), hidden_KC, out=product_SC[: len(sum_SC)]))
    elif hidden_KC.dtype == torch.float32:
        sum_VC.addmm_(grad_KV.t(), hidden_KC)
    else:  # the product itself adds in fp32
        torch.addmm(sum_VC, grad_KV.t(), hidden_KC, out_dtype=torch.float32, out=sum_VC)


BLOCK_ROWS = {"cpu": 16, "cuda": 512}
"""Of 50,304 entries in fp32 they take 3 MB of a CPU's cache, 100 MB on a GPU."""
NATS_ROWS = {"cpu": 512, "cuda": 256}
"""Rows whose losses alone are computed at a time in plain torch, which needs two fp32 copies of them."""


def cross_entropy_backward_(logits_KV: Tensor, targets_K: Tensor, vocab_size: int, *, out_K: Tensor) -> None:
    """Write each row's cross-entropy in nats to `out_K` and its gradient over the logits themselves.

    Args:
        logits_KV: in any floating dtype, contiguous; overwritten.
        targets_K: int64, each below `vocab_size`; a row whose target is negative gets no loss and no gradient.
        vocab_size: columns that are real; the others get no probability.
        out_K: fp32, overwritten.
    """
    if logits_KV.is_cuda and has_triton():
        from tunesmith.model.loss_triton import launch

        launch(logits_KV, targets_K, vocab_size, out_K=out_K)
        return
    n_rows = BLOCK_ROWS[logits_KV.device.type]
    for start in range(0, len(logits_KV), n_rows):
        rows = slice(start, start + n_rows)
        _plain(logits_KV[rows], targets_K[rows], vocab_size, out_K[rows])


def cross_entropy_of_rows(logits_KV: Tensor, targets_K: Tensor, vocab_size: int, *, out_K: Tensor) -> None:
    """Write each row's cross-entropy in nats to `out_K`, without a gradient.

    Args:
        logits_KV: in any floating dtype, contiguous; left as they are.
        targets_K: int64, each from 0 to `vocab_size` - 1.
        vocab_size: columns that are real; the others get no probability.
        out_K: fp32, overwritten.
    """
    if logits_KV.is_cuda and has_triton():
        from tunesmith.model.loss_triton import launch

        launch(logits_KV, targets_K, vocab_size, out_K=out_K, writes_gradient=False)
        return
    n_rows = NATS_ROWS[logits_KV.device.type]
    for start in range(0, len(logits_KV), n_rows):
        rows = slice(start, start + n_rows)
        logits_SV = logits_KV[rows, :vocab_size].float()
        out_K[rows] = F.cross_entropy(logits_SV, targets_K[rows], reduction="none")


def has_triton() -> bool:
    """Whether Triton kernels run on the current GPU, as `tunesmith.backends` decides."""
    return _uses_triton(torch.cuda.current_device())


@cache
def _uses_triton(index: int) -> bool:
    return resolve_kernels(detect_device(torch.device("cuda", index)), probe_triton(index)).value == "triton"


def _plain(logits_KV: Tensor, targets_K: Tensor, vocab_size: int, out_K: Tensor) -> None:
    asked_K1 = (targets_K >= 0)[:, None]
    targets_K1 = targets_K.clamp(min=0)[:, None]
    x_KV = logits_KV.float()
    x_KV[:, vocab_size:] = -torch.inf
    largest_K1 = x_KV.amax(-1, keepdim=True)
    of_target_K1 = x_KV.gather(1, targets_K1)
    x_KV = x_KV.sub_(largest_K1).exp_()
    sum_K1 = x_KV.sum(-1, keepdim=True)
    nats_K1 = largest_K1 + sum_K1.log() - of_target_K1
    x_KV.mul_(asked_K1 / sum_K1)
    x_KV.scatter_add_(1, targets_K1, -asked_K1.to(x_KV.dtype))
    out_K.copy_((nats_K1 * asked_K1).squeeze(1))
    logits_KV.copy_(x_KV)
