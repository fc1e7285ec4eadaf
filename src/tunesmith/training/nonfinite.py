"""Non-finite values: detect NaN and Inf, trace them to the samples that cause them, and recover.

The update of a step is skipped on the device itself where its loss or gradient is not finite (`train_step`), so that
the host does not wait for the result; it is read when it has arrived. Then, in this order: in fp16, compute in a wider
dtype; where some samples cause it, retry the step without them; where it does not happen a second time (a hardware
fault), retry the step; where the weights themselves are not finite or every sample causes it, roll back to the last
good checkpoint; where that leads to the same again, skip the step; at last, an error.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from tunesmith.data.dataloader import Batch, TrainBatchSampler
from tunesmith.data.provenance import SampleLocator
from tunesmith.data.spans import Int64s
from tunesmith.distributed.dtensor import local_tensor
from tunesmith.distributed.world import SINGLE_PROCESS, World
from tunesmith.errors import UserError
from tunesmith.i18n import LazyString
from tunesmith.model.compile import eager_mode, set_compute_dtype
from tunesmith.model.gpt2 import GPT2
from tunesmith.training.events import NONFINITE_MESSAGES, NonFiniteDetected
from tunesmith.training.rng import preserve_rng_state
from tunesmith.training.state import TrainState
from tunesmith.training.train_step import batch_loss_sum
from tunesmith.utils.device import NATIVE_BF16_CAPABILITY

MAX_RETRIES = 2
"""Of a step that fails without any sample as the cause."""
MAX_ROLLBACKS = 3
"""In one session; more are not accidents."""
MAX_EXCLUDED_SHARE = 0.25
"""When more samples of a step than this fail, the samples are not the cause."""
SAMPLES_NAMED = 5

Recovered = tuple[TrainState, NonFiniteDetected]


class NonFiniteMonitor:
    """Report which steps had a loss or gradient that is not finite."""

    def __init__(self) -> None:
        self._pending: deque[tuple[int, Tensor, torch.cuda.Event | None]] = deque()

    def add(self, step: int, is_bad: Tensor) -> None:
        """Take a step's bool scalar; a GPU's is copied to the host without waiting."""
        if not is_bad.is_cuda:
            self._pending.append((step, is_bad, None))
            return
        on_host = torch.empty((), dtype=torch.bool, pin_memory=True)
        on_host.copy_(is_bad, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record(torch.cuda.current_stream(is_bad.device))  # where the copy is, whatever GPU is the current one
        self._pending.append((step, on_host, arrived))

    def bad_steps(self, *, wait: bool) -> list[int]:
        """Return the bad steps since the last call.

        Args:
            wait: for results that have not arrived yet.
        """
        bad = []
        while self._pending:
            step, is_bad, arrived = self._pending[0]
            if arrived is not None and not arrived.query():
                if not wait:
                    break
                arrived.synchronize()
            self._pending.popleft()
            if bool(is_bad):
                bad.append(step)
        return bad

    def clear(self) -> None:
        """Forget all steps, which are undone."""
        self._pending.clear()


def weights_are_finite(model: GPT2) -> bool:
    """Whether every parameter is finite, as far as this process has them."""
    return all(bool(local_tensor(parameter).isfinite().all()) for parameter in model.parameters())


def find_nonfinite_windows(model: GPT2, windows: Int64s, batch_of: Callable[[Int64s], Batch]) -> Iterator[int]:
    """Yield the windows of a micro-batch whose loss or gradient is not finite, found by bisection.

    Args:
        model: in training mode, with finite weights.
        windows: of one micro-batch.
        batch_of: makes a batch of some of them.
    """
    if not len(windows) or not _is_nonfinite(model, batch_of(windows)):
        return
    if len(windows) == 1:
        yield int(windows[0])
        return
    for half in np.array_split(windows, 2):
        yield from find_nonfinite_windows(model, half, batch_of)


def _is_nonfinite(model: GPT2, batch: Batch) -> bool:
    with preserve_rng_state(model.head_VC.device), eager_mode(model):  # every new size would be compiled
        nats = batch_loss_sum(model, batch)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        gradients = torch.autograd.grad(nats, trained, allow_unused=True)  # this does not call optimizers' hooks
    finite = [gradient.isfinite().all() for gradient in gradients if gradient is not None]
    return not (bool(nats.isfinite()) and all(map(bool, finite)))


class Recovery:
    """Decide what to do about a step, and remember what was tried.

    Args:
        model: that is trained.
        order: of its data.
        origins: to name samples.
        reload: restores model and optimizer from the last good checkpoint.
        hint: of the error when nothing helps.
        world: processes that train together; the main process decides for all.
        searches: whether the causing samples can be searched: not where each process has only a part of the model.
    """

    def __init__(
        self,
        model: GPT2,
        order: TrainBatchSampler,
        origins: SampleLocator,
        reload: Callable[[], TrainState],
        hint: str,
        world: World = SINGLE_PROCESS,
        *,
        searches: bool = True,
    ) -> None:
        self._model = model
        self._order = order
        self._origins = origins
        self._reload = reload
        self._hint = hint
        self._world = world
        self._searches = searches
        self._retries: Counter[int] = Counter()
        self._rollbacks: Counter[int] = Counter()

    def recover(self, step: int, state: TrainState) -> Recovered:
        """Find the cause of a bad step, and return the state to continue from.

        Args:
            step: its number, counted from 1.
            state: changed in place, unless the run rolls back.

        Raises:
            UserError: when nothing helps.
        """
        if self._world.all_reduce_max(int(not weights_are_finite(self._model))):
            return self._rollback(step, state, "weights", [])
        if self._model.compute_dtype == torch.float16:
            return self._widen_dtype(step, state)
        windows = self._order.windows(step - 1, state.excluded_windows)
        causes = self._world.broadcast_object(lambda: self._find_causes(windows)) if self._searches else []
        if not causes:
            self._retries[step] += 1
            if self._retries[step] > MAX_RETRIES:
                return self._rollback(step, state, "gradient", [])
            action = LazyString("it does not happen again: the step is retried")
            return _before(step, state), NonFiniteDetected(step, "gradient", [], action)
        names = self._named(causes)
        n_windows = sum(map(len, windows))
        if len(causes) > max(MAX_EXCLUDED_SHARE * n_windows, 1) or n_windows == 1:
            return self._rollback(step, state, "loss", names)
        state.excluded_windows += causes
        action = LazyString("excluded from now on: {n_samples:,} of its samples", {"n_samples": len(causes)})
        return _before(step, state), NonFiniteDetected(step, "loss", names, action)

    def _find_causes(self, windows: list[Int64s]) -> list[int]:
        """Return the causing windows of a step, by their first targets."""
        return [
            first
            for micro_batch in windows
            for first in self._order.first_targets(
                np.fromiter(find_nonfinite_windows(self._model, micro_batch, self._order.batch_of), np.int64)
            ).tolist()
        ]

    def _widen_dtype(self, step: int, state: TrainState) -> Recovered:
        device = self._model.head_VC.device
        has_bf16 = device.type == "cuda" and torch.cuda.get_device_capability(device) >= NATIVE_BF16_CAPABILITY
        wider = torch.bfloat16 if has_bf16 else torch.float32
        set_compute_dtype(self._model, wider)
        state.precision = str(wider).removeprefix("torch.")
        action = LazyString("too large for float16: from now on in {dtype}", {"dtype": state.precision})
        return _before(step, state), NonFiniteDetected(step, "loss", [], action)

    def _rollback(
        self, step: int, state: TrainState, what: Literal["loss", "gradient", "weights"], names: list[LazyString]
    ) -> Recovered:
        """Return to the last good checkpoint; the second time at the same step, skip its samples."""
        self._rollbacks[step] += 1
        if self._rollbacks.total() > MAX_ROLLBACKS:
            raise UserError(
                "{what} at step {step:,}: again after {rollbacks} rollbacks",
                hint="{advice}",
                what=NONFINITE_MESSAGES[what],
                step=step,
                rollbacks=MAX_ROLLBACKS,
                advice=self._hint,
            )
        skipped: list[int] = []
        if self._rollbacks[step] > 1:
            causes = (step - 2, step - 1) if what == "weights" else (step - 1,)  # the update before damaged them
            windows = [
                micro_batch
                for index in causes
                if index >= 0
                for micro_batch in self._order.windows(index, state.excluded_windows)
            ]
            skipped = [int(first) for micro_batch in windows for first in self._order.first_targets(micro_batch)]
        restored = self._reload()
        restored.excluded_windows = [*state.excluded_windows, *skipped]
        restored.precision, restored.micro_batch_splits = state.precision, state.micro_batch_splits
        restored.rollbacks = state.rollbacks + 1
        if state.best_perplexity < restored.best_perplexity:  # that model is in the run directory
            restored.best_perplexity, restored.best_step = state.best_perplexity, state.best_step
            restored.best_rollbacks = state.best_rollbacks
        names = names or (self._named(skipped) if skipped else [])
        action = (
            LazyString(
                "back to the last good state, after step {step:,}, and past the {n_samples:,} samples that led there",
                {"step": restored.step, "n_samples": len(skipped)},
            )
            if skipped
            else LazyString("back to the last good state, after step {step:,}", {"step": restored.step})
        )
        return restored, NonFiniteDetected(step, what, names, action)

    def _named(self, first_targets: list[int]) -> list[LazyString]:
        named = [self._origins.locate(first).shown for first in first_targets[:SAMPLES_NAMED]]
        more = len(first_targets) - len(named)
        return named + ([LazyString("and {more:,} more", {"more": more})] if more else [])


def _before(step: int, state: TrainState) -> TrainState:
    """Undo the count of the step, if none was made after it; a GPU's result may arrive a step later."""
    if state.step == step:
        state.step -= 1
    return state
