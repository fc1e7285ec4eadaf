"""What a person should hear of while a run goes on: a line or two for each thing that is not as usual."""

from tunesmith.interfaces.tables import printable
from tunesmith.training.events import BadNumbers, Event, LossSpiked, ResumeVerified, SaveFailed, Shrunk, StopAsked


def notices_of(event: Event) -> list[str]:
    """Lines to print; none for what is as usual."""
    lines: list[str] = []
    if isinstance(event, Shrunk):
        what = "steps suddenly became slow: the driver swaps" if event.was_slow else "memory ran out"
        done = "from here on" if event.was_slow else "it was made again with"
        more = "" if event.recompute == "nothing" else f", recomputing {event.recompute}"
        lines.append(
            f"{what} in step {event.step:,}; {done} {event.tokens_per_micro_batch:,} tokens at once, "
            f"{event.micro_batches} times a step{more}: the update is the same, and it stays so"
        )
    elif isinstance(event, BadNumbers):
        lines.append(
            f"warning: step {event.step:,}: the {event.what} became no number (NaN or infinity); {event.action}"
        )
        lines += [f"  {printable(sample)}" for sample in event.samples]
    elif isinstance(event, LossSpiked):
        lines.append(
            f"warning: the loss of step {event.step:,} is {event.loss_nats_per_token:.3f}, far above the usual "
            f"{event.usual_nats_per_token:.3f}"
        )
    elif isinstance(event, SaveFailed):
        lines.append(
            f"warning: step {event.step:,} could not be saved ({event.reason}); training goes on, what was saved "
            "before stays, and the next checkpoint tries again"
        )
    elif isinstance(event, StopAsked):
        lines.append("stopping: the step is finished and everything saved; Ctrl-C again stops at once")
    elif isinstance(event, ResumeVerified):
        lines.append(_verified(event))
    return lines


def _verified(event: ResumeVerified) -> str:
    how = f"{event.steps} steps with a break after {event.broken_after}"
    if not event.differing:
        return f"resume verified: {how} end bitwise like {event.steps} without"
    differences = ", ".join(f"{name} by up to {largest:.1e}" for name, largest in event.differing.items())
    return f"warning: resume is not exact on this device: {how} differ from {event.steps} without in {differences}"
