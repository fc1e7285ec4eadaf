"""What may be asked differently when a run is resumed: how long it goes on, and how often it measures and saves."""

from dataclasses import replace

from tunesmith.config import TrainConfig
from tunesmith.messages.catalogue import say
from tunesmith.training.plan import TrainPlan

LENGTH = ("epochs", "max_steps")
INTERVALS = ("eval_every_steps", "save_every_steps")
ONE_SITTING = (
    *("resume", "verify_resume", "max_hours", "stop_at", "json", "quiet", "lang", "out"),
    *("dashboard", "devices", "shard"),
)
"""Not kept: each command says them anew."""
MAY_CHANGE = (*ONE_SITTING, *LENGTH, *INTERVALS, "keep_gb", "sample_prompts", "track")


def changed_plan(plan: TrainPlan, before: TrainConfig, now: TrainConfig) -> TrainPlan:
    """The plan of a run that was asked one thing before and is asked another now; everything else stays decided.

    Args:
        plan: made for what was asked before.
        before: what was asked.
        now: what is asked; differs in `MAY_CHANGE` only.
    """
    intervals = {
        name: getattr(now, name) for name in INTERVALS if getattr(now, name) not in (getattr(before, name), "auto")
    }
    reasons = dict.fromkeys(intervals, say("asked for"))
    if all(getattr(now, name) == getattr(before, name) for name in LENGTH):
        return replace(plan, **intervals, reasons={**plan.reasons, **reasons})
    steps = max(round(plan.steps_per_epoch * now.epochs), 1)
    reasons["steps"] = say(
        "{epochs:g} epochs of {per_epoch}, asked for when it was resumed",
        epochs=now.epochs,
        per_epoch=plan.steps_per_epoch,
    )
    if now.max_steps is not None and now.max_steps < steps:
        steps, reasons["steps"] = now.max_steps, say("--max-steps, asked for when it was resumed")
    return replace(
        plan, **intervals, steps=steps, epochs=steps / plan.steps_per_epoch, reasons={**plan.reasons, **reasons}
    )
