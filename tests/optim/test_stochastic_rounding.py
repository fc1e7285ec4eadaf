"""Halves of fp32 numbers: nothing is lost in two parts, and what is rounded by chance is right on average."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some

from tunesmith.optim.quantization import generator_for, merge_fp32, random_int31, round_stochastic_bf16, split_fp32

LEARNING_RATE = 5e-5


@given(some.lists(some.integers(-(2**31), 2**31 - 1), min_size=1, max_size=64))
def test_two_parts_are_the_number(patterns: list[int]) -> None:
    """Every pattern of 32 bits comes back, and the upper part is bf16's nearest number."""
    bits = torch.tensor(patterns, dtype=torch.int32)
    value = bits.view(torch.float32)
    upper, remainder = split_fp32(value)
    assert upper.dtype == torch.bfloat16
    assert remainder.dtype == torch.int16
    assert torch.equal(merge_fp32(upper, remainder).view(torch.int32), bits)


def test_the_upper_part_is_the_nearest() -> None:
    """As torch rounds, except for exact ties, which torch takes to the even neighbor."""
    value = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    is_tie = (value.view(torch.int32) & 0xFFFF) == 0x8000
    upper, _ = split_fp32(value)
    assert torch.equal(upper[~is_tie], value[~is_tie].to(torch.bfloat16))


def test_rounding_by_chance_is_unbiased() -> None:
    """The mean of many roundings is the number, within four standard errors, for either sign and many magnitudes."""
    value = torch.tensor([1.0, -1.003, 3.1e-5, -7.7e12, 0.4999, 1 + 2**-9])
    rounds = 40_000
    generator = generator_for(value.device, 1, 2, 3)
    bits = random_int31(rounds * len(value), generator).view(rounds, -1)
    rounded = round_stochastic_bf16(value.expand(rounds, -1).contiguous(), bits).double()
    low, high = rounded.amin(0), rounded.amax(0)
    spread = rounded.std(0) / rounds**0.5
    assert ((rounded.mean(0) - value.double()).abs() <= 4 * spread + 1e-12 * value.abs()).all()
    exact = value.to(torch.bfloat16).float() == value
    assert torch.equal((low == high), exact)
    assert ((low <= value) & (value <= high)).all()


def test_rounded_to_the_nearest_nothing_moves() -> None:
    """At the guide's learning rate a weight near 1 never moves in plain bf16; rounded by chance it moves as in fp32."""
    start = torch.ones(10_000)
    nearest, chance = start.to(torch.bfloat16), start.to(torch.bfloat16)
    for step in range(100):
        nearest = (nearest.float() - LEARNING_RATE).to(torch.bfloat16)
        bits = random_int31(len(start), generator_for(start.device, step))
        chance = round_stochastic_bf16(chance.float() - LEARNING_RATE, bits)
    assert torch.equal(nearest.float(), start)
    moved = (start - chance.float()).mean().item()
    assert abs(moved - 100 * LEARNING_RATE) < 0.05 * 100 * LEARNING_RATE


def test_random_bits_follow_from_their_numbers() -> None:
    """The same numbers give the same bits, others give others, and all 31 of them are used."""
    cpu = torch.device("cpu")
    first, again, other = (random_int31(4096, generator_for(cpu, *numbers)) for numbers in ((1, 2), (1, 2), (12,)))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.min() >= 0
    assert all(0.4 < (first >> bit & 1).float().mean() < 0.6 for bit in range(31))


@pytest.mark.parametrize("pattern", [0x7FFFFFFF, 0x7FC00000, 0x7F800001, -1, -0x400000])
def test_a_nan_stays_one(pattern: int) -> None:
    """Also a GPU's own, whose bits are all ones: with any more added it would be read as -0."""
    value = torch.full((64,), pattern, dtype=torch.int32).view(torch.float32)
    bits = torch.arange(0, 1 << 16, 1 << 10, dtype=torch.int32)
    assert round_stochastic_bf16(value, bits).isnan().all()


def test_infinity_stays_infinity() -> None:
    """With any random bits."""
    value, bits = torch.tensor([torch.inf, -torch.inf]), torch.tensor([0xFFFF, 0xFFFF], dtype=torch.int32)
    assert round_stochastic_bf16(value, bits).tolist() == [torch.inf, -torch.inf]
