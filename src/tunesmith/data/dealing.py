"""Windows dealt to micro-batches of equal size, so that hardly anything has to be filled up.

A run's micro-batches are all about equally full: kernels meet few shapes, memory is known, and no step weighs more than
another. Windows go longest first to the emptiest micro-batch (Graham 1969, "Bounds on multiprocessing timing
anomalies"), many at a time; which of several, is left to chance while there is room. Short windows come last and even
out what is left, and every micro-batch holds long and short ones alike.
"""

from dataclasses import dataclass

import numpy as np

from tunesmith.data.effective_batch import steps_per_epoch
from tunesmith.data.stretches import Int64s

TOKENS_MULTIPLE = 64
"""Sizes of micro-batches are multiples of this, which every matrix product likes."""
SHARE_BY_CHANCE = 0.5
"""Of the tokens; the others even out."""
GROWTH = 1.004
FEW_STEPS = 6


@dataclass(frozen=True)
class MicroBatchShape:
    """How an epoch is divided.

    Attributes:
        steps_per_epoch: optimizer steps.
        per_step: micro-batches of one step.
        tokens: of one micro-batch at most.
    """

    steps_per_epoch: int
    per_step: int
    tokens: int


def shape_of_micro_batches(
    lengths: Int64s, *, epoch_tokens: int, tokens_per_step: int, most_tokens: int, stays_whole: bool = False
) -> MicroBatchShape:
    """The fewest steps of about `tokens_per_step` tokens whose micro-batches hold at most `most_tokens` each.

    A window that is longer than either has a micro-batch for itself, and where there are few long windows, every step
    gets one.

    Args:
        lengths: of the windows of an epoch.
        epoch_tokens: of an epoch, on average.
        tokens_per_step: effective batch.
        most_tokens: that fit the memory.
        stays_whole: whether a step of one micro-batch has to stay one, because more would need more memory.
    """
    tokens_per_step = min(tokens_per_step, int(lengths.sum()))
    per_step = -(-tokens_per_step // most_tokens)
    capacity = max(rounded_up(-(-tokens_per_step // per_step)), rounded_up(int(lengths.max())))
    steps = steps_per_epoch(epoch_tokens, len(lengths), tokens_per_step)
    may_add = not (stays_whole and per_step == 1)
    while True:
        per_step = min(per_step, len(lengths) // steps)
        fullest = int(np.bincount(deal(lengths, steps * per_step), lengths).max())
        if fullest <= capacity or steps * per_step == len(lengths):
            return MicroBatchShape(steps, per_step, rounded_up(fullest))
        if may_add and steps < FEW_STEPS and (per_step + 1) * steps <= len(lengths):
            per_step += 1  # one step more would change the effective batch
        else:
            steps = min(max(steps + 1, int(steps * GROWTH)), len(lengths))


def rounded_up(tokens: int) -> int:
    """To the next size that matrix products like."""
    return -(-tokens // TOKENS_MULTIPLE) * TOKENS_MULTIPLE


def deal(lengths: Int64s, n_batches: int, random: np.random.Generator | None = None) -> Int64s:
    """For each window the micro-batch it goes to; every micro-batch gets one at least.

    Args:
        lengths: of the windows, at least as many as micro-batches.
        n_batches: how many micro-batches.
        random: of all that is left to chance; None leaves nothing to it.
    """
    batch_of_window = np.zeros(len(lengths), np.int64)
    if n_batches == 1:
        return batch_of_window
    tie_breaker = np.arange(len(lengths)) if random is None else random.permutation(len(lengths))
    order = np.lexsort((tie_breaker, -lengths))
    left_tokens = int(lengths.sum() * SHARE_BY_CHANCE)
    filled = np.zeros(n_batches, np.int64)
    first = 0
    while first < len(order):
        # Each of these would come before the emptiest one gets its second window.
        emptiest = np.argsort(filled, kind="stable")
        n_next = np.searchsorted(filled[emptiest], filled[emptiest[0]] + lengths[order[first]])
        windows = order[first : first + n_next]
        batches = emptiest[: len(windows)]
        if random is not None and left_tokens > 0:
            batches = random.permutation(emptiest[:n_next])[: len(windows)]
        batch_of_window[windows] = batches
        filled[batches] += lengths[windows]
        left_tokens -= int(lengths[windows].sum())
        first += len(windows)
    return batch_of_window
