"""Between fp32 and bf16, which is its upper half: exactly in two parts, or rounded by chance.

A weight near 1 has bf16 neighbours 0.004 to 0.008 away, and fine-tuning moves it by 0.00005: rounded to the nearest, it
never moves. Rounded up with the probability of how far up it lies, it moves rightly on average.

Reference: Gupta et al. 2015, "Deep Learning with Limited Numerical Precision".
"""

import torch
from torch import Tensor

HALF = 1 << 15
QUIET_NAN = 0x7FC00000
"""A NaN that stays one when its lower half is rounded; a GPU's own, 0x7FFFFFFF, would become -0."""


def split(value: Tensor) -> tuple[Tensor, Tensor]:
    """An fp32 tensor as its nearest bf16 (ties upwards in magnitude) and an int16 remainder; nothing is lost."""
    bits = value.view(torch.int32)
    upper = (bits + HALF) >> 16
    remainder = bits - (upper << 16)
    return upper.to(torch.int16).view(torch.bfloat16), remainder.to(torch.int16)


def join(upper: Tensor, remainder: Tensor) -> Tensor:
    """The fp32 tensor that `split` took apart."""
    return ((upper.view(torch.int16).to(torch.int32) << 16) + remainder.to(torch.int32)).view(torch.float32)


def stochastic_bf16(value: Tensor, bits: Tensor) -> Tensor:
    """An fp32 tensor rounded to bf16 so that the mean of many roundings is the value.

    Args:
        value: fp32.
        bits: int32 of the same shape, of which the lowest 16 are random.
    """
    value_bits = value.view(torch.int32).masked_fill(value.isnan(), QUIET_NAN)
    upper = (value_bits + (bits & 0xFFFF)) >> 16
    return upper.to(torch.int16).view(torch.bfloat16)
