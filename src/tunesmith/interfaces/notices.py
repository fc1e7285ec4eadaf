"""What a person should hear of while a run goes on: one line for each thing that is not as usual."""

from tunesmith.interfaces.tables import printable
from tunesmith.training.events import BadNumbers, Event, LossSpiked, SaveFailed, Shrunk, StopAsked


def notices_of(event: Event) -> list[str]:
    """Lines to print; none for what is as usual."""
    if isinstance(event, Shrunk):
        return [
            (
                f"memory ran out in step {event.step:,}; it was made again with {event.tokens_per_micro_batch:,} "
                f"tokens at once, {event.micro_batches} times a step: the update is the same, and it stays so"
            )
        ]
    if isinstance(event, BadNumbers):
        first = f"warning: step {event.step:,}: the {event.what} became no number (NaN or infinity); {event.action}"
        return [first, *(f"  {printable(sample)}" for sample in event.samples)]
    if isinstance(event, LossSpiked):
        return [
            (
                f"warning: the loss of step {event.step:,} is {event.loss_nats_per_token:.3f}, far above the usual "
                f"{event.usual_nats_per_token:.3f}"
            )
        ]
    if isinstance(event, SaveFailed):
        return [
            (
                f"warning: step {event.step:,} could not be saved ({event.reason}); training goes on, what was saved "
                "before stays, and the next checkpoint tries again"
            )
        ]
    if isinstance(event, StopAsked):
        return ["stopping: the step is finished and everything saved; Ctrl-C again stops at once"]
    return []
