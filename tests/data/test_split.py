"""What is kept apart, by groups or by the ends of documents."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.data.dedup import exact_duplicate_of
from tunesmith.data.spans import TokenSpans
from tunesmith.data.split import TrainValSplit, train_val_split


def held_out(
    counts: np.ndarray, prompts: np.ndarray, hashes: np.ndarray, *, fraction: float, seed: int
) -> TrainValSplit:
    """Samples of these lengths behind one another; equal hashes are equal texts."""
    samples = TokenSpans(1 + np.cumsum(counts) - counts, counts, prompts, np.zeros_like(counts))
    return train_val_split(samples, exact_duplicate_of(hashes), fraction=fraction, seed=seed)


def rows(stretches: TokenSpans) -> list[list[int]]:
    """Start, end and prompt of each."""
    return np.stack([stretches.starts, stretches.ends, stretches.prompt_tokens], axis=1).tolist()


@given(
    texts=st.lists(st.integers(0, 30), min_size=2, max_size=200),
    fraction=st.sampled_from([0.05, 0.1, 0.5, 0.95]),
    seed=st.integers(0, 5),
)
def test_no_copy_stands_on_both_sides(texts: list[int], fraction: float, seed: int) -> None:
    """Both sides are filled, together they are everything once, and equal texts are never divided."""
    hashes = np.array(texts, np.int64)
    counts = np.full(len(texts), 3, np.int64)
    held = held_out(counts, np.zeros_like(counts), hashes, fraction=fraction, seed=seed)
    assert len(held.train)
    assert len(held.validation)
    together = sorted(rows(held.train) + rows(held.validation))
    assert together == [[start, start + 3, 0] for start in range(1, 3 * len(texts), 3)]
    assert held.is_held_out is not None
    apart = set(hashes[held.is_held_out].tolist())
    learned = set(hashes[~held.is_held_out].tolist())
    assert not apart & learned or len(apart | learned) == 1
    if len(set(texts)) > 5 * len(texts) * fraction:
        assert len(held.validation) <= max(len(texts) * fraction, 1) + max(np.bincount(texts))


def test_the_draw_does_not_depend_on_hash_values() -> None:
    """Python salts its hashes: only which texts are equal may matter."""
    counts = np.full(50, 3, np.int64)
    texts = np.random.default_rng(1).integers(0, 30, size=50)
    one, other = (
        held_out(counts, np.zeros_like(counts), texts * factor, fraction=0.2, seed=3) for factor in (1, -7919)
    )
    assert rows(one.validation) == rows(other.validation)


def test_few_documents_give_their_ends() -> None:
    """Two long texts are cut: nine tenths are learned, the last tenth is measured."""
    held = held_out(np.array([1000, 2000]), np.zeros(2, np.int64), np.array([1, 2]), fraction=0.1, seed=0)
    assert rows(held.train) == [[1, 901, 0], [1001, 2801, 0]]
    assert rows(held.validation) == [[901, 1001, 0], [2801, 3001, 0]]
    assert held.is_held_out is None


def test_pairs_are_never_cut() -> None:
    """A prompt and its completion stay together, and keep the length of the prompt."""
    held = held_out(np.full(4, 1000), np.arange(4) * 10 + 1, np.arange(4), fraction=0.1, seed=0)
    together = rows(held.train) + rows(held.validation)
    assert sorted(together) == [[1 + 1000 * n, 1001 + 1000 * n, 10 * n + 1] for n in range(4)]


def test_short_texts_are_never_cut() -> None:
    """A handful of short samples is divided as samples."""
    held = held_out(np.full(5, 20), np.zeros(5, np.int64), np.arange(5), fraction=0.1, seed=0)
    assert len(held.train) == 4
    assert len(held.validation) == 1
