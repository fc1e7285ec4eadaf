"""Cross-entropy and its gradient as one Triton kernel: a program for each row, two passes over it.

The first pass keeps a running maximum and a running sum of exponentials in every lane (Milakov & Gimelshein 2018,
"Online normalizer calculation for softmax"); the second, which evaluation leaves out, writes the gradient over the
logits. All arithmetic is fp32.

Triton comes with torch's CUDA builds for Linux; this module is imported where it is there.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK_COLUMNS = 4096
WARPS = 8
FP_FUSION = True
"""Whether a multiplication and an addition may become one rounding; fixed, because Triton's default changes in 3.10."""


def launch(
    logits_KV: Tensor, targets_K: Tensor, vocab_size: int, *, out_K: Tensor, writes_gradient: bool = True
) -> None:
    """As `tunesmith.model.loss.cross_entropy_backward_`, whose arguments these are.

    Args:
        logits_KV: overwritten with the gradient, or left as it is.
        targets_K: int64.
        vocab_size: columns that are real.
        out_K: fp32.
        writes_gradient: False computes the losses alone.
    """
    assert logits_KV.is_contiguous()
    n_rows, n_columns = logits_KV.shape
    if n_rows:
        with torch.cuda.device_of(logits_KV):  # Triton launches on the current GPU
            _nats_and_gradient[(n_rows,)](
                logits_KV,
                targets_K,
                out_K,
                vocab_size,
                n_columns,
                WRITES_GRADIENT=writes_gradient,
                BLOCK=BLOCK_COLUMNS,
                num_warps=WARPS,
                enable_fp_fusion=FP_FUSION,
            )


@triton.jit  # type: ignore[untyped-decorator]
def _nats_and_gradient(  # type: ignore[no-untyped-def]
    logits_ptr,  # [rows, n_columns]
    targets_ptr,  # int64 [rows]
    nats_ptr,  # fp32 [rows]
    vocab_size,
    n_columns,
    WRITES_GRADIENT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    logits_ptr += row * n_columns
    target = tl.load(targets_ptr + row)
    asked = tl.where(target >= 0, 1.0, 0.0)
    at_target = tl.where(target >= 0, target, 0)
    # Before anything is stored: another warp may be in the second pass already while this one is still here.
    of_target = tl.load(logits_ptr + at_target).to(tl.float32)
    columns = tl.arange(0, BLOCK)
    largest = tl.full([BLOCK], -float("inf"), tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, n_columns, BLOCK):
        at = start + columns
        # Masked by the padded width, a multiple of 128, so that 16 bytes are loaded at a time.
        x = tl.load(logits_ptr + at, mask=at < n_columns, other=-float("inf")).to(tl.float32)
        x = tl.where(at < vocab_size, x, -float("inf"))
        larger = tl.maximum(largest, x)
        shift = tl.where(larger == -float("inf"), 0.0, larger)  # a lane that has seen nothing yet
        total = total * tl.exp(largest - shift) + tl.exp(x - shift)
        largest = larger
    row_largest = tl.max(largest, axis=0)
    row_total = tl.sum(total * tl.exp(largest - row_largest), axis=0)
    log_normalizer = row_largest + tl.log(row_total)
    tl.store(nats_ptr + row, asked * (log_normalizer - of_target))
    if WRITES_GRADIENT:
        for start in range(0, n_columns, BLOCK):
            at = start + columns
            x = tl.load(logits_ptr + at, mask=at < n_columns, other=-float("inf")).to(tl.float32)
            x = tl.where(at < vocab_size, x, -float("inf"))
            gradient = tl.exp(x - log_normalizer) - tl.where(at == at_target, 1.0, 0.0)
            tl.store(logits_ptr + at, (asked * gradient).to(logits_ptr.dtype.element_ty), mask=at < n_columns)
