"""What happens during a run, as values: the loop yields them, progress views and trackers read them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tunesmith.config import Recompute
from tunesmith.generation.generate import GeneratedText
from tunesmith.messages.catalogue import Phrase
from tunesmith.monitoring.system_monitor import SystemReading
from tunesmith.training.plan import TrainPlan


@dataclass(frozen=True)
class Planned:
    """Everything is decided and loaded; the first step has not been made."""

    model: str
    parameters: int
    out: Path
    plan: TrainPlan
    resumed_at_step: int
    notices: tuple[str, ...] = ()
    """What the user should know before it goes on, for example that a checkpoint was damaged."""


@dataclass(frozen=True)
class ResumeVerified:
    """The first steps were made twice, once with a break (`--verify-resume`).

    Attributes:
        steps: how many.
        broken_after: the step behind which the second run was broken off and resumed.
        differing: what was not bitwise the same in the end, with the largest difference; empty where all was.
    """

    steps: int
    broken_after: int
    differing: dict[str, float]


@dataclass(frozen=True)
class Evaluated:
    """The validation split was measured. Step 0 is the model before training."""

    step: int
    epoch: float
    nats_per_token: float
    perplexity: float
    is_best: bool


@dataclass(frozen=True)
class Began:
    """Something other than steps takes its time now.

    Attributes:
        what: measuring the validation split, or writing samples.
    """

    what: Literal["evaluating", "writing"]


@dataclass(frozen=True)
class Sampled:
    """The fixed prompts were continued, with the same seeds: by the base model, at evaluations, at the end by the best.

    Attributes:
        step: of the model that wrote.
        texts: what it wrote.
        is_final: whether the run ends with this.
    """

    step: int
    texts: list[GeneratedText]
    is_final: bool = False


@dataclass(frozen=True)
class Stepped:
    """A step was made and its numbers were read from the device.

    Attributes:
        step: which one, from 1.
        epoch: passages through the text so far.
        loss_nats_per_token: of this step, before its update.
        learning_rate: of this step.
        grad_norm: of the whole gradient, before it was clipped.
        tokens: learned from so far.
        tokens_per_s: on average so far, while stepping.
        peak_memory_bytes: so far.
        eta_s: until the last step.
        training_s: spent in steps so far.
        data_wait_s: spent waiting for batches so far.
        elapsed_s: since the run began, over all resumes.
    """

    step: int
    epoch: float
    loss_nats_per_token: float
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
class MachineRead:
    """What the machine was doing around a step.

    Attributes:
        step: the last one made.
        elapsed_s: since the run began, over all resumes.
        reading: what was measured, its energy over all resumes.
    """

    step: int
    elapsed_s: float
    reading: SystemReading


@dataclass(frozen=True)
class Shrunk:
    """Memory ran out in a step; it was made again with fewer tokens at once and the same update.

    Attributes:
        step: which one.
        tokens_per_micro_batch: from now on.
        micro_batches: of a step, from now on.
        recompute: what is computed once more, from now on.
        was_slow: the driver swapped and did not fail: from the next step on, nothing had to be made again.
    """

    step: int
    tokens_per_micro_batch: int
    micro_batches: int
    recompute: Recompute
    was_slow: bool = False


@dataclass(frozen=True)
class CompilationFailed:
    """The compiler failed, in this step; training goes on as the model is written.

    Attributes:
        step: which one.
        reason: in the compiler's words.
    """

    step: int
    reason: str


@dataclass(frozen=True)
class BadNumbers:
    """The loss or the gradient of a step was not finite: nothing was learned from it, and this was done about it.

    Attributes:
        step: of the update that was not made.
        what: "loss", "gradient" or "weights".
        samples: which did it, with file and line where they are known; empty where it was none of them.
        action: what happens now.
    """

    step: int
    what: Literal["loss", "gradient", "weights"]
    samples: list[Phrase]
    action: Phrase


WENT_BAD: dict[str, Phrase] = {
    "loss": Phrase("the loss became no number"),
    "gradient": Phrase("the gradient became no number"),
    "weights": Phrase("the weights became no number"),
}
"""What happened to each, in words."""


@dataclass(frozen=True)
class LossSpiked:
    """A loss stood far above those before it; training goes on."""

    step: int
    loss_nats_per_token: float
    usual_nats_per_token: float


@dataclass(frozen=True)
class Saved:
    """A checkpoint is safely on disk."""

    step: int
    folder: Path


@dataclass(frozen=True)
class CheckpointDamaged:
    """A run that went back found a newer checkpoint damaged: it was set aside, and an older one taken.

    Attributes:
        step: of the checkpoint.
        folder: where it was.
        reason: which file is not as it was written, and how.
    """

    step: int
    folder: Path
    reason: str


@dataclass(frozen=True)
class StopAsked:
    """Somebody asked for the end (Ctrl-C, SIGTERM, the live page): the step is finished, and everything is saved."""


@dataclass(frozen=True)
class SaveFailed:
    """The disk is full or fails: what is on it stays, training goes on, and the next checkpoint tries again."""

    step: int
    reason: Phrase


@dataclass(frozen=True)
class TrainResult:
    """The outcome of a run.

    Attributes:
        base_perplexity: on the validation split, before training.
        perplexity: on the validation split, of the model in `out`; None if it was stopped before there was one.
        best_step: after which the model in `out` was taken.
        steps: optimizer steps made.
        tokens: tokens learned from, each epoch counted.
        duration_s: from the first evaluation to the last, over all resumes.
        tokens_per_s: while stepping.
        peak_memory_bytes: of this process, or allocated on the card.
        predicted_peak_memory_bytes: by the plan.
        predicted_duration_s: of all steps, by the plan; None where it did not know the GPU's speed.
        energy_joules: drawn by the device that computed; None where nothing tells it.
        out: the model folder.
        interrupted: whether it was stopped before its last step; `train --resume` continues.
        stopped_by: what stopped it, for example "--max-hours 8"; empty where nothing did.
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
class Ended:
    """The run is over, or was stopped with everything saved."""

    result: TrainResult


@dataclass(frozen=True)
class ReportWritten:
    """The report on the run stands in its folder."""

    path: Path


@dataclass(frozen=True)
class PageOpened:
    """The live page of the run (`--dashboard`) is served at this address."""

    url: str


@dataclass(frozen=True)
class WatchFailed:
    """A report could not be written, or a tracker gave up: the run itself is untouched.

    Attributes:
        what: which one.
        reason: in its own words.
    """

    what: str
    reason: str


Event = (
    Planned
    | ResumeVerified
    | Began
    | Evaluated
    | Sampled
    | Stepped
    | MachineRead
    | Shrunk
    | CompilationFailed
    | BadNumbers
    | LossSpiked
    | Saved
    | SaveFailed
    | CheckpointDamaged
    | StopAsked
    | Ended
    | ReportWritten
    | PageOpened
    | WatchFailed
)


KINDS: dict[type, str] = {
    Stepped: "step",
    Shrunk: "out_of_memory",
    CompilationFailed: "compilation_failed",
    BadNumbers: "bad_numbers",
    LossSpiked: "loss_spike",
    SaveFailed: "save_failed",
}
"""Events that are kept as they are."""


def metrics_of(event: Event) -> dict[str, Any] | None:
    """The line an event leaves in `metrics.jsonl`, units in the keys, or None."""
    if isinstance(event, Evaluated):
        return {
            "kind": "evaluation",
            "step": event.step,
            "epoch": event.epoch,
            "validation_nats_per_token": event.nats_per_token,
            "validation_perplexity": event.perplexity,
            "is_best": event.is_best,
        }
    if isinstance(event, MachineRead):
        return {"kind": "machine", "step": event.step, "elapsed_s": event.elapsed_s, **vars(event.reading)}
    if type(event) not in KINDS:
        return None
    return {"kind": KINDS[type(event)], **{name: _in_english(value) for name, value in vars(event).items()}}


def _in_english(value: object) -> object:
    """What people read, for machines."""
    if isinstance(value, list):
        return [_in_english(one) for one in value]
    return value.in_english if isinstance(value, Phrase) else value
