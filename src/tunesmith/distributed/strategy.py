"""How gradients of several processes are combined: the train step calls the same methods for one process and for many.

Replicated models need no wrapper: micro-batches accumulate locally, and gradients are summed once a step, after the
last backward pass. So there is no collective in the middle of a step that a process without memory would miss, and
processes can vote on repeating the step before anything is reduced or updated.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, TypeVar

import torch
from torch import Tensor

from tunesmith.distributed.world import World
from tunesmith.errors import UserError
from tunesmith.model.gpt2 import GPT2
from tunesmith.utils.oom import is_out_of_memory

T = TypeVar("T")
Phase = Literal["accumulate", "reduce", "clip", "update", "refused"]


class Strategy:
    """A single process.

    Attributes:
        loss_scale: factor of the loss where gradients will be averaged over processes instead of summed.
        is_sharded: whether this process has only a shard of each weight.
    """

    loss_scale = 1
    is_sharded = False

    def __init__(self, model: GPT2) -> None:
        self.model = model
        self.forward: Callable[..., Tensor] | None = None

    def run_step(self, step: Callable[[], T]) -> T:
        """Run a train step, which calls the methods below in their order.

        Raises:
            OutOfMemoryError: in all processes alike if memory runs out in one of them before the update; in this one
                only where `is_sharded`.
        """
        return step()

    @contextmanager
    def accumulate(self, *, is_last: bool) -> Iterator[None]:  # noqa: ARG002
        """Forward and backward pass of one micro-batch."""
        yield

    def reduce_loss(self, loss_sum: Tensor) -> Tensor:
        """Sum the loss over all processes, without waiting for the device; afterwards gradients are summed, too."""
        return loss_sum

    def clip_grad_norm(self, max_norm: float) -> Tensor:
        """Clip the gradient of all processes; return its norm before."""
        return torch.nn.utils.clip_grad_norm_(self.model.parameters(), max_norm)

    def vote_oom(self) -> None:
        """Make sure that no process has to repeat the step; the update follows."""

    def reshard(self) -> None:
        """Free gathered weights after a forward pass without a backward pass."""


class ReplicatedStrategy(Strategy):
    """Data parallelism: every process has the whole model, with the same weights."""

    def __init__(self, model: GPT2, world: World) -> None:
        super().__init__(model)
        self._world = world
        self._phase: Phase = "accumulate"

    def run_step(self, step: Callable[[], T]) -> T:
        self._phase = "accumulate"
        result = _unless_out_of_memory(step)
        if result is not None:
            return result[0]
        failed_in: Phase = self._phase
        if failed_in in {"reduce", "update"}:
            raise UserError(
                "memory ran out in the middle of an update that had begun",
                hint="free memory and continue from the last checkpoint with --resume",
            )
        if failed_in != "refused":
            self._world.all_reduce_max(1)  # the vote that the others come to next
        raise torch.OutOfMemoryError

    def reduce_loss(self, loss_sum: Tensor) -> Tensor:
        self._vote()
        self._phase = "reduce"
        for parameter in self.model.parameters():  # in the same order everywhere, and in place: no bucket takes memory
            if parameter.requires_grad:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                self._world.all_reduce_(parameter.grad)
        self._world.all_reduce_(loss_sum)
        self._phase = "clip"
        return loss_sum

    def vote_oom(self) -> None:
        self._vote()
        self._phase = "update"

    def _vote(self) -> None:
        """Continue only if memory sufficed everywhere."""
        if self._world.all_reduce_max(0):
            self._phase = "refused"
            raise torch.OutOfMemoryError


def _unless_out_of_memory(work: Callable[[], T]) -> tuple[T] | None:
    """Return the result; None if memory ran out: outside of `except`, no frame refers to tensors any more."""
    try:
        return (work(),)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return None
