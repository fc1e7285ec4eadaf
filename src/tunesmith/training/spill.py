"""Where the driver swaps instead of failing, memory that ran out shows as steps that suddenly take much longer.

On Windows and WSL the driver moves what does not fit into the host's memory and says nothing. Such a slow-down is
treated like the error that other systems raise: fewer tokens at once.
"""

import sys
from dataclasses import dataclass, field
from statistics import median

import torch

from tunesmith.planning.hardware import is_wsl

SUDDENLY = 3.0
"""Times the usual time."""
ENOUGH_BEFORE = 3
"""Intervals that make a usual time."""


def swaps_silently(device: torch.device) -> bool:
    """Whether this driver swaps."""
    return device.type == "cuda" and (sys.platform == "win32" or is_wsl())


@dataclass
class SpillWatch:
    """Compares each interval with those before.

    Attributes:
        is_on: whether the driver swaps; otherwise nothing is ever seen.
    """

    is_on: bool
    _before: list[float] = field(default_factory=list)
    _training_s: float = 0.0
    _tokens: int = 0

    def see(self, training_s: float, tokens: int) -> bool:
        """Look at the time and the tokens of all steps so far; true if the last ones were suddenly slow."""
        interval_s, learned = training_s - self._training_s, tokens - self._tokens
        self._training_s, self._tokens = training_s, tokens
        if not self.is_on or learned <= 0:
            return False
        per_token_s = interval_s / learned
        if len(self._before) >= ENOUGH_BEFORE and per_token_s > SUDDENLY * median(self._before):
            self._before.clear()  # with fewer tokens at once another time is usual
            return True
        self._before.append(per_token_s)
        return False
