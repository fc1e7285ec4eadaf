"""`sampling_batched.sample_tokens` as one Triton kernel: a program for each row, no sort and no running sum in memory.

Shapes: N sequences, V vocabulary.

The least likely token that top-k and top-p keep is searched for among the bits of fp32 numbers, a quarter of the range
at a time, with a pass over the row each, which lies in the L2 cache. Probabilities are summed as integers, so that no
sum depends on an order: the same row and random number give the same token on every GPU, whatever the other rows are.

Against the sort, a token is kept or left out otherwise only where the mass above it is within rounding (2^-22 for each
exponential, 2^-46 for each sum) of `top_p`. Tokens that lie equally far below the likeliest one stay or go together.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK_COLUMNS = 4096
WARPS = 16
COLUMNS_MULTIPLE = 64
"""Of fp32 scratch: rows begin where 16 bytes can be loaded at a time."""
FP_FUSION = True
"""Whether a multiplication and an addition may become one rounding; fixed, because Triton's default changes in 3.10."""


def launch(
    logits_NV: Tensor,
    temperature_N1: Tensor,
    is_greedy_N: Tensor,
    top_k_N1: Tensor,
    top_p_N1: Tensor,
    log_min_p_N1: Tensor,
    uniform_N: Tensor,
) -> Tensor:
    """Sample a token for every row, int64 [N].

    Args:
        logits_NV: fp32, -infinity for excluded tokens.
        temperature_N1: fp32.
        is_greedy_N: bool, whether the likeliest token is taken, the first of several.
        top_k_N1: int64, V where all are kept.
        top_p_N1: fp32, 1 where all are kept.
        log_min_p_N1: fp32, -infinity where all are kept.
        uniform_N: float64, the random number of each row from [0, 1).
    """
    n_rows, n_columns = logits_NV.shape
    assert logits_NV.stride(1) == 1
    sampled_N = torch.empty(n_rows, dtype=torch.int64, device=logits_NV.device)
    width = -(-n_columns // COLUMNS_MULTIPLE) * COLUMNS_MULTIPLE
    below_NV = torch.empty((n_rows, width), dtype=torch.float32, device=logits_NV.device)
    if n_rows:
        with torch.cuda.device_of(logits_NV):
            _sample[(n_rows,)](
                logits_NV,
                below_NV,
                temperature_N1,
                is_greedy_N,
                top_k_N1,
                top_p_N1,
                log_min_p_N1,
                uniform_N,
                sampled_N,
                n_columns,
                logits_NV.stride(0),
                width,
                BLOCK=BLOCK_COLUMNS,
                num_warps=WARPS,
                enable_fp_fusion=FP_FUSION,
            )
    return sampled_N


@triton.jit  # type: ignore[untyped-decorator]
def _keys(below_ptr, start, width, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """How far tokens lie below the likeliest one, as the bits of that number, int32: the same order, from 0 on."""
    at = start + tl.arange(0, BLOCK)
    return tl.load(below_ptr + at, mask=at < width, other=float("inf")).to(tl.int32, bitcast=True)


@triton.jit
def _masses(keys):  # type: ignore[no-untyped-def]
    """Probabilities over that of the likeliest token, in units of 2^-46, int64: 50,257 of them do not overflow."""
    return (tl.exp(-keys.to(tl.float32, bitcast=True)) * 70368744177664.0).to(tl.int64)


@triton.jit  # type: ignore[untyped-decorator]
def _least_key(  # type: ignore[no-untyped-def]
    below_ptr, width, highest, needed, BY_MASS: tl.constexpr, BLOCK: tl.constexpr
):
    """The smallest key such that the tokens up to it are enough, in number or in mass; all up to `highest` are."""
    low = highest * 0
    high = highest
    while low < high:
        middle = low + (high - low) // 2
        lower = low + (middle - low) // 2
        upper = middle + (high - middle) // 2
        if BY_MASS:
            sum_lower = tl.zeros([BLOCK], tl.int64)
            sum_middle = tl.zeros([BLOCK], tl.int64)
            sum_upper = tl.zeros([BLOCK], tl.int64)
        else:
            sum_lower = tl.zeros([BLOCK], tl.int32)
            sum_middle = tl.zeros([BLOCK], tl.int32)
            sum_upper = tl.zeros([BLOCK], tl.int32)
        for start in range(0, width, BLOCK):
            keys = _keys(below_ptr, start, width, BLOCK)
            each = _masses(keys) if BY_MASS else keys * 0 + 1
            sum_lower += tl.where(keys <= lower, each, 0)
            sum_middle += tl.where(keys <= middle, each, 0)
            sum_upper += tl.where(keys <= upper, each, 0)
        enough_lower = tl.sum(sum_lower, axis=0) >= needed
        enough_middle = tl.sum(sum_middle, axis=0) >= needed
        enough_upper = tl.sum(sum_upper, axis=0) >= needed
        low = tl.where(
            enough_lower, low, tl.where(enough_middle, lower + 1, tl.where(enough_upper, middle + 1, upper + 1))
        )
        high = tl.where(enough_lower, lower, tl.where(enough_middle, middle, tl.where(enough_upper, upper, high)))
    return high


@triton.jit  # type: ignore[untyped-decorator]
def _mass_up_to(below_ptr, width, highest, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Of all tokens up to a key."""
    total = tl.zeros([BLOCK], tl.int64)
    for start in range(0, width, BLOCK):
        keys = _keys(below_ptr, start, width, BLOCK)
        total += tl.where(keys <= highest, _masses(keys), 0)
    return tl.sum(total, axis=0)


@triton.jit  # type: ignore[untyped-decorator]
def _highest_kept(below_ptr, n_columns, width, top_k, top_p, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """The key of the least likely token that top-k and top-p keep."""
    highest = top_k * 0 + 0x7F800000  # infinity
    if top_k < n_columns:
        highest = _least_key(below_ptr, width, highest, top_k, False, BLOCK)
    if top_p < 1:
        mass = _mass_up_to(below_ptr, width, highest, BLOCK).to(tl.float64)
        needed = tl.maximum(tl.ceil(mass * top_p.to(tl.float64)).to(tl.int64), 1)
        highest = _least_key(below_ptr, width, highest, needed, True, BLOCK)
    return highest


@triton.jit  # type: ignore[untyped-decorator]
def _sample(  # type: ignore[no-untyped-def]
    logits_ptr,  # fp32 [rows, stride]
    below_ptr,  # fp32 [rows, width], scratch: nats below the likeliest token, at its temperature
    temperature_ptr,
    is_greedy_ptr,
    top_k_ptr,
    top_p_ptr,
    log_min_p_ptr,
    uniform_ptr,
    sampled_ptr,
    n_columns,
    stride,
    width,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    logits_ptr += row * stride
    below_ptr += row * width
    lanes = tl.arange(0, BLOCK)
    largest = tl.full([BLOCK], -float("inf"), tl.float32)
    where_largest = tl.zeros([BLOCK], tl.int32)
    for start in range(0, n_columns, BLOCK):
        at = start + lanes
        x = tl.load(logits_ptr + at, mask=at < n_columns, other=-float("inf"))
        where_largest = tl.where(x > largest, at, where_largest)
        largest = tl.maximum(largest, x)
    row_largest = tl.max(largest, axis=0)
    if tl.load(is_greedy_ptr + row):
        first = tl.min(tl.where(largest == row_largest, where_largest, n_columns), axis=0)
        tl.store(sampled_ptr + row, first.to(tl.int64))
        return
    temperature = tl.load(temperature_ptr + row)
    for start in range(0, width, BLOCK):
        at = start + lanes
        x = tl.load(logits_ptr + at, mask=at < n_columns, other=-float("inf"))
        below = tl.div_rn(row_largest - x, temperature + tl.zeros([BLOCK], tl.float32))
        below = tl.where(at < n_columns, below, float("inf"))
        tl.store(below_ptr + at, below, mask=at < width)
    tl.debug_barrier()  # what one warp has written is read by others

    top_k = tl.load(top_k_ptr + row).to(tl.int32)
    highest = _highest_kept(below_ptr, n_columns, width, top_k, tl.load(top_p_ptr + row), BLOCK)
    farthest = (-tl.load(log_min_p_ptr + row)).to(tl.int32, bitcast=True) & 0x7FFFFFFF
    highest = tl.minimum(highest, farthest)

    total = _mass_up_to(below_ptr, width, highest, BLOCK)
    drawn = tl.minimum((tl.load(uniform_ptr + row) * total.to(tl.float64)).to(tl.int64), total - 1)
    reached = total * 0
    before = total * 0
    block = tl.program_id(0) * 0
    for start in range(0, width, BLOCK):
        keys = _keys(below_ptr, start, width, BLOCK)
        here = tl.sum(tl.where(keys <= highest, _masses(keys), 0), axis=0)
        is_here = (reached <= drawn) & (drawn < reached + here)
        block = tl.where(is_here, start, block)
        before = tl.where(is_here, reached, before)
        reached += here
    keys = _keys(below_ptr, block, width, BLOCK)
    sums = before + tl.cumsum(tl.where(keys <= highest, _masses(keys), 0), axis=0)
    tl.store(sampled_ptr + row, tl.min(tl.where(sums > drawn, block + lanes, n_columns), axis=0).to(tl.int64))
