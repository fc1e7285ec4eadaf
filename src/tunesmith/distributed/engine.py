"""How the gradients of all processes become one: the step calls the same few names for one process and for many."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor

from tunesmith.model.gpt2 import GPT2

T = TypeVar("T")


class Engine:
    """A single process: its gradients are the gradients.

    Attributes:
        model: that learns.
        call: what computes hidden states while training, where that is wrapped around the model.
        loss_factor: by which a loss is multiplied before its backward pass, because gradients will be averaged.
        is_sharded: whether this process holds a part of each weight only.
    """

    loss_factor = 1
    is_sharded = False

    def __init__(self, model: GPT2) -> None:
        self.model = model
        self.call: Callable[..., Tensor] | None = None

    def attempt(self, step: Callable[[], T]) -> T:
        """Make a step.

        Args:
            step: calls the names below in their order.

        Raises:
            OutOfMemoryError: in all processes alike, where memory runs out in one of them before anything is learned;
                in this one only, where `is_sharded`.
        """
        return step()

    @contextmanager
    def micro_batch(self, *, is_last: bool) -> Iterator[None]:  # noqa: ARG002  others have to know
        """Forward and backward of one micro-batch."""
        yield

    def summed(self, nats: Tensor) -> Tensor:
        """Of all processes, without waiting for the device; behind it the gradients are those of all, too."""
        return nats

    def clip(self, max_norm: float) -> Tensor:
        """Scale the gradient down to a norm; the one it had, of all processes' parts."""
        return torch.nn.utils.clip_grad_norm_(self.model.parameters(), max_norm)

    def agree(self) -> None:
        """Be sure that no process has to make the step again; from here on it cannot."""

    def settle(self) -> None:
        """Be ready to be read and updated, after a forward pass without a backward one."""
