"""A run's own chance: what dropout draws.

torch's dropout draws from generators that the whole process shares. So that two runs in two threads, or a run and the
program around it, do not disturb each other, a run brings its own state along for the time of a step and takes it away
again; steps that draw wait for each other. A run without dropout draws nothing and waits for nobody.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

Tensors = dict[str, Tensor]

_DRAWING = threading.RLock()


class Chance:
    """The states of torch's generators as one run would see them if it were alone.

    Args:
        seed: of a run that begins.
        device: it computes on.
        draws: whether anything is drawn at all.

    Attributes:
        states: to be kept in a checkpoint, by device.
    """

    def __init__(self, seed: int, device: torch.device, *, draws: bool) -> None:
        self._device = device
        self._draws = draws
        self.states: Tensors = {}
        self.begin(seed)

    def begin(self, seed: int) -> None:
        """Draw from a seed's beginning."""
        self.states = {"cpu": torch.Generator().manual_seed(seed).get_state()}
        if self._device.type == "cuda":
            self.states["cuda"] = torch.Generator(self._device).manual_seed(seed).get_state()

    def restore(self, states: Tensors) -> None:
        """Go on from where a checkpoint was made.

        Raises:
            KeyError: if the CPU's is missing.
        """
        self.states = {"cpu": states["cpu"], **{name: states[name] for name in self.states if name in states}}

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """While this lasts torch draws from this run's chance."""
        if not self._draws:
            yield
            return
        with _DRAWING:
            before = _current(self._device)
            _put(self.states, self._device)
            try:
                yield
            finally:
                self.states = _current(self._device)
                _put(before, self._device)


@contextmanager
def drawing_nothing(device: torch.device) -> Iterator[None]:
    """While this lasts what is drawn does not count: afterwards every generator is where it was."""
    with _DRAWING, torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def _current(device: torch.device) -> Tensors:
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _put(states: Tensors, device: torch.device) -> None:
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)
