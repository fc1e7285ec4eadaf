"""How far a run is: the numbers that change while it goes on, and that a checkpoint keeps."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from tunesmith.config import Recompute


@dataclass
class Progress:
    """What the loop changes.

    Attributes:
        step: optimizer steps made.
        tokens: tokens learned from.
        training_s: time spent in steps.
        elapsed_s: time spent in all.
        data_wait_s: time spent waiting for batches.
        energy_joules: drawn by the device that computes, as far as it could be read.
        base_perplexity: before training.
        best_perplexity: lowest after any step so far; infinite before the first evaluation.
        best_step: when that was.
        rollbacks: how often the run went back to a checkpoint: after each, the same step number names other weights.
        best_rollbacks: how often it had done so when the best model was found.
        pieces: into how many each micro-batch is dealt, because memory ran out.
        recompute: what the backward pass computes once more: what was planned, or more because memory ran out.
        precision: of the arithmetic, where it had to be another than planned; else empty.
        left_out: windows that are not learned any more, because they made the loss or the gradient no number.
        recent_losses: of the steps that were read last, in nats per token, to know a spike.
    """

    step: int = 0
    tokens: int = 0
    training_s: float = 0.0
    elapsed_s: float = 0.0
    data_wait_s: float = 0.0
    energy_joules: float | None = None
    base_perplexity: float = float("nan")
    best_perplexity: float = float("inf")
    best_step: int = 0
    rollbacks: int = 0
    best_rollbacks: int = 0
    pieces: int = 1
    recompute: Recompute = "nothing"
    precision: str = ""
    left_out: list[int] = field(default_factory=list)
    recent_losses: list[float] = field(default_factory=list)

    @property
    def weights_id(self) -> tuple[int, int]:
        """What names the weights as they are now: a step number alone does not, once the run has gone back."""
        return self.rollbacks, self.step

    @property
    def is_at_best(self) -> bool:
        """Whether the weights as they are now are the best so far."""
        return (self.best_rollbacks, self.best_step) == self.weights_id

    def as_json(self) -> dict[str, Any]:
        """Numbers that JSON knows: what is not finite yet is left out."""
        return {
            key: value for key, value in asdict(self).items() if not isinstance(value, float) or math.isfinite(value)
        }
