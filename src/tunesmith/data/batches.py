"""Tokens into batches: packed without padding, in an order that is arithmetic.

A sample longer than the context is cut into windows of nearly equal length that continue one another; each
window is a document of its own, with positions from 0. The order of an epoch is a permutation drawn from
(seed, epoch), and a step's share of it follows from the step's number, so a position in the data is one
integer: nothing has to be replayed to find a place again.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tunesmith.data.corpus import Int64s, Split


@dataclass(frozen=True)
class Batch:
    """Documents side by side in a flat token stream of N tokens.

    Attributes:
        tokens: int64 [N], what the model reads.
        positions: int64 [N], from 0 in each document.
        offsets: first token of each document and, last, N.
        rows: int64 [M], the tokens behind which something is to be predicted; all N where there are no prompts.
        targets: int64 [M], what is to be predicted there.
    """

    tokens: Int64s
    positions: Int64s
    offsets: tuple[int, ...]
    rows: Int64s
    targets: Int64s

    @property
    def n_tokens(self) -> int:
        """Tokens that are computed, N."""
        return len(self.tokens)


@dataclass(frozen=True)
class Windows:
    """Stretches of target tokens, none longer than the context.

    Attributes:
        starts: int64, index of the first target in the corpus's tokens.
        lengths: int64, targets in the window.
        samples: int64, which sample of the split it belongs to.
        prompt_tokens: int64, targets at the start that are given and not predicted; fewer than `lengths`.
    """

    starts: Int64s
    lengths: Int64s
    samples: Int64s
    prompt_tokens: Int64s

    def __getitem__(self, chosen: Int64s | npt.NDArray[np.bool_]) -> "Windows":
        return Windows(self.starts[chosen], self.lengths[chosen], self.samples[chosen], self.prompt_tokens[chosen])

    def __len__(self) -> int:
        return len(self.starts)


def windows_of(split: Split, context_tokens: int) -> Windows:
    """Cut every sample into as few windows as fit the context, of nearly equal length.

    Windows that hold nothing but prompt are left out: there would be nothing to learn.
    """
    n_tokens = split.ends - split.starts
    n_windows = -(-n_tokens // context_tokens)
    samples = np.repeat(np.arange(split.n_samples), n_windows)
    number = np.arange(len(samples)) - np.repeat(np.cumsum(n_windows) - n_windows, n_windows)
    shortest, longer_ones = np.divmod(n_tokens, n_windows)
    lengths = shortest[samples] + (number < longer_ones[samples])
    within = number * shortest[samples] + np.minimum(number, longer_ones[samples])
    prompt_tokens = np.clip(split.prompt_tokens[samples] - within, 0, lengths)
    windows = Windows(split.starts[samples] + within, lengths, samples, prompt_tokens)
    return windows[prompt_tokens < lengths]


class TrainingOrder:
    """The batches of every step of a run.

    Args:
        split: what to learn.
        context_tokens: longest window.
        tokens_per_step: about how many tokens a step learns from; an epoch is divided evenly.
        tokens_per_micro_batch: most tokens of one batch, at least `context_tokens`.
        seed: of every epoch's permutation.
    """

    def __init__(
        self,
        split: Split,
        *,
        context_tokens: int,
        tokens_per_step: int,
        tokens_per_micro_batch: int,
        seed: int,
    ) -> None:
        self._split = split
        self._windows = windows_of(split, context_tokens)
        self._tokens_per_micro_batch = tokens_per_micro_batch
        self._seed = seed
        self._epoch_tokens = int(self._windows.lengths.sum())
        self.steps_per_epoch = steps_per_epoch(self._windows, tokens_per_step)
        self._order_of: tuple[int, list[Int64s]] = (-1, [])

    def batches(self, step: int) -> list[Batch]:
        """The micro-batches of a step; steps count from 0 through all epochs."""
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        if self._order_of[0] != epoch:
            self._order_of = (epoch, self._shares(epoch))
        chosen = self._order_of[1][step_in_epoch]
        return list(packed(self._split, self._windows[chosen], self._tokens_per_micro_batch))

    def _shares(self, epoch: int) -> list[Int64s]:
        """The permuted windows, cut where the running count of tokens passes each step's share."""
        order = np.random.default_rng((self._seed, epoch)).permutation(len(self._windows))
        lengths = self._windows.lengths[order]
        middles = np.cumsum(lengths) - lengths / 2
        steps = self.steps_per_epoch
        later = np.arange(1, steps)
        borders = np.searchsorted(middles, later * self._epoch_tokens / steps)
        # Long windows can swallow a whole share: every step still gets a window of its own.
        borders = np.maximum.accumulate(np.maximum(borders, later) - later) + later
        borders = np.minimum(borders, len(order) - steps + later)
        return np.split(order, borders)


def steps_per_epoch(windows: Windows, tokens_per_step: int) -> int:
    """How many optimizer steps see every window once."""
    return min(max(round(int(windows.lengths.sum()) / tokens_per_step), 1), len(windows))


def packed(split: Split, windows: Windows, tokens_per_batch: int) -> Iterator[Batch]:
    """Pack windows into as few batches as hold them, equal lengths next to each other."""
    for chosen in packed_indices(windows.lengths, tokens_per_batch):
        yield _batch(split.tokens, windows[chosen])


def packed_indices(lengths: Int64s, tokens_per_batch: int) -> Iterator[Int64s]:
    """Deal windows, longest first, into groups of at most `tokens_per_batch` tokens (one window may exceed it)."""
    order = np.argsort(-lengths, kind="stable")
    first = filled = 0
    for position, length in enumerate(lengths[order].tolist()):
        if filled and filled + length > tokens_per_batch:
            yield order[first:position]
            first, filled = position, 0
        filled += length
    if filled:
        yield order[first:]


def _batch(tokens: npt.NDArray[np.uint16] | npt.NDArray[np.uint32], windows: Windows) -> Batch:
    lengths = windows.lengths
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    positions = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
    targets_at = np.repeat(windows.starts, lengths) + positions
    rows = np.flatnonzero(positions >= np.repeat(windows.prompt_tokens, lengths))
    return Batch(
        tokens=tokens[targets_at - 1].astype(np.int64),
        positions=positions,
        offsets=tuple(offsets.tolist()),
        rows=rows,
        targets=tokens[targets_at[rows]].astype(np.int64),
    )
