"""The learning rate as a pure function of the step."""


def learning_rate_at(step: int, *, peak: float, warmup_steps: int, total_steps: int) -> float:
    """Rise linearly to the peak, then fall linearly towards 0.

    Args:
        step: from 0.
        peak: reached at the last warm-up step.
        warmup_steps: how long it rises; may be 0.
        total_steps: of the run; the step behind the last one would have rate 0.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    return peak * (total_steps - step) / (total_steps - warmup_steps)
