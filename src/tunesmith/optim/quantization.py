"""Adam's moments in 8 or 4 bits: a code for each number and a scale for each block of them.

Shapes: B blocks of S = 128 numbers next to each other in memory.

    number = sign * (level / levels)^4 * the block's largest magnitude

Levels that lie as fourth powers are fine where most numbers are and still reach down to 10^-9 (8 bits) or 10^-5 (4
bits) of the largest. The second moment changes by a thousandth in a step, less than the distance between levels, and so
would never change if it were rounded to the nearest: it is rounded stochastically, and so are the first moment's
4 bits. It never becomes 0 by rounding, since the update divides by its root.

References: Dettmers et al. 2021, "8-bit Optimizers via Block-wise Quantization"; Li et al. 2023, "Memory Efficient
Optimizers with 4-bit States" (zero must not be a level of the second moment).
"""

from hashlib import blake2b

import torch
from torch import Tensor

from tunesmith.optim.state_format import BLOCK, QuantFormat

SMALLEST_SCALE = torch.finfo(torch.float32).tiny


def quantized_zeros(code: QuantFormat, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Codes and scales of that many zeros."""
    zero = code.levels if code.signed else 0
    byte = zero | zero << 4 if code.bits == 4 else zero
    codes = torch.full((count * code.bits // 8,), byte, dtype=torch.uint8, device=device)
    return codes, torch.zeros(count // BLOCK, dtype=torch.float32, device=device)


def dequantize(code: QuantFormat, codes: Tensor, scales_B: Tensor) -> Tensor:
    """The numbers, fp32 [B, S]."""
    if code.bits == 4:
        codes_BH = codes.view(len(scales_B), BLOCK // 2)
        level_BS = torch.cat([codes_BH & 15, codes_BH >> 4], dim=1).float()
    else:
        level_BS = codes.view(len(scales_B), BLOCK).float()
    if code.signed:
        level_BS -= code.levels
    root_BS = level_BS.div_(code.levels)
    square_BS = root_BS.square()
    magnitude_BS = square_BS.square_().mul_(scales_B[:, None])
    return magnitude_BS.copysign_(root_BS) if code.signed else magnitude_BS


def quantize_(code: QuantFormat, numbers_BS: Tensor, codes: Tensor, scales_B: Tensor, chance_BS: Tensor | None) -> None:
    """Put fp32 numbers into codes and scales, which are overwritten.

    Args:
        code: how.
        numbers_BS: what to quantize.
        codes: uint8, as `zeros` makes them.
        scales_B: fp32.
        chance_BS: fp32, random in [0, 1), to round so that the mean is the number; None rounds to the nearest
            level.
    """
    magnitude_BS = numbers_BS.abs()
    torch.amax(magnitude_BS, dim=1, out=scales_B)
    magnitude_BS /= scales_B.clamp(min=SMALLEST_SCALE)[:, None]
    height_BS = magnitude_BS.sqrt().sqrt_().mul_(code.levels)
    if chance_BS is None:
        level_BS = height_BS.round_()
    else:
        level_BS = height_BS.floor_()
        below_BS = (level_BS / code.levels).pow_(4)
        above_BS = ((level_BS + 1) / code.levels).pow_(4)
        level_BS += chance_BS * (above_BS - below_BS) < magnitude_BS - below_BS
    if code.signed:
        level_BS = level_BS.copysign_(numbers_BS).add_(code.levels)
    else:
        level_BS = torch.maximum(level_BS, (magnitude_BS > 0).float())
    if code.bits == 4:
        byte_BS = level_BS.to(torch.uint8)
        low_BH, high_BH = byte_BS.split(BLOCK // 2, dim=1)
        codes.view(len(scales_B), BLOCK // 2).copy_(low_BH | high_BH << 4)
    else:
        codes.view(len(scales_B), BLOCK).copy_(level_BS)


HALF = 1 << 15
QUIET_NAN = 0x7FC00000
"""A NaN that stays one when its lower half is rounded; a GPU's own, 0x7FFFFFFF, would become -0."""


def split_fp32(value: Tensor) -> tuple[Tensor, Tensor]:
    """An fp32 tensor as its nearest bf16 (ties upwards in magnitude) and an int16 remainder; nothing is lost."""
    bits = value.view(torch.int32)
    upper = (bits + HALF) >> 16
    remainder = bits - (upper << 16)
    return upper.to(torch.int16).view(torch.bfloat16), remainder.to(torch.int16)


def merge_fp32(upper: Tensor, remainder: Tensor) -> Tensor:
    """The fp32 tensor that `split` took apart."""
    return ((upper.view(torch.int16).to(torch.int32) << 16) + remainder.to(torch.int32)).view(torch.float32)


def round_stochastic_bf16(value: Tensor, bits: Tensor) -> Tensor:
    """An fp32 tensor rounded to bf16 so that the mean of many roundings is the value.

    Args:
        value: fp32.
        bits: int32 of the same shape, of which the lowest 16 are random.
    """
    value_bits = value.view(torch.int32).masked_fill(value.isnan(), QUIET_NAN)
    upper = (value_bits + (bits & 0xFFFF)) >> 16
    return upper.to(torch.int16).view(torch.bfloat16)


def seed_for(*numbers: int) -> int:
    """A seed of 63 bits that these numbers decide."""
    name = ",".join(map(str, numbers)).encode()
    return int.from_bytes(blake2b(name, digest_size=8).digest(), "little") >> 1


def generator_for(device: torch.device, *numbers: int) -> torch.Generator:
    """A generator that these numbers decide."""
    return torch.Generator(device).manual_seed(seed_for(*numbers))


def random_int31(count: int, generator: torch.Generator) -> Tensor:
    """int32 [count], each from 0 to 2^31 - 1."""
    return torch.empty(count, dtype=torch.int32, device=generator.device).random_(generator=generator)
