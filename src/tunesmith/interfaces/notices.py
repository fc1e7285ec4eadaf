"""What a person should hear of while a run goes on: a line or two for each thing that is not as usual."""

from tunesmith.interfaces.tables import printable
from tunesmith.messages.catalogue import say
from tunesmith.training.events import (
    NONFINITE_MESSAGES,
    CheckpointDamaged,
    CheckpointFailed,
    CompilationFailed,
    DashboardStarted,
    Event,
    IntegrationFailed,
    LastModelPublished,
    LossSpiked,
    MicroBatchReduced,
    NonFiniteDetected,
    ResumeVerified,
    StopRequested,
)


def notices_of(event: Event) -> list[str]:
    """Lines to print; none for what is as usual."""
    lines: list[str] = []
    if isinstance(event, MicroBatchReduced):
        lines.append(_shrunk(event))
    elif isinstance(event, NonFiniteDetected):
        lines.append(
            say(
                "warning: step {step:,}: {what} (NaN or infinity); {action}",
                step=event.step,
                what=NONFINITE_MESSAGES[event.what],
                action=event.action,
            )
        )
        lines += [f"  {printable(str(sample))}" for sample in event.samples]
    elif isinstance(event, LossSpiked):
        lines.append(
            say(
                "warning: the loss of step {step:,} is {loss:.3f}, far above the usual {usual:.3f}",
                step=event.step,
                loss=event.train_loss,
                usual=event.usual_loss,
            )
        )
    elif isinstance(event, CheckpointFailed):
        lines.append(
            say(
                "warning: step {step:,} could not be saved ({reason}); training goes on, what was saved before stays, "
                "and the next checkpoint tries again",
                step=event.step,
                reason=event.reason,
            )
        )
    elif isinstance(event, CheckpointDamaged):
        damaged = say(
            "the checkpoint {folder} is damaged ({reason}) and set aside", folder=event.folder, reason=event.reason
        )
        lines.append(say("warning: {notice}", notice=damaged))
    elif isinstance(event, LastModelPublished):
        lines.append(say("warning: no evaluation had a finite perplexity: the model of the last step is saved instead"))
    else:
        lines += _notice(event)
    return lines


def _notice(event: Event) -> list[str]:
    """Of events that have one line at most."""
    if isinstance(event, CompilationFailed):
        reason = printable(event.reason)
        return [say("warning: compiling failed ({reason}): training continues uncompiled, slower", reason=reason)]
    if isinstance(event, StopRequested):
        return [say("stopping: the step is finished and everything saved; Ctrl-C again stops at once")]
    if isinstance(event, ResumeVerified):
        return [_verified(event)]
    if isinstance(event, DashboardStarted):
        return [say("live page  {url}", url=event.url)]
    if isinstance(event, IntegrationFailed):
        failed = say("warning: {what}: {reason}; the run is untouched", what=event.what, reason=event.reason)
        return [printable(failed)]
    return []


def _shrunk(event: MicroBatchReduced) -> str:
    size = say(
        "{tokens:,} tokens at once, {times} times a step, recomputing {what}"
        if event.recompute != "nothing"
        else "{tokens:,} tokens at once, {times} times a step",
        tokens=event.tokens_per_micro_batch,
        times=event.micro_batches,
        what=event.recompute,
    )
    return say(
        "steps suddenly became slow: the driver swaps in step {step:,}; from here on {size}: the update is the same, "
        "and it stays so"
        if event.was_slow
        else "memory ran out in step {step:,}; it was made again with {size}: the update is the same, and it stays so",
        step=event.step,
        size=size,
    )


def _verified(event: ResumeVerified) -> str:
    if not event.differing:
        return say(
            "resume verified: {steps} steps with a break after {broken_after} end bitwise like {steps} without",
            steps=event.steps,
            broken_after=event.broken_after,
        )
    differences = (
        say("{name} by up to {largest:.1e}", name=name, largest=largest) for name, largest in event.differing.items()
    )
    return say(
        "warning: resume is not exact on this device: {steps} steps with a break after {broken_after} differ from "
        "{steps} without in {differences}",
        steps=event.steps,
        broken_after=event.broken_after,
        differences=", ".join(differences),
    )
