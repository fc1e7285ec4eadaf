"""Tokens into batches: packed without padding, in an order that is arithmetic.

The order of an epoch is a permutation drawn from (seed, epoch), and a step's share of it follows from the step's
number, so a position in the data is one integer: nothing has to be replayed to find a place again.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tunesmith.data.corpus import Split
from tunesmith.data.mixture import Mixture
from tunesmith.data.stretches import Int64s
from tunesmith.data.windows import Windows, windows_of


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
        self._windows = windows_of(split.stretches, context_tokens)
        self._mixture = Mixture(self._windows, split.weights, seed=seed)
        self._tokens_per_micro_batch = tokens_per_micro_batch
        self.steps_per_epoch = self._mixture.steps_per_epoch(tokens_per_step)
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
        order = self._mixture.order(epoch)
        lengths = self._windows.lengths[order]
        middles = np.cumsum(lengths) - lengths / 2
        steps = self.steps_per_epoch
        later = np.arange(1, steps)
        borders = np.searchsorted(middles, later * int(lengths.sum()) / steps)
        # Long windows can swallow a whole share: every step still gets a window of its own.
        borders = np.maximum.accumulate(np.maximum(borders, later) - later) + later
        borders = np.minimum(borders, len(order) - steps + later)
        return np.split(order, borders)


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
