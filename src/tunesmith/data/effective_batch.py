"""How many tokens an optimizer step learns from, where nobody said it."""

from tunesmith.messages.catalogue import say
from tunesmith.utils.device import Decision

ENOUGH_STEPS = 600
"""Optimizer steps that a run should have if its text allows it."""
FEWEST_TOKENS_PER_STEP = 256
MOST_TOKENS_PER_STEP = 32_768


def choose_tokens_per_step(epoch_tokens: int, epochs: float) -> Decision[int]:
    """The largest power of two that leaves the run enough updates, within what is steady and what is useful."""
    wanted = epoch_tokens * epochs / ENOUGH_STEPS
    power = 1 << max(int(wanted), 1).bit_length() - 1
    tokens = min(max(power, FEWEST_TOKENS_PER_STEP), MOST_TOKENS_PER_STEP)
    if tokens == FEWEST_TOKENS_PER_STEP:
        return Decision(
            tokens, say("little text: the smallest batch that is still steady, so that it gets enough updates")
        )
    if tokens == MOST_TOKENS_PER_STEP:
        return Decision(tokens, say("much text: larger batches would only make fewer updates"))
    return Decision(tokens, say("so that the run has at least {steps} updates", steps=ENOUGH_STEPS))


def steps_per_epoch(epoch_tokens: int, n_windows: int, tokens_per_step: int) -> int:
    """How many optimizer steps make an epoch; each of them gets a window at least."""
    return min(max(round(epoch_tokens / tokens_per_step), 1), n_windows)
