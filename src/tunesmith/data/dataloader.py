"""Batches of a run: packed without padding, in an order that is computed and not stored.

The windows of an epoch are assigned to micro-batches (`tunesmith.data.packing`) with random numbers drawn from
(seed, epoch), and a step takes its micro-batches by its number. The data position is therefore one integer, and
resuming replays nothing. Which windows a step trains on does not depend on the number of processes: each process gets
about as many tokens, packed into the same number of micro-batches, so that all gather and reduce at the same moments.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

import numpy as np

from tunesmith.data.corpus import Split, Tokens
from tunesmith.data.packing import (
    EpochLayout,
    Mixture,
    Windows,
    balance_windows,
    balanced_groups,
    pack_greedy,
    round_up_tokens,
    windows_of,
)
from tunesmith.data.spans import Int64s

MAX_RANDOM_ATTEMPTS = 3
"""Random assignment rarely overfills a micro-batch: then it is repeated, at last without randomness."""


@dataclass(frozen=True)
class Batch:
    """Documents in one flat stream of N tokens, of which M are predicted.

    Attributes:
        tokens: int64 [N], model input.
        positions: int64 [N], from 0 in each document.
        cu_seqlens: first token of each document, then N.
        target_positions: int64 [M], tokens whose successor is predicted; neither prompts nor padding.
        targets: int64 [M], the tokens to predict there.
        max_seqlen: longest document of the whole run.
    """

    tokens: Int64s
    positions: Int64s
    cu_seqlens: tuple[int, ...]
    target_positions: Int64s
    targets: Int64s
    max_seqlen: int

    @property
    def n_tokens(self) -> int:
        """Tokens that are computed, N."""
        return len(self.tokens)

    def without_targets(self) -> "Batch":
        """The same tokens, none of them predicted."""
        return replace(self, target_positions=self.target_positions[:0], targets=self.targets[:0])


@dataclass(frozen=True)
class RankShard:
    """One process's part of every step.

    Attributes:
        rank: number of the process.
        size: number of processes.
        tokens: of one of its micro-batches at most, unless a window is longer.
    """

    rank: int
    size: int
    tokens: int


class TrainBatchSampler:
    """The micro-batches of every step of a run.

    Args:
        split: text to train on.
        context_length: longest window.
        layout: how an epoch is divided.
        constant_size: pad every micro-batch to the largest size.
        seed: of every epoch's order.
        shard: this process's part, with several processes; None is all of it.
    """

    def __init__(
        self,
        split: Split,
        *,
        context_length: int,
        layout: EpochLayout,
        constant_size: bool,
        seed: int,
        shard: RankShard | None = None,
    ) -> None:
        self._split = split
        self._windows = windows_of(split.spans, context_length)
        self._mixture = Mixture(self._windows, split.weights, seed=seed)
        self._layout = layout
        self._constant_size = constant_size
        self._seed = seed
        self._shard = shard
        self._max_seqlen = int(self._windows.lengths.max())
        self._epoch: tuple[int, list[Int64s]] = (-1, [])

    def batches(self, step: int, pieces: int = 1, excluded_windows: Collection[int] = ()) -> list[Batch]:
        """Micro-batches of a step; steps count from 0 through all epochs.

        Args:
            step: which one.
            pieces: number of parts each micro-batch is divided into, to use less memory; a part has at least one
                window. Micro-batches that are too full, because weighted sources mix differently in every epoch, are
                divided into more: none has more tokens than the run was planned for.
            excluded_windows: windows to exclude, by their first target in the token file.
        """
        size = round_up_tokens(max(self._layout.tokens // pieces, self._max_seqlen))
        chosen = self.windows(step, excluded_windows)
        if self._shard is not None and chosen:
            shard = replace(self._shard, tokens=max(self._shard.tokens // pieces, 1))
            return self._batches_of_rank(np.concatenate(chosen), shard)
        lengths = self._windows.lengths
        parts = [windows[g] for windows in chosen for g in balanced_groups(lengths[windows], pieces, size)]
        return [self._batch(windows, size) for windows in parts]

    def targets(self, step: int, excluded_windows: Collection[int] = ()) -> int:
        """Number of tokens that a step predicts, in all processes together."""
        chosen = [self._windows[windows] for windows in self.windows(step, excluded_windows)]
        return sum(int((windows.lengths - windows.prompt_tokens).sum()) for windows in chosen)

    def windows(self, step: int, excluded_windows: Collection[int] = ()) -> list[Int64s]:
        """Window indices of each micro-batch of a step."""
        epoch, step_in_epoch = divmod(step, self._layout.steps_per_epoch)
        cached = self._epoch  # read once: the next step may be requested in another thread
        if cached[0] != epoch:
            cached = self._epoch = (epoch, self._micro_batches(epoch))
        first = step_in_epoch * self._layout.per_step
        chosen = cached[1][first : first + self._layout.per_step]
        if not excluded_windows:
            return chosen
        kept = [windows[~np.isin(self.first_targets(windows), list(excluded_windows))] for windows in chosen]
        return [windows for windows in kept if len(windows)]

    def first_targets(self, windows: Int64s) -> Int64s:
        """Index of each window's first target in the token file: identifies it in every epoch and process."""
        return self._windows.starts[windows]

    def batch_of(self, windows: Int64s) -> Batch:
        """Chosen windows as one batch with as little padding as possible."""
        return self._batch(windows, 0)

    def _batches_of_rank(self, windows: Int64s, shard: RankShard) -> list[Batch]:
        lengths = self._windows.lengths[windows]
        size = round_up_tokens(max(shard.tokens, self._max_seqlen))
        shortest = windows[[int(lengths.argmin())]]
        return [
            self._batch(windows[part], size) if len(part) else self._batch(shortest, size).without_targets()
            for part in split_across_ranks(lengths, shard)[shard.rank]
        ]

    def _micro_batches(self, epoch: int) -> list[Int64s]:
        """Window indices of each micro-batch of an epoch, longest first."""
        windows = self._mixture.order(epoch)
        lengths = self._windows.lengths[windows]
        n_batches = self._layout.steps_per_epoch * self._layout.per_step
        for attempt in range(MAX_RANDOM_ATTEMPTS):
            batch_of = balance_windows(lengths, n_batches, np.random.default_rng((self._seed, epoch, attempt)))
            if np.bincount(batch_of, lengths).max() <= self._layout.tokens:
                break
        else:
            batch_of = balance_windows(lengths, n_batches)  # windows are shuffled: equal lengths still go anywhere
        order = np.lexsort((-lengths, batch_of))
        return np.split(windows[order], np.cumsum(np.bincount(batch_of, minlength=n_batches))[:-1])

    def _batch(self, chosen: Int64s, size: int) -> Batch:
        windows = self._windows[chosen]
        filled = round_up_tokens(int(windows.lengths.sum()))
        size = max(filled, size) if self._constant_size else filled
        return _make_batch(self._split.tokens, windows, size, self._max_seqlen)


def split_across_ranks(lengths: Int64s, shard: RankShard) -> list[list[Int64s]]:
    """Micro-batches of every process as indices of windows; all processes get the same number.

    A process with nothing left for one of them gets an empty array.

    Args:
        lengths: of the windows of a step.
        shard: of one of the processes.
    """
    positions = np.argsort(-lengths, kind="stable")
    n_busy = min(shard.size, len(positions))
    rank_of = balance_windows(lengths[positions], n_busy)
    packed: list[list[Int64s]] = []
    for rank in range(n_busy):
        own = positions[rank_of == rank]
        packed.append([own[group] for group in balanced_groups(lengths[own], 1, shard.tokens)])
    n_batches = max(map(len, packed))
    packed += [[] for _ in range(shard.size - n_busy)]
    empty = np.zeros(0, np.int64)
    return [batches + [empty] * (n_batches - len(batches)) for batches in packed]


def pack_batches(
    split: Split, windows: Windows, tokens_per_batch: int, max_seqlen: int | None = None
) -> Iterator[Batch]:
    """Pack windows into as few batches as possible, equal lengths next to each other.

    Args:
        split: split that the windows are from.
        windows: to be packed.
        tokens_per_batch: at most, unless one window exceeds it.
        max_seqlen: longest window, where these are a part of more windows.
    """
    max_seqlen = int(windows.lengths.max(initial=0)) if max_seqlen is None else max_seqlen
    for chosen in pack_greedy(windows.lengths, tokens_per_batch):
        packed = windows[chosen]
        yield _make_batch(split.tokens, packed, round_up_tokens(int(packed.lengths.sum())), max_seqlen)


def _make_batch(tokens: Tokens, windows: Windows, size: int, max_seqlen: int) -> Batch:
    """Windows as one batch of `size` tokens, padded with documents that have no targets."""
    lengths = windows.lengths
    n_padding = size - int(lengths.sum())
    padding = [max_seqlen] * (n_padding // max_seqlen) + [n_padding % max_seqlen] * (n_padding % max_seqlen > 0)
    cu_seqlens = np.concatenate([[0], np.cumsum([*lengths, *padding])])
    positions = np.arange(size) - np.repeat(cu_seqlens[:-1], np.diff(cu_seqlens))
    unpadded = positions[: size - n_padding]
    targets_at = np.repeat(windows.starts, lengths) + unpadded
    target_positions = np.flatnonzero(unpadded >= np.repeat(windows.prompt_tokens, lengths))
    return Batch(
        tokens=np.concatenate([tokens[targets_at - 1].astype(np.int64), np.zeros(n_padding, np.int64)]),
        positions=positions,
        cu_seqlens=tuple(cu_seqlens.tolist()),
        target_positions=target_positions,
        targets=tokens[targets_at[target_positions]].astype(np.int64),
        max_seqlen=max_seqlen,
    )
