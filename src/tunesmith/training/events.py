"""Events of a run: `Trainer.events()` yields them; metrics, trackers, progress display and report read them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tunesmith.config import ActivationCheckpointing
from tunesmith.generation.generate import GeneratedText
from tunesmith.i18n import LazyString
from tunesmith.monitoring.system_monitor import SystemReading
from tunesmith.training.plan import TrainPlan


@dataclass(frozen=True)
class RunStarted:
    """The plan is made and everything is loaded; the first step comes next.

    Attributes:
        notices: what the user should know before training, for example that a checkpoint was damaged.
    """

    model: str
    parameters: int
    out: Path
    plan: TrainPlan
    resumed_at_step: int
    notices: tuple[str, ...] = ()


@dataclass(frozen=True)
class ResumeVerified:
    """The first steps were computed twice, once with an interruption (`--verify-resume`).

    Attributes:
        steps: how many.
        broken_after: the step after which the second run was interrupted and resumed.
        differing: what is not bitwise the same at the end, with the largest difference.
    """

    steps: int
    broken_after: int
    differing: dict[str, float]


@dataclass(frozen=True)
class PhaseStarted:
    """Something other than steps takes time now: an evaluation, or the generation of samples."""

    what: Literal["evaluating", "sampling"]


@dataclass(frozen=True)
class Evaluated:
    """Loss and perplexity on the validation split; step 0 is the model before training."""

    step: int
    epoch: float
    val_loss: float
    val_perplexity: float
    is_best: bool


@dataclass(frozen=True)
class Sampled:
    """Continuations of the fixed prompts with fixed seeds; before training, at evaluations, and by the best model."""

    step: int
    texts: list[GeneratedText]
    is_final: bool = False


@dataclass(frozen=True)
class StepLogged:
    """An optimizer step whose values were read from the device.

    Attributes:
        train_loss: of this step, before its update.
        grad_norm: of the whole gradient, before clipping.
        tokens: trained on so far.
        tokens_per_s: on average so far, while stepping.
        eta_s: until the last step.
        data_wait_s: spent waiting for batches so far.
        elapsed_s: since the run started, over all resumes.
    """

    step: int
    epoch: float
    train_loss: float
    learning_rate: float
    grad_norm: float
    tokens: int
    tokens_per_s: float
    peak_memory_bytes: int
    eta_s: float
    training_s: float
    data_wait_s: float
    elapsed_s: float


@dataclass(frozen=True)
class SystemMetricsLogged:
    """Load, memory, temperature and energy around a step.

    Attributes:
        step: the last one.
        elapsed_s: since the run started, over all resumes.
        reading: its energy is that of all resumes together.
    """

    step: int
    elapsed_s: float
    reading: SystemReading


@dataclass(frozen=True)
class MicroBatchReduced:
    """Memory ran out in a step; it was retried with smaller micro-batches and gives the same update.

    Attributes:
        tokens_per_micro_batch: from now on.
        micro_batches: of a step, from now on.
        activation_checkpointing: from now on.
        was_slow: the driver moved memory to the host instead of failing; nothing had to be retried.
    """

    step: int
    tokens_per_micro_batch: int
    micro_batches: int
    activation_checkpointing: ActivationCheckpointing
    was_slow: bool = False


@dataclass(frozen=True)
class CompilationFailed:
    """The compiler failed in this step, with the reason in its own words; training continues uncompiled."""

    step: int
    reason: str


@dataclass(frozen=True)
class NonFiniteDetected:
    """The loss or the gradient of a step is NaN or Inf; its update was skipped.

    Attributes:
        samples: the samples that cause it, with file and line where known.
        action: what happens now.
    """

    step: int
    what: Literal["loss", "gradient", "weights"]
    samples: list[LazyString]
    action: LazyString


NONFINITE_MESSAGES: dict[str, LazyString] = {
    "loss": LazyString("non-finite loss"),
    "gradient": LazyString("non-finite gradient"),
    "weights": LazyString("non-finite weights"),
}
"""What happened, in words for people."""


@dataclass(frozen=True)
class LossSpiked:
    """A loss far above those before it; training continues."""

    step: int
    train_loss: float
    usual_loss: float


@dataclass(frozen=True)
class CheckpointSaved:
    """A checkpoint is safely on disk."""

    step: int
    folder: Path


@dataclass(frozen=True)
class CheckpointFailed:
    """The disk is full or fails: earlier checkpoints stay, and the next one tries again."""

    step: int
    reason: LazyString


@dataclass(frozen=True)
class CheckpointDamaged:
    """A run that rolled back found a newer checkpoint damaged: it was renamed, and an older one loaded.

    Attributes:
        reason: the file that is not as it was written, and how.
    """

    step: int
    folder: Path
    reason: str


@dataclass(frozen=True)
class LastModelPublished:
    """No evaluation gave a finite perplexity: instead of the best model, that of the last step is saved."""

    step: int


@dataclass(frozen=True)
class StopRequested:
    """Ctrl-C, SIGTERM or the dashboard asked for the end: the step is finished, and everything is saved."""


@dataclass(frozen=True)
class TrainResult:
    """The result of a run.

    Attributes:
        base_perplexity: on the validation split, before training.
        perplexity: on the validation split, of the model in `out`; None if the run was stopped before there was one.
        best_step: after which the model in `out` was saved.
        tokens: trained on, each epoch counted.
        duration_s: from the first evaluation to the last, over all resumes.
        tokens_per_s: while stepping.
        peak_memory_bytes: of this process, or allocated on the GPU.
        predicted_peak_memory_bytes: by the plan.
        predicted_duration_s: of all steps, by the plan; None where the GPU's speed is not known.
        energy_joules: used by the device that computed; None where it cannot be read.
        interrupted: whether it was stopped before its last step; `train --resume` continues.
        stopped_by: for example "--max-hours 8"; empty where nothing stopped it.
    """

    base_perplexity: float
    perplexity: float | None
    best_step: int
    steps: int
    tokens: int
    duration_s: float
    tokens_per_s: float
    peak_memory_bytes: int
    predicted_peak_memory_bytes: int
    predicted_duration_s: float | None
    energy_joules: float | None
    out: str
    interrupted: bool
    stopped_by: str


@dataclass(frozen=True)
class RunEnded:
    """The run is complete, or was stopped with everything saved; always the last event."""

    result: TrainResult


@dataclass(frozen=True)
class ReportWritten:
    """The report on the run is in its directory."""

    path: Path


@dataclass(frozen=True)
class DashboardStarted:
    """The dashboard of the run (`--dashboard`) is served at this address."""

    url: str


@dataclass(frozen=True)
class IntegrationFailed:
    """A tracker, the dashboard or the report failed; the run itself is not affected.

    Attributes:
        what: which one.
        reason: in its own words.
    """

    what: str
    reason: str


Event = (
    RunStarted
    | ResumeVerified
    | PhaseStarted
    | Evaluated
    | Sampled
    | StepLogged
    | SystemMetricsLogged
    | MicroBatchReduced
    | CompilationFailed
    | NonFiniteDetected
    | LossSpiked
    | CheckpointSaved
    | CheckpointFailed
    | CheckpointDamaged
    | LastModelPublished
    | StopRequested
    | RunEnded
    | ReportWritten
    | DashboardStarted
    | IntegrationFailed
)


KINDS: dict[type, str] = {
    StepLogged: "step",
    Evaluated: "eval",
    SystemMetricsLogged: "system",
    MicroBatchReduced: "out_of_memory",
    CompilationFailed: "compilation_failed",
    NonFiniteDetected: "nonfinite",
    LossSpiked: "loss_spike",
    CheckpointFailed: "checkpoint_failed",
}
"""Events that metrics.jsonl keeps."""


def metrics_of(event: Event) -> dict[str, Any] | None:
    """Return the line of an event in metrics.jsonl, or None."""
    kind = KINDS.get(type(event))
    if kind is None:
        return None
    values = {key: _in_english(value) for key, value in vars(event).items()}
    if isinstance(event, SystemMetricsLogged):
        values |= vars(values.pop("reading"))
    return {"kind": kind, **values}


def _in_english(value: object) -> Any:  # noqa: ANN401
    if isinstance(value, list):
        return [_in_english(item) for item in value]
    return value.source if isinstance(value, LazyString) else value
