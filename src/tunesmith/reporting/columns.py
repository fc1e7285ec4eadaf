"""Lines of one kind as columns of numbers: a run may have logged hundreds of thousands of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Columns:
    """Equally long columns.

    Attributes:
        of: each by the key that its numbers have in the metrics file; NaN where a line has no number.
        length: of each of them.
    """

    of: Mapping[str, Floats]
    length: int

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, key: str) -> Floats:
        """A column; NaN throughout where no line has the key."""
        return self.of.get(key, np.full(self.length, np.nan))

    def has(self, key: str) -> bool:
        """Whether there is any number of this name."""
        return bool(np.isfinite(self[key]).any())


def columns_of(lines: Sequence[Mapping[str, Any]]) -> Columns:
    """The numbers of lines of one kind."""
    keys = dict.fromkeys(key for line in (*lines[:1], *lines[-1:]) for key in line)
    return Columns({key: np.array([_number(line.get(key)) for line in lines]) for key in keys}, len(lines))


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")
