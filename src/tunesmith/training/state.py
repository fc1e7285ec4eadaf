"""The train state: the counters that change during a run, and that a checkpoint keeps."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from tunesmith.config import ActivationCheckpointing


@dataclass
class TrainState:
    """What the trainer changes.

    Attributes:
        tokens: trained on.
        training_s: spent in steps.
        data_wait_s: spent waiting for batches.
        energy_joules: used by the device that computes, as far as it can be read.
        best_perplexity: lowest after any step so far; infinite before the first evaluation.
        rollbacks: returns to a checkpoint: after each, the same step number means other weights.
        best_rollbacks: their number when the best model was found.
        micro_batch_splits: into how many parts each micro-batch is split, because memory ran out.
        activation_checkpointing: as planned, or more because memory ran out.
        precision: of the computation, where it had to differ from the plan; else empty.
        excluded_windows: no longer trained on, because they made the loss or the gradient NaN or Inf.
        recent_losses: of the steps that were read last, to detect a spike.
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
    micro_batch_splits: int = 1
    activation_checkpointing: ActivationCheckpointing = "none"
    precision: str = ""
    excluded_windows: list[int] = field(default_factory=list)
    recent_losses: list[float] = field(default_factory=list)

    @property
    def weights_id(self) -> tuple[int, int]:
        """Identify the current weights: a step number alone does not, once the run has rolled back."""
        return self.rollbacks, self.step

    @property
    def is_at_best(self) -> bool:
        """Whether the current weights are the best so far."""
        return (self.best_rollbacks, self.best_step) == self.weights_id

    @property
    def tokens_per_s(self) -> float:
        """On average, while stepping."""
        return self.tokens / self.training_s if self.training_s else 0.0

    def as_json(self) -> dict[str, Any]:
        """Return the values that JSON knows; defaults replace those that are not finite yet."""
        return {
            key: value for key, value in asdict(self).items() if not isinstance(value, float) or math.isfinite(value)
        }
