"""What several processes hold each, as a line of a plan."""

from tunesmith.messages.catalogue import say
from tunesmith.training.plan import TrainPlan


def process_rows(plan: TrainPlan) -> list[tuple[str, str, str]]:
    """Name, value and reason; nothing for a single process."""
    if plan.devices == 1:
        return []
    value = say(
        "{n}, each with a part of the model" if plan.shard else "{n}, each with the whole model", n=plan.devices
    )
    return [(say("processes"), value, plan.reasons.get("shard", ""))]
