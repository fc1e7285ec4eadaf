"""Pack samples into micro-batches of (almost) equal token count, so that almost no padding is needed.

Samples become windows that are not longer than the context (`windows_of`), an epoch shuffles them (`Mixture`), and
`balance_windows` assigns them to micro-batches: greedy longest-first (LPT; Graham 1969, "Bounds on multiprocessing
timing anomalies"), each window to the micro-batch with the fewest tokens so far. The first half of the tokens is
assigned at random among candidates, so every micro-batch mixes long and short windows; short windows come last and even
out the rest. Equal sizes keep kernel shapes and peak memory constant and give every optimizer step the same weight.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tunesmith.data.spans import Int64s, IntColumns, Integers, TokenSpans
from tunesmith.i18n import say
from tunesmith.utils.device import Decision

TOKENS_MULTIPLE = 64
"""Micro-batch sizes are multiples of this, because matrix products are fastest there."""
RANDOM_FRACTION = 0.5
"""Fraction of the tokens that is assigned at random; the rest evens out the sizes."""
MAX_EXTRA_MICRO_BATCH_STEPS = 6
"""Epochs with fewer steps get more micro-batches a step instead of more steps when a micro-batch is too full."""
STEPS_GROWTH = 1.004
SAMPLES_AT_A_TIME = 1 << 20

MIN_RUN_STEPS = 600
"""Optimizer steps that a run should have if its text allows it."""
MIN_TOKENS_PER_STEP = 256
MAX_TOKENS_PER_STEP = 32_768


@dataclass(frozen=True)
class Windows(IntColumns):
    """Spans of target tokens, none longer than the context; each is a document of its own with positions from 0.

    Attributes:
        starts: index of the first target in the token file.
        lengths: number of targets.
        sample_ids: index of the sample in its split.
        prompt_tokens: number of targets at the start that are given and not predicted; less than `lengths`.
        sources: index of the SOURCE argument.
    """

    starts: Int64s
    lengths: Int64s
    sample_ids: Int64s
    prompt_tokens: Int64s
    sources: npt.NDArray[np.integer]


def windows_of(spans: TokenSpans, context_length: int) -> Windows:
    """Cut every sample into the fewest windows that fit the context, of nearly equal length.

    Windows that consist of prompt only are left out.
    """
    n_tokens = spans.lengths.astype(np.int64)
    n_windows = -(-n_tokens // context_length)
    sample_ids, number = _numbered(n_windows)
    shortest, n_longer = np.divmod(n_tokens, n_windows)
    lengths = shortest[sample_ids] + (number < n_longer[sample_ids])
    within = number * shortest[sample_ids] + np.minimum(number, n_longer[sample_ids])
    prompt_tokens = np.clip(spans.prompt_tokens[sample_ids].astype(np.int64) - within, 0, lengths)
    return _with_targets(spans, sample_ids, within, lengths, prompt_tokens)


def sliding_windows(spans: TokenSpans, context_length: int, stride: int) -> Windows:
    """Cover every sample with full windows that start one stride apart; each token is predicted in one window.

    Targets of an earlier window are given in a later one, so after the first window every token has at least
    `context_length - stride` tokens of context. Windows with nothing to predict are left out.
    """
    n_tokens = spans.lengths.astype(np.int64)
    n_windows = 1 + -(-np.maximum(n_tokens - context_length, 0) // stride)
    sample_ids, number = _numbered(n_windows)
    within = number * stride
    lengths = np.minimum(n_tokens[sample_ids] - within, context_length)
    predicted_before = np.where(number > 0, context_length - stride, 0)
    prompt_left = spans.prompt_tokens[sample_ids].astype(np.int64) - within
    given = np.clip(np.maximum(prompt_left, predicted_before), 0, lengths)
    return _with_targets(spans, sample_ids, within, lengths, given)


def _numbered(n_windows: Int64s) -> tuple[Int64s, Int64s]:
    """Sample of each window, and its number within the sample."""
    sample_ids = np.repeat(np.arange(len(n_windows)), n_windows)
    return sample_ids, np.arange(len(sample_ids)) - np.repeat(np.cumsum(n_windows) - n_windows, n_windows)


def _with_targets(spans: TokenSpans, sample_ids: Int64s, within: Int64s, lengths: Int64s, given: Int64s) -> Windows:
    windows = Windows(spans.starts[sample_ids] + within, lengths, sample_ids, given, spans.sources[sample_ids])
    return windows[given < lengths]


def count_windows(spans: TokenSpans, context_length: int) -> int:
    """Count the windows of any number of samples in little memory."""
    firsts = range(0, len(spans), SAMPLES_AT_A_TIME)
    portions = (spans[first : first + SAMPLES_AT_A_TIME] for first in firsts)
    if spans.prompt_tokens.any():
        return sum(len(windows_of(portion, context_length)) for portion in portions)
    return sum(int((-(-portion.lengths.astype(np.int64) // context_length)).sum()) for portion in portions)


class Mixture:
    """Windows of several sources, shuffled; the order is a function of (seed, epoch) only.

    A weight of 2 shows every window of a source twice in an epoch; a weight of 0.3 shows three tenths of them and the
    next ones in the next epoch, so that over many epochs all are seen equally often.

    Args:
        windows: of all sources.
        weights: for each source.
        seed: of every epoch's permutation.

    Attributes:
        n_tokens: average tokens of an epoch.
    """

    def __init__(self, windows: Windows, weights: tuple[float, ...], *, seed: int) -> None:
        self._windows = windows
        self._weights = weights
        self._seed = seed
        self._is_plain = set(weights) == {1.0}
        self.n_tokens = epoch_tokens(windows.lengths, windows.sources, weights)

    def order(self, epoch: int) -> Int64s:
        """Indices of an epoch's windows, shuffled; every epoch has the same number."""
        rng = np.random.default_rng((self._seed, epoch))
        if self._is_plain:
            return rng.permutation(len(self._windows))
        return rng.permutation(np.concatenate([self._of_source(s, epoch) for s in range(len(self._weights))]))

    def _of_source(self, source: int, epoch: int) -> Int64s:
        indices = np.flatnonzero(self._windows.sources == source)
        repeats, fraction = divmod(self._weights[source], 1)
        n_extra = min(max(round(fraction * len(indices)), int(fraction > 0)), len(indices))
        shuffled = np.random.default_rng((self._seed, source)).permutation(indices)
        turns = (epoch * n_extra + np.arange(n_extra)) % max(len(indices), 1)
        return np.concatenate([np.tile(indices, int(repeats)), shuffled[turns]])


def epoch_tokens(lengths: Integers, sources: Integers, weights: tuple[float, ...]) -> int:
    """Average number of tokens in an epoch.

    Args:
        lengths: of windows or samples.
        sources: index of the SOURCE argument of each.
        weights: for each SOURCE.
    """
    if set(weights) == {1.0}:
        return int(lengths.sum(dtype=np.int64))
    tokens_of_source = np.bincount(sources, lengths, len(weights))
    return round(float((tokens_of_source * np.array(weights)).sum()))


@dataclass(frozen=True)
class EpochLayout:
    """How an epoch is divided.

    Attributes:
        steps_per_epoch: optimizer steps.
        per_step: micro-batches per step.
        tokens: of one micro-batch at most.
    """

    steps_per_epoch: int
    per_step: int
    tokens: int


def plan_micro_batches(
    lengths: Int64s, *, epoch_tokens: int, tokens_per_step: int, max_tokens: int, stays_whole: bool = False
) -> EpochLayout:
    """Divide an epoch into the fewest steps of about `tokens_per_step` tokens in micro-batches of up to `max_tokens`.

    A window that is longer than either gets a micro-batch of its own, and with few long windows every step gets one.

    Args:
        lengths: of the windows of an epoch.
        epoch_tokens: average tokens of an epoch.
        tokens_per_step: effective batch size.
        max_tokens: that fit in memory.
        stays_whole: keep a step of one micro-batch whole, because accumulation would need more memory.
    """
    tokens_per_step = min(tokens_per_step, int(lengths.sum()))
    per_step = -(-tokens_per_step // max_tokens)
    capacity = max(round_up_tokens(-(-tokens_per_step // per_step)), round_up_tokens(int(lengths.max())))
    steps = steps_per_epoch(epoch_tokens, len(lengths), tokens_per_step)
    may_add = not (stays_whole and per_step == 1)
    while True:
        per_step = min(per_step, len(lengths) // steps)
        fullest = int(np.bincount(balance_windows(lengths, steps * per_step), lengths).max())
        if fullest <= capacity or steps * per_step == len(lengths):
            return EpochLayout(steps, per_step, round_up_tokens(fullest))
        if may_add and steps < MAX_EXTRA_MICRO_BATCH_STEPS and (per_step + 1) * steps <= len(lengths):
            per_step += 1  # one more step would change the effective batch size
        else:
            steps = min(max(steps + 1, int(steps * STEPS_GROWTH)), len(lengths))


def round_up_tokens(tokens: int) -> int:
    """Round up to a multiple of `TOKENS_MULTIPLE`."""
    return -(-tokens // TOKENS_MULTIPLE) * TOKENS_MULTIPLE


def steps_per_epoch(epoch_tokens: int, n_windows: int, tokens_per_step: int) -> int:
    """Optimizer steps of an epoch; each gets at least one window."""
    return min(max(round(epoch_tokens / tokens_per_step), 1), n_windows)


def resolve_tokens_per_step(epoch_tokens: int, epochs: float) -> Decision[int]:
    """Choose an effective batch size: the largest power of two that leaves enough optimizer steps, within limits."""
    wanted_tokens = epoch_tokens * epochs / MIN_RUN_STEPS
    tokens = min(max(1 << max(int(wanted_tokens), 1).bit_length() - 1, MIN_TOKENS_PER_STEP), MAX_TOKENS_PER_STEP)
    if tokens == MIN_TOKENS_PER_STEP:
        return Decision(
            tokens, say("little text: the smallest batch that is still steady, so that it gets enough updates")
        )
    if tokens == MAX_TOKENS_PER_STEP:
        return Decision(tokens, say("much text: larger batches would only make fewer updates"))
    return Decision(tokens, say("so that the run has at least {steps} updates", steps=MIN_RUN_STEPS))


def balance_windows(lengths: Int64s, n_batches: int, rng: np.random.Generator | None = None) -> Int64s:
    """Return the micro-batch index of each window; every micro-batch gets at least one window.

    Args:
        lengths: of the windows, at least as many as micro-batches.
        n_batches: number of micro-batches.
        rng: for the random part; None assigns deterministically.
    """
    batch_of_window = np.zeros(len(lengths), np.int64)
    if n_batches == 1:
        return batch_of_window
    tie_breaker = np.arange(len(lengths)) if rng is None else rng.permutation(len(lengths))
    order = np.lexsort((tie_breaker, -lengths))
    random_tokens = int(lengths.sum() * RANDOM_FRACTION)
    filled = np.zeros(n_batches, np.int64)
    first = 0
    while first < len(order):
        # each of these would be chosen before the emptiest one gets its second window
        emptiest = np.argsort(filled, kind="stable")
        n_next = np.searchsorted(filled[emptiest], filled[emptiest[0]] + lengths[order[first]])
        windows = order[first : first + n_next]
        batches = emptiest[: len(windows)]
        if rng is not None and random_tokens > 0:
            batches = rng.permutation(emptiest[:n_next])[: len(windows)]
        batch_of_window[windows] = batches
        filled[batches] += lengths[windows]
        random_tokens -= int(lengths[windows].sum())
        first += len(windows)
    return batch_of_window


def balanced_groups(lengths: Int64s, n_groups: int, max_tokens: int) -> list[Int64s]:
    """Divide windows evenly into `n_groups`, or more, so that no group of several windows exceeds `max_tokens`.

    Returns:
        Indices into `lengths` for each group.
    """
    n_groups = min(max(n_groups, -(-int(lengths.sum()) // max_tokens), 1), len(lengths))
    while True:
        group_of = balance_windows(lengths, n_groups)
        if n_groups == len(lengths) or np.bincount(group_of, lengths).max() <= max_tokens:
            return [np.flatnonzero(group_of == group) for group in range(n_groups)]
        n_groups += 1


def pack_greedy(lengths: Int64s, tokens_per_batch: int) -> Iterator[Int64s]:
    """Group windows, longest first, into batches of at most `tokens_per_batch` tokens (one window may exceed it)."""
    order = np.argsort(-lengths, kind="stable")
    first = filled = 0
    for position, length in enumerate(lengths[order].tolist()):
        if filled and filled + length > tokens_per_batch:
            yield order[first:position]
            first, filled = position, 0
        filled += length
    if filled:
        yield order[first:]
