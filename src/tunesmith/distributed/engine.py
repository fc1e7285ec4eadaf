"""How the gradients of all processes become one: the step calls the same few names for one process and for many."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from tunesmith.model.gpt2 import GPT2


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

    @contextmanager
    def micro_batch(self, *, is_last: bool) -> Iterator[None]:  # noqa: ARG002  others have to know
        """Forward and backward of one micro-batch; behind the last one of a step the gradient is that of all."""
        yield

    def summed(self, nats: Tensor) -> Tensor:
        """Of all processes, without waiting for the device."""
        return nats

    def clip(self, max_norm: float) -> Tensor:
        """Scale the gradient down to a norm; the one it had, of all processes' parts."""
        return torch.nn.utils.clip_grad_norm_(self.model.parameters(), max_norm)

    def settle(self) -> None:
        """Be ready to be read and updated, after a forward pass without a backward one."""
