"""A step dealt to several processes is the same step."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.data.dataloader import RankShard, split_across_ranks

LENGTHS = st.lists(st.integers(1, 200), min_size=1, max_size=60).map(lambda lengths: np.array(lengths, np.int64))


@given(lengths=LENGTHS, size=st.integers(2, 9), tokens=st.integers(1, 400))
def test_every_window_is_dealt_once(lengths: np.ndarray, size: int, tokens: int) -> None:
    """All processes together have each window exactly once, in as many micro-batches each, none fuller than allowed."""
    dealt = split_across_ranks(lengths, RankShard(0, size, tokens))
    assert len(dealt) == size
    together = np.concatenate([part for parts in dealt for part in parts])
    assert sorted(together.tolist()) == list(range(len(lengths)))
    assert len({len(parts) for parts in dealt}) == 1
    assert all(lengths[part].sum() <= tokens or len(part) == 1 for parts in dealt for part in parts)


@pytest.mark.parametrize("size", [2, 3, 8])
def test_all_have_the_same_work(size: int) -> None:
    """With many windows no process has more than a hundredth above its share of the tokens."""
    lengths = np.random.default_rng(0).integers(5, 300, 400)
    work = [
        sum(int(lengths[part].sum()) for part in parts)
        for parts in split_across_ranks(lengths, RankShard(0, size, 2048))
    ]
    assert max(work) < 1.01 * lengths.sum() / size
