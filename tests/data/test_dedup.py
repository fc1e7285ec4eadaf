"""Repetitions are found: all exact ones, and near ones as brute force finds them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.data import dedup
from tunesmith.data.dedup import SHINGLE_TOKENS, exact_duplicate_of, near_duplicate_of
from tunesmith.data.spans import TokenSpans


@given(values=st.lists(st.integers(-5, 5), max_size=60), far=st.sampled_from([1, 1 << 22, -(1 << 60)]))
def test_first_equal(values: list[int], far: int) -> None:
    """Each sample points to the first with the same hash, also where hashes share their last bits."""
    hashes = np.array(values, np.int64) * far
    expected = [values.index(value) for value in values]
    assert exact_duplicate_of(hashes).tolist() == expected


def samples_of(texts: list[list[int]]) -> tuple[np.ndarray, TokenSpans]:
    """The token file of texts, each with its end-of-text, and where they stand."""
    lengths = np.array([len(text) + 1 for text in texts])
    tokens = np.concatenate([[0], *([*text, 0] for text in texts)]).astype(np.uint16)
    none = np.zeros(len(texts), np.int64)
    return tokens, TokenSpans(1 + np.cumsum(lengths) - lengths, lengths, none, none)


def similarity(one: list[int], other: list[int]) -> float:
    """Jaccard's, of the sets of shingles."""
    sets = [
        {tuple(text[at : at + SHINGLE_TOKENS]) for at in range(max(len(text) - SHINGLE_TOKENS + 1, 1))}
        for text in (one, other)
    ]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


@pytest.mark.parametrize("tokens_at_a_time", [500, 1 << 20])
def test_near_duplicates(tokens_at_a_time: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies with one word changed are found, texts that share half are not; exact copies are near ones too."""
    monkeypatch.setattr(dedup, "TOKENS_AT_A_TIME", tokens_at_a_time)
    rng = np.random.default_rng(1)
    originals = [rng.integers(1, 5000, 120).tolist() for _ in range(100)]
    changed = [[*text[:60], 5001, *text[61:]] for text in originals[:30]]
    halves = [[*text[:60], *rng.integers(1, 5000, 60).tolist()] for text in originals[30:60]]
    copies = originals[60:70]
    texts = [*originals, *changed, *halves, *copies]
    assert min(map(similarity, originals[:30], changed)) > 0.9
    assert max(map(similarity, originals[30:60], halves)) < 0.5
    firsts = near_duplicate_of(*samples_of(texts)).tolist()
    assert firsts == [*range(100), *range(30), *range(130, 160), *range(60, 70)]


def test_chains_belong_together() -> None:
    """A text near one that is near a third goes with the third, whatever their order."""
    rng = np.random.default_rng(2)
    text = rng.integers(1, 5000, 400).tolist()
    chain = [text]
    for step in range(4):
        chain.append([*chain[-1][: 80 * step], *rng.integers(1, 5000, 6).tolist(), *chain[-1][80 * step + 6 :]])
    assert near_duplicate_of(*samples_of([chain[n] for n in (2, 0, 4, 1, 3)])).tolist() == [0] * 5


def test_short_samples_are_near_only_if_equal() -> None:
    """Names of one or two tokens are not near one another for want of shingles."""
    assert near_duplicate_of(*samples_of([[1], [2], [1, 2], [1], [2, 1], [1, 2]])).tolist() == [0, 1, 2, 0, 4, 2]


def test_nothing_to_compare() -> None:
    """No sample, or one, has no dedup."""
    assert near_duplicate_of(*samples_of([[1, 2, 3]])).tolist() == [0]
    assert exact_duplicate_of(np.zeros(0, np.int64)).tolist() == []
