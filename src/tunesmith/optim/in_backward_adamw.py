"""AdamW inside the backward pass: a gradient is used up as soon as it is made, so they never exist all at once.

Clipping needs the norm of the whole gradient, which is not known before its last part. It is scaled by the norm of
the step before, or by that of the parts so far where this is larger, so that a sudden large gradient is clipped all the
same; the first step measures its norm in a backward pass of its own. Where a step has several micro-batches, gradients
must be summed before they are used: then everything is as with any other optimizer.

Reference: Lv et al. 2023, "Full Parameter Fine-tuning for Large Language Models with Limited Resources" (LOMO).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal
from weakref import WeakMethod

import torch
from torch import Tensor, nn

from tunesmith.optim.low_bit_adamw import LowBitAdamW, update_uncompressed

TINY = 1e-6
"""Added to a norm before dividing by it, as in torch's clipping."""


class InBackwardAdamW(LowBitAdamW):
    """See the module; the arguments are those of `LowBitAdamW`.

    Attributes:
        prev_grad_norm: fp32 scalar, of the whole gradient of the step before; None in the first step.
    """

    def __init__(self, *arguments: Any, **settings: Any) -> None:  # noqa: ANN401
        super().__init__(*arguments, **settings)
        self.prev_grad_norm: Tensor | None = None
        self._mode: Literal["hold", "measure", "update"] = "hold"
        self._max_grad_norm = torch.inf
        self._squares: Tensor | None = None
        # A parameter keeps its hooks where the garbage collector does not look: one that held the optimizer, or a group
        # and so the parameters, would keep the whole model in memory for ever.
        use = WeakMethod(self._use)
        for number, group in enumerate(self.param_groups):
            for parameter in group["params"]:
                parameter.register_post_accumulate_grad_hook(partial(_use_up, use, number))

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Backward passes inside only measure the norm that clipping goes by."""
        self._mode, self._squares = "measure", None
        try:
            yield
            self.prev_grad_norm = self._norm()
        finally:
            self._mode, self._squares = "hold", None

    @contextmanager
    def updating(self, max_grad_norm: float) -> Iterator[None]:
        """A backward pass inside is a whole step; the learning rate is that of the groups."""
        assert self.prev_grad_norm is not None
        self._mode, self._squares, self._max_grad_norm = "update", None, max_grad_norm
        try:
            yield
            self.prev_grad_norm, self._has_begun = self._norm(), False
        finally:
            self._mode = "hold"

    def finished(self) -> Tensor:
        """The norm of the whole gradient of the step that `updating` made."""
        assert self.prev_grad_norm is not None
        return self.prev_grad_norm

    def _norm(self) -> Tensor:
        assert self._squares is not None
        return self._squares.sqrt()

    @torch.no_grad()
    def _use(self, parameter: nn.Parameter, group_number: int) -> None:
        if self._mode == "hold":
            return
        group = self.param_groups[group_number]
        assert parameter.grad is not None
        square = torch.linalg.vector_norm(parameter.grad, dtype=torch.float32).square()
        self._squares = square if self._squares is None else self._squares + square
        if self._mode == "update":
            assert self.prev_grad_norm is not None
            norm = torch.maximum(self.prev_grad_norm, self._squares.sqrt())
            parameter.grad.mul_((self._max_grad_norm / (norm + TINY)).clamp(max=1.0))
            if parameter in self._number:
                self.update(parameter, group)
            else:
                self._has_begun = True
                update_uncompressed([parameter], self.state, group)
        parameter.grad = None


def _use_up(use: WeakMethod[Any], group_number: int, parameter: Tensor) -> None:
    """Let the optimizer take a gradient, if there still is one."""
    taker = use()
    if taker is not None:
        assert isinstance(parameter, nn.Parameter)
        taker(parameter, group_number)
