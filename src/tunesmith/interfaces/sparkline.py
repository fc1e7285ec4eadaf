"""A curve in one line of text."""

from collections.abc import Sequence
from itertools import pairwise

BARS = "\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"
MOST_KEPT = 256


class History:
    """The course of a number over a whole run, in at most `MOST_KEPT` means of equally many values each."""

    def __init__(self) -> None:
        self._means: list[float] = []
        self._per_mean = 1
        self._open: list[float] = []

    def add(self, value: float) -> None:
        """The next value."""
        self._open.append(value)
        if len(self._open) < self._per_mean:
            return
        self._means.append(sum(self._open) / len(self._open))
        self._open.clear()
        if len(self._means) == MOST_KEPT:
            pairs = zip(self._means[::2], self._means[1::2], strict=True)
            self._means = [(first + second) / 2 for first, second in pairs]
            self._per_mean *= 2

    def drawn(self, width: int) -> str:
        """The course in at most so many characters."""
        values = self._means
        if len(values) > width:
            borders = [len(values) * number // width for number in range(width + 1)]
            values = [sum(values[start:end]) / (end - start) for start, end in pairwise(borders)]
        return sparkline(values)


def sparkline(values: Sequence[float]) -> str:
    """Each value as a bar between the lowest and the highest."""
    if not values:
        return ""
    low, high = min(values), max(values)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((value - low) * scale)] for value in values)
