"""Copies of a corpus in a text, against a search by brute force."""

from itertools import accumulate

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.data.corpus import Split
from tunesmith.data.ngram_index import MIN_MATCH_TOKENS, NgramIndex, VerbatimMatch, longest_match_per_token
from tunesmith.data.spans import TokenSpans

END = 9


def split_of(samples: list[list[int]], learned: list[bool]) -> Split:
    """A corpus of these samples, some of which are learned."""
    tokens = [END, *(token for sample in samples for token in [*sample, END])]
    ends = list(accumulate((len(sample) + 1 for sample in samples), initial=1))
    columns = [(start, end - start) for start, end, keep in zip(ends, ends[1:], learned, strict=False) if keep]
    starts, lengths = np.array(columns, np.int64).reshape(-1, 2).T
    nothing = np.zeros(len(columns), np.int64)
    return Split(np.array(tokens, np.uint16), TokenSpans(starts, lengths, nothing, nothing), text_bytes=0)


def by_brute_force(samples: list[list[int]], text: list[int]) -> set[tuple[int, int]]:
    """Start and length of every match of a sample and the text that cannot be made longer."""
    found = set()
    for sample in samples:
        for start in range(len(text)):
            for place in range(len(sample)):
                if start and place and text[start - 1] == sample[place - 1]:
                    continue
                length = 0
                while text[start + length : start + length + 1] == sample[place + length : place + length + 1] != []:
                    length += 1
                if length >= MIN_MATCH_TOKENS:
                    found.add((start, length))
    return found


@given(
    samples=st.lists(st.lists(st.integers(0, 2), max_size=60), min_size=1, max_size=6),
    learned=st.lists(st.booleans(), min_size=6, max_size=6),
    noise=st.lists(st.integers(0, 2), max_size=20),
    cut=st.tuples(st.integers(0, 5), st.integers(0, 40), st.integers(0, 60)),
)
def test_equals_brute_force(
    samples: list[list[int]], learned: list[bool], noise: list[int], cut: tuple[int, int, int]
) -> None:
    """Three different tokens, so that copies overlap everywhere: the same copies, each where it says it is."""
    number, start, length = cut
    text = noise + samples[number % len(samples)][start : start + length] + noise[::-1]
    split = split_of(samples, learned)
    copies = NgramIndex(split).find_matches(text)
    kept = [sample for sample, keep in zip(samples, learned, strict=False) if keep]
    assert {(copy.start, copy.tokens) for copy in copies} == by_brute_force(kept, text)
    for copy in copies:
        held = split.tokens[copy.position : copy.position + copy.tokens].tolist()
        assert held == text[copy.start : copy.start + copy.tokens]


def test_many_places_are_followed_in_portions(monkeypatch) -> None:
    """A corpus that says one thing a thousand times: what is found does not depend on how much is looked at at once."""
    sample = list(range(8)) * 3
    split = split_of([sample] * 200, [True] * 200)
    text = [8, *sample, 8]
    whole = NgramIndex(split).find_matches(text)
    monkeypatch.setattr("tunesmith.data.ngram_index.PAIRS_AT_A_TIME", 7)
    monkeypatch.setattr("tunesmith.data.ngram_index.POSITIONS_AT_A_TIME", 3)
    assert NgramIndex(split).find_matches(text) == whole
    assert (1, 24) in {(copy.start, copy.tokens) for copy in whole}


def test_longest_copy_around() -> None:
    """Overlapping copies: each token has the longest that holds it."""
    assert longest_match_per_token([VerbatimMatch(0, 3, 0), VerbatimMatch(2, 4, 9)], 7).tolist() == [
        3,
        3,
        4,
        4,
        4,
        4,
        0,
    ]
