"""Losses that stand out from those before them: reported, so that nobody has to see them in a curve."""

import statistics

REMEMBERED = 50
ENOUGH = 10
"""Losses, before any of them can stand out."""
DEVIATIONS = 6.0
AT_LEAST_NATS = 0.5
"""Small wobbles of a loss that hardly changes are none."""


def usual_loss_if_spike(loss: float, recent: list[float]) -> float | None:
    """The usual loss if this one stands far above it, else None; remembers the loss.

    Args:
        loss: in nats per token.
        recent: what was seen before, the oldest first; changed in place.
    """
    usual = None
    if len(recent) >= ENOUGH:
        mean = statistics.fmean(recent)
        if loss > mean + max(DEVIATIONS * statistics.pstdev(recent), AT_LEAST_NATS):
            usual = mean
    recent.append(loss)
    del recent[:-REMEMBERED]
    return usual
