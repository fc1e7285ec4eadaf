"""Where the driver swaps instead of failing, memory that ran out shows as steps that suddenly take much longer.

On Windows and WSL the driver moves what does not fit into the host's memory and says nothing. So torch's allocator is
given a limit there, at which it fails as on other systems (`memory_limit`). Where other programs grow meanwhile, the
driver swaps all the same: such a slow-down is treated like the error, with fewer tokens at once.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median

import torch

from tunesmith.planning.hardware import allocator_fraction, is_wsl

SUDDENLY = 3.0
"""Times the usual time."""
ENOUGH_BEFORE = 3
"""Intervals that make a usual time."""


def swaps_silently(device: torch.device) -> bool:
    """Whether this driver swaps."""
    return device.type == "cuda" and (sys.platform == "win32" or is_wsl())


@contextmanager
def memory_limit(device: torch.device) -> Iterator[None]:
    """While this lasts torch's allocator runs out of memory before a driver that swaps does."""
    if not swaps_silently(device):
        yield
        return
    before = torch.cuda.get_per_process_memory_fraction(device)
    torch.cuda.set_per_process_memory_fraction(allocator_fraction(device), device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(before, device)


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
    _graphs: int = 0

    def see(self, training_s: float, tokens: int) -> bool:
        """Look at the time and the tokens of all steps so far; true if the last ones were suddenly slow."""
        interval_s, learned = training_s - self._training_s, tokens - self._tokens
        self._training_s, self._tokens = training_s, tokens
        before, self._graphs = self._graphs, _compiled_graphs()
        if not self.is_on or learned <= 0 or self._graphs > before:  # compiling takes longer than any step
            return False
        per_token_s = interval_s / learned
        if len(self._before) >= ENOUGH_BEFORE and per_token_s > SUDDENLY * median(self._before):
            self._before.clear()  # with fewer tokens at once another time is usual
            return True
        self._before.append(per_token_s)
        return False


def _compiled_graphs() -> int:
    """How many graphs torch's compiler has made in this process; it is not imported for the answer."""
    compiler = sys.modules.get("torch._dynamo.utils")
    return 0 if compiler is None else int(compiler.counters["stats"]["unique_graphs"])
