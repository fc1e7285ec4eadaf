"""Sources mixed with weights: every window as often as asked, whatever the epoch."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.data.packing import Mixture, Windows, windows_of
from tunesmith.data.spans import TokenSpans


def windows(n_windows: list[int]) -> Windows:
    """So many windows of each source, of 1 to 9 tokens."""
    total = sum(n_windows)
    lengths = 1 + np.arange(total) % 9
    none = np.zeros(total, np.int64)
    sources = np.repeat(np.arange(len(n_windows)), n_windows)
    return windows_of(TokenSpans(1 + np.cumsum(lengths) - lengths, lengths, none, sources), 16)


@given(
    n_windows=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    weights=st.lists(st.sampled_from([0.1, 0.5, 0.75, 1.0, 2.0, 2.5]), min_size=4, max_size=4),
)
def test_weights_are_kept_over_epochs(n_windows: list[int], weights: list[float]) -> None:
    """Over many epochs the windows of a source are seen equally often, and as often as its weight says."""
    mine = tuple(weights[: len(n_windows)])
    mixture = Mixture(windows(n_windows), mine, seed=3)
    seen: Counter[int] = Counter()
    n_epochs = 40
    for epoch in range(n_epochs):
        seen.update(mixture.order(epoch).tolist())
    first = 0
    for n, weight in zip(n_windows, mine, strict=True):
        times = [seen[window] for window in range(first, first + n)]
        assert max(times) - min(times) <= 1
        whole, share = divmod(weight, 1)
        an_epoch = whole + (max(round(share * n), 1) / n if share else 0)
        assert sum(times) / n == pytest.approx(an_epoch * n_epochs)
        first += n


def test_equal_weights_change_nothing() -> None:
    """With weight 1 everywhere an epoch is a permutation drawn from (seed, epoch) alone."""
    mixture = Mixture(windows([5, 7]), (1.0, 1.0), seed=3)
    assert (mixture.order(4) == np.random.default_rng((3, 4)).permutation(12)).all()
    assert mixture.n_tokens == windows([5, 7]).lengths.sum()


def test_an_epoch_is_as_long_as_its_windows() -> None:
    """Its tokens are the weighted ones, and every epoch has as many windows."""
    some = windows([90, 90])
    tokens = [int(some.lengths[some.sources == source].sum()) for source in (0, 1)]
    mixture = Mixture(some, (2.0, 0.5), seed=1)
    assert mixture.n_tokens == pytest.approx(2 * tokens[0] + 0.5 * tokens[1], abs=1)
    assert [len(mixture.order(epoch)) for epoch in range(4)] == [2 * 90 + 45] * 4
