"""Logits into losses and, in the same memory, into the gradients of the losses.

Shapes: K rows, V vocabulary as padded in memory.

d nats / d logits = softmax - one-hot. On CUDA one kernel does it (`model/softmax_kernel.py`); elsewhere plain torch,
a few rows at a time, so that what lies between stays in the processor's cache. Both compute in fp32, whatever dtype the
logits have.
"""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from tunesmith.backends import choose_kernels, device_here, triton_here

BLOCK_ROWS = {"cpu": 16, "cuda": 512}
"""Of 50,304 entries in fp32 they take 3 MB of a processor's cache, 100 MB on a card."""
NATS_ROWS = {"cpu": 512, "cuda": 256}
"""Rows whose losses alone are computed at a time in plain torch, which needs two fp32 copies of them."""


def nats_and_gradient(logits_KV: Tensor, targets_K: Tensor, vocab_size: int, *, out_K: Tensor) -> None:
    """Write each row's cross-entropy in nats to `out_K` and its gradient over the logits themselves.

    Args:
        logits_KV: in any floating dtype, contiguous; overwritten.
        targets_K: int64, each below `vocab_size`; a row whose target is negative gets no loss and no gradient.
        vocab_size: columns that are real; the others get no probability.
        out_K: fp32, overwritten.
    """
    if logits_KV.is_cuda and has_triton():
        from tunesmith.model.softmax_kernel import launch

        launch(logits_KV, targets_K, vocab_size, out_K=out_K)
        return
    n_rows = BLOCK_ROWS[logits_KV.device.type]
    for start in range(0, len(logits_KV), n_rows):
        rows = slice(start, start + n_rows)
        _plain(logits_KV[rows], targets_K[rows], vocab_size, out_K[rows])


def nats_of(logits_KV: Tensor, targets_K: Tensor, vocab_size: int, *, out_K: Tensor) -> None:
    """Write each row's cross-entropy in nats to `out_K`, without a gradient.

    Args:
        logits_KV: in any floating dtype, contiguous; left as they are.
        targets_K: int64, each from 0 to `vocab_size` - 1.
        vocab_size: columns that are real; the others get no probability.
        out_K: fp32, overwritten.
    """
    if logits_KV.is_cuda and has_triton():
        from tunesmith.model.softmax_kernel import launch

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
    return choose_kernels(device_here(torch.device("cuda", index)), triton_here(index)).value == "triton"


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
