"""What `low_bit_adamw` does in plain torch as Triton kernels: every number is read and written once.

Shapes: a program updates B blocks of S = 128 numbers, [B, 2, S / 2]; with 4 bits the two halves of a block share bytes.

Random bits come from Philox, whose counter is the number's place in the matrix, the step and the accumulation: a
resumed run draws the same ones, and the step may be known to the GPU alone. Which step it is depends on whether the
steps before were finite, and the host does not wait for that.

Reference: Salmon et al. 2011, "Parallel Random Numbers: As Easy as 1, 2, 3" (Philox).
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from tunesmith.optim.low_bit_adamw import AdamWHyperparams
from tunesmith.optim.state_format import BLOCK, StateFormat

BLOCKS_PER_PROGRAM = 8
LANES = 1024
"""Numbers that a program accumulates eight times over: a call of Philox has 8 x 16 bits."""
FP_FUSION = True
"""Whether a multiplication and an addition may become one rounding; fixed, because Triton's default changes in 3.10."""


def launch(
    weight: Tensor,
    gradient: Tensor,
    state: dict[str, Tensor],
    plan: StateFormat,
    rates: AdamWHyperparams,
    *,
    seed: int,
    found_inf: Tensor | None = None,
) -> None:
    """Update a weight and its state in place.

    Args:
        weight: fp32, or bf16 with `state["remainder"]` or without; contiguous.
        gradient: of the same shape.
        state: compressed moments, and the `step` where the weight is, which has been counted already.
        plan: how they are kept.
        rates: numbers of this step.
        seed: of all stochastic rounding, the same in every step.
        found_inf: fp32 scalar, where the weight is; unless it is 0 nothing is changed.
    """
    n_blocks = weight.numel() // BLOCK
    first, second = plan.moments
    with torch.cuda.device_of(weight):  # Triton launches on the current GPU
        _update[(triton.cdiv(n_blocks, BLOCKS_PER_PROGRAM),)](
            weight.view(torch.int16) if plan.weights != "fp32" else weight,
            state.get("remainder", weight),
            gradient.contiguous(),
            state["exp_avg_codes"],
            state["exp_avg_scales"],
            state["exp_avg_sq_codes"],
            state["exp_avg_sq_scales"],
            state["step"],
            found_inf,
            n_blocks,
            1 - rates.learning_rate * rates.weight_decay,
            rates.learning_rate,
            1 - rates.beta1,
            math.log(rates.beta1),
            rates.beta2,
            1 - rates.beta2,
            math.log(rates.beta2),
            rates.epsilon,
            seed & 0x7FFFFFFF,
            WEIGHTS=("fp32", "split", "bf16").index(plan.weights),
            BITS=plan.moment_bits,
            LEVELS_1=first.levels,
            LEVELS_2=second.levels,
            B=BLOCKS_PER_PROGRAM,
            S=BLOCK,
            enable_fp_fusion=FP_FUSION,
        )


def launch_accumulate(total: Tensor, new: Tensor, step: Tensor, *, seed: int, accumulation: int) -> None:
    """Add a gradient to the sum so far, rounded stochastically; the sum is overwritten.

    Args:
        total: bf16, contiguous.
        new: bf16, of the same shape.
        step: fp32 scalar where they are, of the last update.
        seed: of the parameter.
        accumulation: which one of the step it is.
    """
    count = total.numel()
    with torch.cuda.device_of(total):
        _accumulate[(triton.cdiv(count, 8 * LANES),)](
            total.view(torch.int16),
            new.contiguous().view(torch.int16),
            step,
            count,
            seed & 0x7FFFFFFF,
            accumulation,
            LANES=LANES,
            enable_fp_fusion=FP_FUSION,
        )


@triton.jit
def _add_rounded(total_ptr, new_ptr, at, count, random):  # type: ignore[no-untyped-def]
    """Some numbers of the sum, rounded by 16 random bits."""
    there = at < count
    total = (tl.load(total_ptr + at, mask=there, other=0).to(tl.int32) << 16).to(tl.float32, bitcast=True)
    new = (tl.load(new_ptr + at, mask=there, other=0).to(tl.int32) << 16).to(tl.float32, bitcast=True)
    value = total + new
    bits = tl.where(value == value, value.to(tl.int32, bitcast=True), 0x7FC00000)  # noqa: PLR0124  a NaN stays one
    tl.store(total_ptr + at, ((bits + (random & 0xFFFF).to(tl.int32)) >> 16).to(tl.int16), mask=there)


@triton.jit(do_not_specialize=["seed", "accumulation"])  # type: ignore[untyped-decorator]
def _accumulate(  # type: ignore[no-untyped-def]
    total_ptr, new_ptr, step_ptr, count, seed, accumulation, LANES: tl.constexpr
):
    lane = tl.program_id(0) * LANES + tl.arange(0, LANES)
    zero = lane * 0
    step = tl.load(step_ptr).to(tl.int32)
    r0, r1, r2, r3 = tl.philox(seed, lane, zero + step, zero + accumulation, zero)
    at = tl.program_id(0).to(tl.int64) * (8 * LANES) + tl.arange(0, LANES)
    _add_rounded(total_ptr, new_ptr, at, count, r0)
    _add_rounded(total_ptr, new_ptr, at + LANES, count, r0 >> 16)
    _add_rounded(total_ptr, new_ptr, at + 2 * LANES, count, r1)
    _add_rounded(total_ptr, new_ptr, at + 3 * LANES, count, r1 >> 16)
    _add_rounded(total_ptr, new_ptr, at + 4 * LANES, count, r2)
    _add_rounded(total_ptr, new_ptr, at + 5 * LANES, count, r2 >> 16)
    _add_rounded(total_ptr, new_ptr, at + 6 * LANES, count, r3)
    _add_rounded(total_ptr, new_ptr, at + 7 * LANES, count, r3 >> 16)


@triton.jit
def _one_minus_power(log_base, exponent):  # type: ignore[no-untyped-def]
    """1 - base^exponent for a base below 1, with all digits where that is small: what a moment lacks yet."""
    x = log_base * exponent
    series = 1.0 + x / 7 * (1.0 + x / 8)
    series = 1.0 + x / 4 * (1.0 + x / 5 * (1.0 + x / 6 * series))
    series = 1.0 + x / 2 * (1.0 + x / 3 * series)
    return tl.where(x > -0.5, -x * series, 1.0 - tl.exp(x))


@triton.jit  # type: ignore[untyped-decorator]
def _read_codes(codes_ptr, number, byte, there, half_2, BITS: tl.constexpr):  # type: ignore[no-untyped-def]
    """The codes of all numbers, int32 [B, 2, S / 2]."""
    if BITS == 4:
        codes = (tl.load(codes_ptr + byte, mask=there, other=0).to(tl.int32) >> (half_2 * 4)) & 15
    else:
        codes = tl.load(codes_ptr + number, mask=there, other=0).to(tl.int32)
    return codes


@triton.jit  # type: ignore[untyped-decorator]
def _write_codes(codes_ptr, codes, number, byte, there, half_2, BITS: tl.constexpr):  # type: ignore[no-untyped-def]
    """The other way."""
    if BITS == 4:  # both halves of a block write the same bytes
        both = tl.sum(codes << (half_2 * 4), axis=1)[:, None, :] + half_2 * 0
        tl.store(codes_ptr + byte, both.to(tl.uint8), mask=there & (half_2 == 0))
    else:
        tl.store(codes_ptr + number, codes.to(tl.uint8), mask=there)


@triton.jit  # type: ignore[untyped-decorator]
def _level(magnitude, scale, chance, LEVELS: tl.constexpr, BY_CHANCE: tl.constexpr):  # type: ignore[no-untyped-def]
    """The level of a magnitude in a block whose largest is the scale."""
    share = magnitude / tl.maximum(scale, 1.1754943508222875e-38)[:, None, None]
    height = tl.sqrt(tl.sqrt(share)) * LEVELS
    below = tl.floor(height)
    low = below / LEVELS
    high = (below + 1.0) / LEVELS
    low = low * low * low * low
    high = high * high * high * high
    up = chance * (high - low) < share - low if BY_CHANCE else height - below > 0.5
    return below + up.to(tl.float32)


@triton.jit  # type: ignore[untyped-decorator]
def _read_value(weight_ptr, remainder_ptr, number, there, WEIGHTS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Weights in fp32."""
    if WEIGHTS == 0:
        value = tl.load(weight_ptr + number, mask=there, other=0.0)
    else:
        bits = tl.load(weight_ptr + number, mask=there, other=0).to(tl.int32) << 16
        if WEIGHTS == 1:
            bits += tl.load(remainder_ptr + number, mask=there, other=0).to(tl.int32)
        value = bits.to(tl.float32, bitcast=True)
    return value


@triton.jit  # type: ignore[untyped-decorator]
def _write_value(  # type: ignore[no-untyped-def]
    weight_ptr, remainder_ptr, value, random, number, there, WEIGHTS: tl.constexpr
):
    """Weights in the form they are kept in."""
    bits = value.to(tl.int32, bitcast=True)
    if WEIGHTS == 0:
        tl.store(weight_ptr + number, value, mask=there)
    elif WEIGHTS == 1:
        upper = (bits + 32768) >> 16
        tl.store(weight_ptr + number, upper.to(tl.int16), mask=there)
        tl.store(remainder_ptr + number, (bits - (upper << 16)).to(tl.int16), mask=there)
    else:
        bits = tl.where(value == value, bits, 0x7FC00000)  # noqa: PLR0124  a GPU's own NaN, all ones, would become -0
        tl.store(weight_ptr + number, ((bits + (random & 0xFFFF).to(tl.int32)) >> 16).to(tl.int16), mask=there)


@triton.jit(do_not_specialize=["seed"])  # type: ignore[untyped-decorator]
def _update(  # type: ignore[no-untyped-def]
    weight_ptr,
    remainder_ptr,
    gradient_ptr,
    codes_1_ptr,
    scales_1_ptr,
    codes_2_ptr,
    scales_2_ptr,
    step_ptr,  # fp32 scalar
    found_inf_ptr,  # fp32 scalar, or None
    n_blocks,
    keep,
    rate,
    new_1,
    log_beta1,
    beta2,
    new_2,
    log_beta2,
    epsilon,
    seed,
    WEIGHTS: tl.constexpr,
    BITS: tl.constexpr,
    LEVELS_1: tl.constexpr,
    LEVELS_2: tl.constexpr,
    B: tl.constexpr,
    S: tl.constexpr,
):
    if found_inf_ptr is not None:  # noqa: SIM102  decided when the kernel is compiled, the other when it runs
        if tl.load(found_inf_ptr) != 0:
            return
    step = tl.load(step_ptr)
    rate = rate / _one_minus_power(log_beta1, step)
    unbias_2 = 1.0 / _one_minus_power(log_beta2, step)
    H: tl.constexpr = S // 2
    block_B = tl.program_id(0) * B + tl.arange(0, B)
    there_B = block_B < n_blocks
    half_2 = tl.arange(0, 2)[None, :, None]
    at_H = tl.arange(0, H)[None, None, :]
    number = block_B[:, None, None].to(tl.int64) * S + half_2 * H + at_H
    byte = block_B[:, None, None].to(tl.int64) * H + half_2 * 0 + at_H
    there = there_B[:, None, None] & (number >= 0)

    gradient = tl.load(gradient_ptr + number, mask=there, other=0.0).to(tl.float32)
    scale_1 = tl.load(scales_1_ptr + block_B, mask=there_B, other=0.0)[:, None, None]
    scale_2 = tl.load(scales_2_ptr + block_B, mask=there_B, other=0.0)[:, None, None]
    root_1 = (_read_codes(codes_1_ptr, number, byte, there, half_2, BITS) - LEVELS_1).to(tl.float32) / LEVELS_1
    root_2 = _read_codes(codes_2_ptr, number, byte, there, half_2, BITS).to(tl.float32) / LEVELS_2
    moment_1 = root_1 * root_1 * root_1 * tl.abs(root_1) * scale_1
    moment_2 = root_2 * root_2 * root_2 * root_2 * scale_2
    moment_1 = moment_1 + (gradient - moment_1) * new_1
    moment_2 = moment_2 * beta2 + gradient * gradient * new_2

    value = _read_value(weight_ptr, remainder_ptr, number, there, WEIGHTS)
    value = value * keep - rate * moment_1 / (tl.sqrt(moment_2 * unbias_2) + epsilon)
    place = number.to(tl.int32)
    zero = place * 0
    random, random_1, random_2, _ = tl.philox(seed, place, zero + step.to(tl.int32), zero, zero)
    _write_value(weight_ptr, remainder_ptr, value, random, number, there, WEIGHTS)

    magnitude_1 = tl.abs(moment_1)
    scale_1 = tl.max(tl.max(magnitude_1, axis=2), axis=1)
    scale_2 = tl.max(tl.max(moment_2, axis=2), axis=1)
    tl.store(scales_1_ptr + block_B, scale_1, mask=there_B)
    tl.store(scales_2_ptr + block_B, scale_2, mask=there_B)
    chance_1 = (random_1 >> 8).to(tl.float32) * 5.9604644775390625e-08  # 2^-24
    chance_2 = (random_2 >> 8).to(tl.float32) * 5.9604644775390625e-08
    level_1 = _level(magnitude_1, scale_1, chance_1, LEVELS_1, BITS == 4)
    level_2 = tl.maximum(_level(moment_2, scale_2, chance_2, LEVELS_2, True), (moment_2 > 0).to(tl.float32))
    code_1 = tl.where(moment_1 < 0, LEVELS_1 - level_1, LEVELS_1 + level_1).to(tl.int32)
    _write_codes(codes_1_ptr, code_1, number, byte, there, half_2, BITS)
    _write_codes(codes_2_ptr, level_2.to(tl.int32), number, byte, there, half_2, BITS)
