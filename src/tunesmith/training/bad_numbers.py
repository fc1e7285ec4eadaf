"""NaN and infinity: seen at the step that makes them, and traced to the samples that do.

A step's update is skipped on the device itself where loss or gradient is not finite (`tunesmith.training.step`), so
that nobody has to wait for the verdict; it is read when it has arrived.
"""

from collections import deque
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from tunesmith.data.batches import Batch
from tunesmith.data.stretches import Int64s
from tunesmith.distributed.dtensor import local_tensor
from tunesmith.model.compiled import uncompiled
from tunesmith.model.gpt2 import GPT2
from tunesmith.training.chance import drawing_nothing
from tunesmith.training.step import sum_of_batch_nats


class BadStepWatch:
    """Tells which steps had a loss or gradient that is not finite."""

    def __init__(self) -> None:
        self._verdicts: deque[tuple[int, Tensor, torch.cuda.Event | None]] = deque()

    def see(self, step: int, is_bad: Tensor) -> None:
        """Take a step's verdict, a bool scalar; a card's is fetched without waiting."""
        if not is_bad.is_cuda:
            self._verdicts.append((step, is_bad, None))
            return
        on_host = torch.empty((), dtype=torch.bool, pin_memory=True)
        on_host.copy_(is_bad, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record(torch.cuda.current_stream(is_bad.device))  # where the copy is, whatever GPU is the current one
        self._verdicts.append((step, on_host, arrived))

    def bad_steps(self, *, wait: bool) -> list[int]:
        """Of those seen since the last time.

        Args:
            wait: for verdicts that are still on their way.
        """
        bad = []
        while self._verdicts:
            step, verdict, arrived = self._verdicts[0]
            if arrived is not None and not arrived.query():
                if not wait:
                    break
                arrived.synchronize()
            self._verdicts.popleft()
            if bool(verdict):
                bad.append(step)
        return bad

    def forget(self) -> None:
        """All steps that were seen are undone."""
        self._verdicts.clear()


def weights_are_finite(model: GPT2) -> bool:
    """Whether every parameter is a number, as far as this process holds them."""
    return all(bool(local_tensor(parameter).isfinite().all()) for parameter in model.parameters())


def offenders(model: GPT2, windows: Int64s, batch_of: Callable[[Int64s], Batch]) -> Iterator[int]:
    """The windows of a micro-batch whose loss or gradient is not finite, found by halving.

    Args:
        model: in training mode, with weights that are finite.
        windows: of one micro-batch.
        batch_of: makes a batch of some of them.
    """
    if not len(windows) or not _is_bad(model, batch_of(windows)):
        return
    if len(windows) == 1:
        yield int(windows[0])
        return
    for half in np.array_split(windows, 2):
        yield from offenders(model, half, batch_of)


def _is_bad(model: GPT2, batch: Batch) -> bool:
    with drawing_nothing(model.head_VC.device), uncompiled(model):  # every size would be compiled anew
        nats = sum_of_batch_nats(model, batch)
        learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
        gradients = torch.autograd.grad(nats, learned, allow_unused=True)  # optimizers' hooks hear nothing of it
    finite = [gradient.isfinite().all() for gradient in gradients if gradient is not None]
    return not (bool(nats.isfinite()) and all(map(bool, finite)))
