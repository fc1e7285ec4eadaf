"""Anomalies of a run: loss spikes, and the GPU driver's silent fallback to host memory.

On Windows and WSL the NVIDIA driver moves what does not fit into the GPU to the host's memory and reports nothing. So
torch's allocator gets a limit there, at which it fails as on other systems (`memory_limit`). Where other programs grow
meanwhile, the fallback happens all the same: such a slowdown is handled like the error, with smaller micro-batches.
"""

import statistics
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from tunesmith.planning.hardware import allocator_fraction, is_wsl

REMEMBERED_LOSSES = 50
MIN_LOSSES = 10
"""Before any of them can be a spike."""
DEVIATIONS = 6.0
MIN_SPIKE_NATS = 0.5
"""Small fluctuations of a loss that hardly changes are none."""
SLOWDOWN = 3.0
"""Times the usual time."""
MIN_INTERVALS = 3
"""That make a usual time."""


def detect_loss_spike(loss: float, recent: list[float]) -> float | None:
    """Return the usual loss if this one is far above it, else None; remember the loss.

    Args:
        loss: of a step.
        recent: losses before it, the oldest first; changed in place.
    """
    usual = None
    if len(recent) >= MIN_LOSSES:
        mean = statistics.fmean(recent)
        if loss > mean + max(DEVIATIONS * statistics.pstdev(recent), MIN_SPIKE_NATS):
            usual = mean
    recent.append(loss)
    del recent[:-REMEMBERED_LOSSES]
    return usual


def has_sysmem_fallback(device: torch.device) -> bool:
    """Whether this device's driver moves memory to the host instead of failing."""
    return device.type == "cuda" and (sys.platform == "win32" or is_wsl())


@contextmanager
def memory_limit(device: torch.device) -> Iterator[None]:
    """Make torch's allocator run out of memory before the driver falls back to host memory."""
    if not has_sysmem_fallback(device):
        yield
        return
    previous = torch.cuda.get_per_process_memory_fraction(device)
    torch.cuda.set_per_process_memory_fraction(allocator_fraction(device), device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(previous, device)


@dataclass
class SysmemFallbackDetector:
    """Compare the time per token of each interval with those before."""

    is_on: bool
    _usual_s: list[float] = field(default_factory=list)
    _training_s: float = 0.0
    _tokens: int = 0
    _graphs: int = 0

    def check(self, training_s: float, tokens: int) -> bool:
        """Take time and tokens of all steps so far; return whether the last steps were suddenly slow."""
        interval_s, new_tokens = training_s - self._training_s, tokens - self._tokens
        self._training_s, self._tokens = training_s, tokens
        graphs, self._graphs = self._graphs, _compiled_graphs()
        if not self.is_on or new_tokens <= 0 or self._graphs > graphs:  # compiling takes longer than any step
            return False
        per_token_s = interval_s / new_tokens
        if len(self._usual_s) >= MIN_INTERVALS and per_token_s > SLOWDOWN * statistics.median(self._usual_s):
            self._usual_s.clear()  # smaller micro-batches have another usual time
            return True
        self._usual_s.append(per_token_s)
        return False


def _compiled_graphs() -> int:
    """Return how many graphs torch's compiler has made in this process, without importing it."""
    compiler = sys.modules.get("torch._dynamo.utils")
    return 0 if compiler is None else int(compiler.counters["stats"]["unique_graphs"])
