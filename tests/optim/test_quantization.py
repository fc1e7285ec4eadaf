"""Moments in few bits: how far a number may be off, and what must never happen to it."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from hypothesis.extra import numpy as arrays

from tunesmith.optim.quantization import dequantize, quantize_, quantized_zeros
from tunesmith.optim.state_format import BLOCK, QuantFormat

CODES = [QuantFormat(bits, signed) for bits in (8, 4) for signed in (True, False)]


def level_values(code: QuantFormat) -> torch.Tensor:
    """Every number a block whose largest is 1 can hold, by the definition."""
    above = (torch.arange(code.levels + 1, dtype=torch.float64) / code.levels) ** 4
    return torch.cat([-above.flip(0)[:-1], above]) if code.signed else above


@pytest.mark.parametrize("code", CODES)
def test_zeros_are_zeros(code: QuantFormat) -> None:
    """A fresh state is zero and takes the bytes that the plan counts."""
    codes, scales = quantized_zeros(code, 5 * BLOCK, torch.device("cpu"))
    assert not dequantize(code, codes, scales).any()
    assert codes.nbytes + scales.nbytes == code.bytes_for(5 * BLOCK)


@pytest.mark.parametrize("code", CODES)
@given(numbers=arrays.arrays(np.float32, (3, BLOCK), elements=some.floats(-1e6, 1e6, width=32)))
def test_to_the_nearest_level(code: QuantFormat, numbers: np.ndarray) -> None:
    """What is read is one of the two levels around what was written; the block's largest is exact."""
    numbers_BS = torch.from_numpy(numbers if code.signed else np.abs(numbers))
    codes, scales_B = quantized_zeros(code, numbers_BS.numel(), numbers_BS.device)
    quantize_(code, numbers_BS, codes, scales_B, None)
    found_BS = dequantize(code, codes, scales_B).double()
    levels = level_values(code)
    for row, found, scale in zip(numbers_BS.double(), found_BS, scales_B.double(), strict=True):
        if scale < 1e-30:
            continue
        assert found.abs().max() == pytest.approx(scale.item(), rel=1e-6)
        share, got = row / scale, found / scale
        above = torch.searchsorted(levels, share.contiguous()).clamp(1, len(levels) - 1)
        low, high = levels[above - 1], levels[above]
        assert ((got >= low - 1e-6 * low.abs() - 1e-12) & (got <= high + 1e-6 * high.abs() + 1e-12)).all()


@pytest.mark.parametrize("code", CODES)
def test_rounding_by_chance_is_unbiased(code: QuantFormat) -> None:
    """The mean of many writings is the number."""
    generator = torch.Generator().manual_seed(code.bits)
    numbers_BS = torch.rand(4, BLOCK, generator=generator) + 0.05
    if code.signed:
        numbers_BS *= torch.sign(torch.randn(4, BLOCK, generator=generator))
    codes, scales_B = quantized_zeros(code, numbers_BS.numel(), numbers_BS.device)
    total_BS, squares_BS, rounds = torch.zeros(4, BLOCK).double(), torch.zeros(4, BLOCK).double(), 4000
    for _ in range(rounds):
        quantize_(code, numbers_BS, codes, scales_B, torch.rand(4, BLOCK, generator=generator))
        found_BS = dequantize(code, codes, scales_B).double()
        total_BS += found_BS
        squares_BS += found_BS**2
    mean_BS = total_BS / rounds
    error_BS = ((squares_BS / rounds - mean_BS**2).clamp(min=0) / rounds).sqrt()
    assert ((mean_BS - numbers_BS).abs() <= 5 * error_BS + 1e-5).all()


@pytest.mark.parametrize("bits", [8, 4])
def test_a_second_moment_never_becomes_zero(bits: int) -> None:
    """The update divides by its root: whatever is above zero stays so, and zero stays zero."""
    code = QuantFormat(bits, signed=False)
    numbers_BS = torch.logspace(-30, 0, BLOCK)[None].clone()
    numbers_BS[0, 5] = 0.0
    codes, scales_B = quantized_zeros(code, BLOCK, numbers_BS.device)
    quantize_(code, numbers_BS, codes, scales_B, torch.full((1, BLOCK), 0.999))
    assert torch.equal(dequantize(code, codes, scales_B) > 0, numbers_BS > 0)


def test_small_changes_are_not_lost() -> None:
    """Decayed by a thousandth a step, as Adam's second moment is, it falls; rounded to the nearest it would stay."""
    code = QuantFormat(8, signed=False)
    start_BS = torch.rand(64, BLOCK, generator=torch.Generator().manual_seed(3)) * 0.5 + 0.2
    start_BS[:, 0] = 1.0
    ends = []
    for by_chance in (True, False):
        codes, scales_B = quantized_zeros(code, start_BS.numel(), start_BS.device)
        quantize_(code, start_BS, codes, scales_B, None)
        generator = torch.Generator().manual_seed(4)
        for _ in range(300):
            numbers_BS = dequantize(code, codes, scales_B) * 0.999
            numbers_BS[:, 0] = 1.0
            chance_BS = torch.rand(start_BS.shape, generator=generator) if by_chance else None
            quantize_(code, numbers_BS, codes, scales_B, chance_BS)
        ends.append((dequantize(code, codes, scales_B)[:, 1:].sum() / start_BS[:, 1:].sum()).item())
    assert ends[0] == pytest.approx(0.999**300, rel=0.02)
    assert ends[1] > 0.95
