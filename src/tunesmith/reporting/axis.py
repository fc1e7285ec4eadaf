"""Round numbers for an axis, and where on it a value stands."""

import math
from dataclasses import dataclass
from typing import Self

STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True)
class Axis:
    """A range of numbers with round ones marked on it.

    Attributes:
        low: at its beginning.
        high: at its end.
        ticks: the round numbers.
    """

    low: float
    high: float
    ticks: tuple[float, ...]

    @classmethod
    def around(cls, low: float, high: float, *, about: int = 5, snaps: bool = True) -> Self:
        """An axis that shows everything from the lowest to the highest value.

        Args:
            low: lowest value.
            high: highest value.
            about: how many numbers to mark, roughly.
            snaps: whether it ends at round numbers, rather than at the values.
        """
        if high <= low:
            margin = abs(low) / 2 or 1.0
            low, high = low - margin, high + margin
        step = _round_step((high - low) / about)
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        ticks = [number * step for number in range(first, last + 1)]
        if snaps:
            return cls(ticks[0], ticks[-1], tuple(ticks))
        return cls(low, high, tuple(tick for tick in ticks if low <= tick <= high))

    def share(self, value: float) -> float:
        """Where a value stands: 0 at the beginning, 1 at the end."""
        return (value - self.low) / (self.high - self.low)

    def said(self, tick: float) -> str:
        """A marked number, with as many decimals as tell it from its neighbours."""
        step = self.ticks[1] - self.ticks[0] if len(self.ticks) > 1 else abs(tick) or 1.0
        if 0 < max(abs(self.low), abs(self.high)) < 1e-2:
            return "0" if tick == 0 else f"{tick:.2g}"
        decimals = max(-math.floor(math.log10(step) + 1e-9), 0)
        if not math.isclose(round(step, decimals), step, rel_tol=1e-6):
            decimals += 1  # steps of 2.5
        return f"{tick:,.{decimals}f}"


def _round_step(at_least: float) -> float:
    power = 10.0 ** math.floor(math.log10(at_least))
    return next(power * step for step in STEPS if power * step >= at_least * (1 - 1e-9))
