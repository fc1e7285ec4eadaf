"""What is done about a step whose loss or gradient is not finite; its update was skipped already.

In this order: in fp16, another arithmetic; where some samples do it, the step again without them; where nothing does
it a second time (a fault of the machine), the step again; where the weights themselves are no numbers or every sample
does it, back to the last good checkpoint; where that leads to the same again, past the step; in the end an error.
"""

from collections import Counter
from collections.abc import Callable, Generator
from typing import Literal

import numpy as np
import torch

from tunesmith.data.batches import TrainingOrder
from tunesmith.data.origins import Origins
from tunesmith.data.stretches import Int64s
from tunesmith.distributed.world import SINGLE_PROCESS, World
from tunesmith.errors import UserError
from tunesmith.machine import NATIVE_BF16_CAPABILITY
from tunesmith.messages.catalogue import Phrase
from tunesmith.model.compiled import compute_in
from tunesmith.model.gpt2 import GPT2
from tunesmith.training.bad_numbers import offenders, weights_are_finite
from tunesmith.training.events import WENT_BAD, BadNumbers
from tunesmith.training.progress import Progress

TRIES = 2
"""Of a step that goes wrong without any sample being to blame."""
RETURNS = 3
"""To a checkpoint, in one sitting; then it is no accident."""
SHARE_OF_OFFENDERS = 0.25
"""When more samples of a step than this go wrong, it is not the samples."""
SAMPLES_NAMED = 5

Outcome = Generator[BadNumbers, None, Progress]


class Recovery:
    """Decides, and remembers what was tried.

    Args:
        model: that learns.
        order: of its data.
        origins: to name samples.
        reload: brings model and optimizer back to the last good state.
        hint: of the error in the end.
        world: processes that learn together; the first one decides for all.
        searches: whether the samples to blame can be looked for: not where each process holds only a part of the model.
    """

    def __init__(
        self,
        model: GPT2,
        order: TrainingOrder,
        origins: Origins,
        reload: Callable[[], Progress],
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
        self._tries: Counter[int] = Counter()
        self._returns: Counter[int] = Counter()

    def recover(self, step: int, progress: Progress) -> Outcome:
        """Say what is wrong with a step and where to go on.

        Args:
            step: its number, counted from 1.
            progress: how far the run is; changed in place, unless the run goes back.

        Raises:
            UserError: when nothing helps.
        """
        if self._world.all_reduce_max(int(not weights_are_finite(self._model))):
            return (yield from self._back_from(step, progress, "weights", []))
        if self._model.compute_dtype == torch.float16:
            return (yield from self._with_more_range(step, progress))
        windows = self._order.windows(step - 1, progress.left_out)
        found = self._world.broadcast_object(lambda: self._offenders(windows)) if self._searches else []
        if not found:
            self._tries[step] += 1
            if self._tries[step] > TRIES:
                return (yield from self._back_from(step, progress, "gradient", []))
            yield BadNumbers(step, "gradient", [], Phrase("it does not happen again: the step is made once more"))
            return _before(step, progress)
        names = self._named(found)
        if len(found) > max(SHARE_OF_OFFENDERS * sum(map(len, windows)), 1) or sum(map(len, windows)) == 1:
            return (yield from self._back_from(step, progress, "loss", names))
        progress.left_out += found
        yield BadNumbers(
            step, "loss", names, Phrase("left out from now on: {n_samples:,} of its samples", {"n_samples": len(found)})
        )
        return _before(step, progress)

    def _offenders(self, windows: list[Int64s]) -> list[int]:
        """The windows of a step to blame, by their first targets."""
        return [
            first
            for some in windows
            for first in self._order.first_targets(
                np.fromiter(offenders(self._model, some, self._order.batch_of), np.int64)
            ).tolist()
        ]

    def _with_more_range(self, step: int, progress: Progress) -> Outcome:
        device = self._model.head_VC.device
        has_bf16 = device.type == "cuda" and torch.cuda.get_device_capability(device) >= NATIVE_BF16_CAPABILITY
        wider = torch.bfloat16 if has_bf16 else torch.float32
        compute_in(self._model, wider)
        progress.precision = str(wider).removeprefix("torch.")
        yield BadNumbers(
            step, "loss", [], Phrase("too large for float16: from now on in {dtype}", {"dtype": progress.precision})
        )
        return _before(step, progress)

    def _back_from(
        self, step: int, progress: Progress, what: Literal["loss", "gradient", "weights"], names: list[Phrase]
    ) -> Outcome:
        """To the last good state; the second time at the same step, past it."""
        self._returns[step] += 1
        if self._returns.total() > RETURNS:
            raise UserError(
                "{what} at step {step:,}, again and again",
                hint="{advice}",
                what=WENT_BAD[what],
                step=step,
                advice=self._hint,
            )
        skipped: list[int] = []
        if self._returns[step] > 1:
            to_blame = (step - 2, step - 1) if what == "weights" else (step - 1,)  # the update before spoilt them
            windows = [some for one in to_blame if one >= 0 for some in self._order.windows(one, progress.left_out)]
            skipped = [int(first) for some in windows for first in self._order.first_targets(some)]
        returned = self._reload()
        returned.left_out = [*progress.left_out, *skipped]
        returned.precision, returned.pieces = progress.precision, progress.pieces
        returned.rollbacks = progress.rollbacks + 1
        if progress.best_perplexity < returned.best_perplexity:  # that model stands in the run folder
            returned.best_perplexity, returned.best_step = progress.best_perplexity, progress.best_step
            returned.best_rollbacks = progress.best_rollbacks
        names = names or (self._named(skipped) if skipped else [])
        action = (
            Phrase(
                "back to the last good state, after step {step:,}, and past the {n_samples:,} samples that led there",
                {"step": returned.step, "n_samples": len(skipped)},
            )
            if skipped
            else Phrase("back to the last good state, after step {step:,}", {"step": returned.step})
        )
        yield BadNumbers(step, what, names, action)
        return returned

    def _named(self, first_targets: list[int]) -> list[Phrase]:
        named = [self._origins.of(first).shown for first in first_targets[:SAMPLES_NAMED]]
        more = len(first_targets) - len(named)
        return named + ([Phrase("and {more:,} more", {"more": more})] if more else [])


def _before(step: int, progress: Progress) -> Progress:
    """Make the step again, if none was made after it; on a card the verdict may come a step later."""
    if progress.step == step:
        progress.step -= 1
    return progress
