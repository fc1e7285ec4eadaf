"""The learning rate."""

import pytest

from tunesmith.training.train_step import learning_rate_at


def test_rises_then_falls() -> None:
    """It reaches the peak at the last warm-up step and ends one share above 0."""
    rates = [learning_rate_at(step, peak=1.0, warmup_steps=4, total_steps=12) for step in range(12)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4:] == pytest.approx([1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125])


def test_no_warmup_and_a_single_step() -> None:
    """Without warm-up it starts at the peak, and a run of one step learns."""
    assert learning_rate_at(0, peak=2.0, warmup_steps=0, total_steps=10) == 2.0
    assert learning_rate_at(0, peak=2.0, warmup_steps=0, total_steps=1) == 2.0
    assert learning_rate_at(0, peak=2.0, warmup_steps=1, total_steps=1) == 2.0
