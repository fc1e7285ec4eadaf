"""RNG state of one run: what dropout draws from.

torch's dropout uses generators that the whole process shares. A run swaps its own state in for the duration of a step
and out again, so that two runs in two threads, or a run and the program around it, do not disturb each other. Steps
that draw wait for each other; a run without dropout draws nothing and waits for nothing.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

Tensors = dict[str, Tensor]

_DRAWING = threading.RLock()


class RNGState:
    """States of torch's generators, as one run would see them if it were alone in the process.

    Args:
        seed: of a new run.
        device: that computes.
        draws: whether anything is drawn at all.

    Attributes:
        states: to be kept in a checkpoint, by device.
    """

    def __init__(self, seed: int, device: torch.device, *, draws: bool) -> None:
        self._device = device
        self._draws = draws
        self.states: Tensors = {}
        self.seed(seed)

    def seed(self, seed: int) -> None:
        """Start from a seed."""
        self.states = {"cpu": torch.Generator().manual_seed(seed).get_state()}
        if self._device.type == "cuda":
            self.states["cuda"] = torch.Generator(self._device).manual_seed(seed).get_state()

    def restore(self, states: Tensors) -> None:
        """Continue from a checkpoint's states.

        Raises:
            KeyError: if the CPU's is missing.
        """
        self.states = {"cpu": states["cpu"], **{name: states[name] for name in self.states if name in states}}

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Let torch draw from these states inside the block."""
        if not self._draws:
            yield
            return
        with _DRAWING:
            outside = _get_states(self._device)
            _set_states(self.states, self._device)
            try:
                yield
            finally:
                self.states = _get_states(self._device)
                _set_states(outside, self._device)


@contextmanager
def preserve_rng_state(device: torch.device) -> Iterator[None]:
    """Restore every generator after the block."""
    with _DRAWING, torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def _get_states(device: torch.device) -> Tensors:
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _set_states(states: Tensors, device: torch.device) -> None:
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)
