"""How often each source is seen in an epoch, and in which order: a function of (seed, epoch), nothing else."""

import numpy as np

from tunesmith.data.stretches import Int64s, Integers
from tunesmith.data.windows import Windows


def epoch_tokens(lengths: Integers, sources: Integers, weights: tuple[float, ...]) -> int:
    """Tokens of an epoch, on average.

    Args:
        lengths: of windows or of samples.
        sources: which SOURCE each comes from.
        weights: for each SOURCE.
    """
    if set(weights) == {1.0}:
        return int(lengths.sum(dtype=np.int64))
    tokens_of_source = np.bincount(sources, lengths, len(weights))
    return round(float((tokens_of_source * np.array(weights)).sum()))


class Mixture:
    """Windows of several sources, mixed.

    A weight of 2 shows every window of a source twice in an epoch; a weight of 0.3 shows three tenths of them, the
    next ones in the next epoch, so that all are seen equally often in the end.

    Args:
        windows: of all sources.
        weights: for each source.
        seed: of every epoch's permutation.

    Attributes:
        n_tokens: of an epoch, on average.
    """

    def __init__(self, windows: Windows, weights: tuple[float, ...], *, seed: int) -> None:
        self._windows = windows
        self._weights = weights
        self._seed = seed
        self._is_plain = set(weights) == {1.0}
        self.n_tokens = epoch_tokens(windows.lengths, windows.sources, weights)

    def order(self, epoch: int) -> Int64s:
        """The windows of an epoch, shuffled; as many in every epoch."""
        shuffle = np.random.default_rng((self._seed, epoch))
        if self._is_plain:
            return shuffle.permutation(len(self._windows))
        of_sources = [self._of_source(source, epoch) for source in range(len(self._weights))]
        return shuffle.permutation(np.concatenate(of_sources))

    def _of_source(self, source: int, epoch: int) -> Int64s:
        mine = np.flatnonzero(self._windows.sources == source)
        times, extra = self._times(source, len(mine))
        dealt = np.random.default_rng((self._seed, source)).permutation(mine)
        turns = (epoch * extra + np.arange(extra)) % max(len(mine), 1)
        return np.concatenate([np.tile(mine, times), dealt[turns]])

    def _times(self, source: int, n_windows: int) -> tuple[int, int]:
        """How often all windows of a source come, and how many of them once more."""
        times, share = divmod(self._weights[source], 1)
        return int(times), min(max(round(share * n_windows), int(share > 0)), n_windows)
