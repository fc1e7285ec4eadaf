"""Tokens into batches: packed without padding, in an order that is arithmetic.

An epoch's windows are dealt to micro-batches (`data/dealing.py`) by chance drawn from (seed, epoch), and a step takes
its share of them by its number, so a position in the data is one integer: nothing has to be replayed to find a place.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tunesmith.data.corpus import Split
from tunesmith.data.dealing import MicroBatchShape, deal, rounded_up
from tunesmith.data.mixture import Mixture
from tunesmith.data.sharing import Share, dealt_to_processes
from tunesmith.data.stretches import Int64s
from tunesmith.data.windows import Windows, windows_of

ATTEMPTS = 3
"""Chance rarely deals one micro-batch too full; then it is asked again, and at last nothing is left to it."""


@dataclass(frozen=True)
class Batch:
    """Documents side by side in a flat token stream of N tokens.

    Attributes:
        tokens: int64 [N], what the model reads.
        positions: int64 [N], from 0 in each document.
        offsets: first token of each document and, last, N.
        rows: int64 [M], the tokens behind which something is to be predicted; neither prompts nor filling.
        targets: int64 [M], what is to be predicted there.
        longest: no document of the run has more tokens.
    """

    tokens: Int64s
    positions: Int64s
    offsets: tuple[int, ...]
    rows: Int64s
    targets: Int64s
    longest: int

    @property
    def n_tokens(self) -> int:
        """Tokens that are computed, N."""
        return len(self.tokens)


class TrainingOrder:
    """The micro-batches of every step of a run.

    Args:
        split: what to learn.
        context_tokens: longest window.
        shape: how an epoch is divided.
        constant_size: whether every micro-batch is filled up to the largest.
        seed: of every epoch's order.
        share: of every step, where several processes learn; None is all of it.
    """

    def __init__(
        self,
        split: Split,
        *,
        context_tokens: int,
        shape: MicroBatchShape,
        constant_size: bool,
        seed: int,
        share: Share | None = None,
    ) -> None:
        self._split = split
        self._windows = windows_of(split.stretches, context_tokens)
        self._mixture = Mixture(self._windows, split.weights, seed=seed)
        self._shape = shape
        self._constant_size = constant_size
        self._seed = seed
        self._share = share
        self._longest = int(self._windows.lengths.max())
        self._dealt: tuple[int, list[Int64s]] = (-1, [])

    def batches(self, step: int, pieces: int = 1, left_out: Collection[int] = ()) -> list[Batch]:
        """The micro-batches of a step; steps count from 0 through all epochs.

        Args:
            step: which one.
            pieces: how many parts each micro-batch is dealt into, for less memory; never fewer tokens than a window.
                What would still be over-full, because weighted sources come in another mixture in every epoch, is dealt
                into more: no micro-batch has more tokens than the run was planned for.
            left_out: windows that are not to be learned any more, by their first target in the corpus's tokens.
        """
        size = rounded_up(max(self._shape.tokens // pieces, self._longest))
        chosen = self.windows(step, left_out)
        if self._share is not None and chosen:
            share = replace(self._share, tokens=max(self._share.tokens // pieces, 1))
            return self._shared(np.concatenate(chosen), share)
        parts = [part for windows in chosen for part in self._dealt_into(windows, pieces, size)]
        return [self._batch(windows, size) for windows in parts]

    def targets(self, step: int, left_out: Collection[int] = ()) -> int:
        """How many tokens a step predicts, in all processes together; arguments as above."""
        chosen = [self._windows[windows] for windows in self.windows(step, left_out)]
        return sum(int((windows.lengths - windows.prompt_tokens).sum()) for windows in chosen)

    def windows(self, step: int, left_out: Collection[int] = ()) -> list[Int64s]:
        """The windows of each micro-batch of a step; arguments as above."""
        epoch, step_in_epoch = divmod(step, self._shape.steps_per_epoch)
        dealt = self._dealt  # once: the next step may be asked for in another thread
        if dealt[0] != epoch:
            dealt = self._dealt = (epoch, self._micro_batches(epoch))
        first = step_in_epoch * self._shape.per_step
        chosen = dealt[1][first : first + self._shape.per_step]
        if not left_out:
            return chosen
        kept = [windows[~np.isin(self.first_targets(windows), list(left_out))] for windows in chosen]
        return [windows for windows in kept if len(windows)]

    def first_targets(self, windows: Int64s) -> Int64s:
        """Where windows begin in the corpus's tokens: that names them in every epoch and every process."""
        return self._windows.starts[windows]

    def batch_of(self, windows: Int64s) -> Batch:
        """Some windows as one batch, filled up no more than it needs."""
        return self._batch(windows, 0)

    def _shared(self, windows: Int64s, share: Share) -> list[Batch]:
        """This process's micro-batches."""
        lengths = self._windows.lengths[windows]
        size = rounded_up(max(share.tokens, self._longest))
        parts = dealt_to_processes(lengths, share)[share.rank]
        shortest = windows[[int(lengths.argmin())]]
        return [
            self._batch(windows[part], size) if len(part) else nothing_to_learn(self._batch(shortest, size))
            for part in parts
        ]

    def _dealt_into(self, windows: Int64s, pieces: int, size: int) -> list[Int64s]:
        """A micro-batch's windows in so many parts, or in more, of which none has more than `size` tokens."""
        lengths = self._windows.lengths[windows]
        pieces = min(max(pieces, -(-int(lengths.sum()) // size)), len(windows))
        if pieces == 1:
            return [windows]
        while True:
            dealt = deal(lengths, pieces)
            if pieces == len(windows) or np.bincount(dealt, lengths).max() <= size:
                return [windows[dealt == number] for number in range(pieces)]
            pieces += 1

    def _micro_batches(self, epoch: int) -> list[Int64s]:
        """The windows of each micro-batch of an epoch, longest first."""
        windows = self._mixture.order(epoch)
        lengths = self._windows.lengths[windows]
        n_batches = self._shape.steps_per_epoch * self._shape.per_step
        for attempt in range(ATTEMPTS):
            dealt = deal(lengths, n_batches, np.random.default_rng((self._seed, epoch, attempt)))
            if np.bincount(dealt, lengths).max() <= self._shape.tokens:
                break
        else:
            dealt = deal(lengths, n_batches)  # windows come shuffled: equal lengths still go anywhere
        order = np.lexsort((-lengths, dealt))
        return np.split(windows[order], np.cumsum(np.bincount(dealt, minlength=n_batches))[:-1])

    def _batch(self, chosen: Int64s, size: int) -> Batch:
        windows = self._windows[chosen]
        filled = rounded_up(int(windows.lengths.sum()))
        return _batch(self._split.tokens, windows, max(filled, size) if self._constant_size else filled, self._longest)


def nothing_to_learn(batch: Batch) -> Batch:
    """The same tokens, of which none is predicted."""
    return replace(batch, rows=batch.rows[:0], targets=batch.targets[:0])


def packed(split: Split, windows: Windows, tokens_per_batch: int, longest: int | None = None) -> Iterator[Batch]:
    """Pack windows into as few batches as hold them, equal lengths next to each other.

    Args:
        split: they are of.
        windows: to be packed.
        tokens_per_batch: at most, unless one window exceeds it.
        longest: none is longer, where these are some of more windows.
    """
    longest = int(windows.lengths.max(initial=0)) if longest is None else longest
    for chosen in packed_indices(windows.lengths, tokens_per_batch):
        some = windows[chosen]
        yield _batch(split.tokens, some, rounded_up(int(some.lengths.sum())), longest)


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


def _batch(tokens: npt.NDArray[np.uint16] | npt.NDArray[np.uint32], windows: Windows, size: int, longest: int) -> Batch:
    """Windows as one batch of `size` tokens; what is missing is filled with documents that nothing is learned from."""
    lengths = windows.lengths
    filling = size - int(lengths.sum())
    fillers = [longest] * (filling // longest) + [filling % longest] * (filling % longest > 0)
    offsets = np.concatenate([[0], np.cumsum([*lengths, *fillers])])
    positions = np.arange(size) - np.repeat(offsets[:-1], np.diff(offsets))
    real = positions[: size - filling]
    targets_at = np.repeat(windows.starts, lengths) + real
    rows = np.flatnonzero(real >= np.repeat(windows.prompt_tokens, lengths))
    return Batch(
        tokens=np.concatenate([tokens[targets_at - 1].astype(np.int64), np.zeros(filling, np.int64)]),
        positions=positions,
        offsets=tuple(offsets.tolist()),
        rows=rows,
        targets=tokens[targets_at[rows]].astype(np.int64),
        longest=longest,
    )
