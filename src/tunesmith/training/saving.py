"""What a run keeps of its model: checkpoints, and the best one in the run folder.

Training waits for a copy in memory only; files are written beside it. One copy serves all that is written of a step.
"""

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

import torch

from tunesmith.distributed.strategy import Strategy
from tunesmith.distributed.world import World
from tunesmith.errors import UserError
from tunesmith.machine import use_device
from tunesmith.messages.catalogue import say
from tunesmith.model.gpt2 import GPT2
from tunesmith.training.chance import Chance
from tunesmith.training.checkpoint import CheckpointWriter
from tunesmith.training.disk_space import has_room, no_room
from tunesmith.training.events import Saved, SaveFailed
from tunesmith.training.progress import Progress
from tunesmith.training.publish import Publisher
from tunesmith.training.run import RunFolder
from tunesmith.training.saver import Saver, Write
from tunesmith.training.snapshot import (
    HostBuffers,
    ModelCopy,
    copy_model,
    fits_memory,
    help_copying,
    help_taking_snapshot,
    state_bytes,
    take_snapshot,
)


@dataclass
class Saving:
    """Writes for the first process; the others help it where each holds a part of the model.

    Used as a context manager: leaving it waits for what is being written.

    Attributes:
        run: where everything is written.
        publisher: puts the best model into the run folder.
        checkpoints: writes them.
        keep_bytes: for checkpoints on disk; None keeps what a resume can need.
        model: on its device.
        optimizer: of its parameters.
        chance: what dropout draws from.
        world: the processes that learn together.
        strategy: how their gradients become one.
    """

    run: RunFolder
    publisher: Publisher
    checkpoints: CheckpointWriter
    keep_bytes: float | None
    model: GPT2
    optimizer: torch.optim.Optimizer
    chance: Chance
    world: World
    strategy: Strategy

    def __post_init__(self) -> None:
        self._saver = Saver()
        self._buffers = HostBuffers()
        self._copied: ModelCopy | None = None

    def __enter__(self) -> Self:
        self._saver.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._saver.__exit__(kind, error, traceback)

    def publish(self, progress: Progress) -> None:
        """Have the model as it is now put into the run folder, as the best one."""
        copied, then = self.copy_of_model(progress), replace(progress)
        if self.world.is_main_process:
            self._saver.publish(progress.step, self._written(copied, lambda: self.publisher.publish(copied, then)))
            if copied.is_live:
                self._saver.wait()

    def save(self, progress: Progress, scaler: torch.amp.GradScaler) -> None:
        """Have a checkpoint written; training waits for the copy only, unless memory is too short for one."""
        folder = self.run.checkpoint(progress.step)
        copied = self.copy_of_model(progress)
        if not self.world.is_main_process:
            if self.strategy.is_sharded:
                help_taking_snapshot(self.model, self.optimizer)
            return
        snapshot = take_snapshot(
            self.model, self.optimizer, scaler, progress, self.chance.states, copied, self._buffers
        )
        n_bytes = sum(state_bytes(self.model, self.optimizer))

        def write() -> None:
            if not has_room(self.run.path, n_bytes):
                self.run.drop_old_checkpoints(keep_bytes=0)  # all but the newest
                if not has_room(self.run.path, n_bytes):
                    raise no_room(folder)
            self.checkpoints.write(snapshot, folder)
            self.run.drop_old_checkpoints(self.keep_bytes)

        self._saver.save(progress.step, folder, self._written(copied, write))
        if copied.is_live or (self.strategy.is_sharded and not fits_memory(n_bytes)):
            self._saver.wait()

    def _written(self, copied: ModelCopy, write: Write) -> Write:
        """For the thread that writes: what is not copied is taken from the GPU there, as long as it is the same."""

        def of_this_step() -> None:
            if copied.is_live:
                if self._copied is not copied:  # the disk was full when this could be written
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                use_device(self.model.head_VC.device)
            write()

        return of_this_step

    def copy_of_model(self, progress: Progress) -> ModelCopy:
        """One for all that is written of a step; what was written of earlier ones has to be done by then."""
        weights_id = progress.weights_id  # a step that is reached again after a rollback has other weights
        if self._copied is None or self._copied.weights_id != weights_id:
            self._copied = None
            self._saver.wait()
            if self.world.is_main_process:
                self._copied = copy_model(
                    self.model, self.optimizer, weights_id, self._buffers, is_live=self._has_no_room()
                )
            elif self.strategy.is_sharded:
                self._copied = help_copying(self.model, weights_id)
            else:
                self._copied = ModelCopy(weights_id, {}, {})
        return self._copied

    def _has_no_room(self) -> bool:
        """Whether the host cannot hold a copy beside what it holds for others; asked before one is made."""
        n_bytes = sum(state_bytes(self.model, self.optimizer)) - self._buffers.nbytes
        return not self.strategy.is_sharded and not fits_memory(n_bytes)

    def outcomes(self) -> Iterator[Saved | SaveFailed]:
        """What was written and what failed since the last time."""
        return self._saver.outcomes()

    def wait(self) -> None:
        """Until all that was asked for is written or has failed."""
        self._saver.wait()

    def finish(self, step: int) -> Iterator[Saved | SaveFailed]:
        """Wait until everything is on disk.

        Raises:
            UserError: if it cannot be.
        """
        self._saver.wait()
        self._copied = None
        yield from self._saver.outcomes()
        if reason := self._saver.failure:
            kept = self.run.checkpoints()
            raise UserError(
                "step {step:,} could not be saved: {reason}",
                hint="make room, then continue from {start}: tunesmith train --resume --out {path}",
                step=step,
                reason=reason,
                start=kept[-1].name if kept else say("the beginning"),
                path=self.run.path,
            )
        self.run.flush()
