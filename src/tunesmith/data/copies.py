"""Which stretches of a text stand word for word in a corpus: an index of its tokens, exact and small.

Every fourth position of the corpus is kept under a hash of the five tokens from there on. Any eight tokens in a row
hold one such place whole, so no copy of eight or more is missed; what a hash finds is compared token by token and
followed in both directions to where it ends, so nothing is reported that is no copy. The index is one sorted array of
two bytes for each token of the corpus.

Shapes: N tokens of the corpus, G kept places, M tokens of a text, K pairs of a place in the text and one in the corpus.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tunesmith.data.corpus import Split
from tunesmith.data.stretches import Int64s

SHORTEST_COPY_TOKENS = 8
GRAM_TOKENS = 5
PLACES_APART = SHORTEST_COPY_TOKENS - GRAM_TOKENS + 1
FACTORS = np.array(
    [0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93, 0xA0761D6478BD642F], np.uint64
)
"""Odd numbers without a pattern; a hash is the upper half of a sum of products, modulo 2^64."""
PLACES_AT_A_TIME = 1 << 20
PAIRS_AT_A_TIME = 1 << 20
LOWER_HALF = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)


@dataclass(frozen=True)
class Copy:
    """A stretch of a text that stands in the corpus, as long as it can be.

    Attributes:
        start: its first token in the text.
        tokens: how many.
        position: its first token in the corpus; one place where it stands, if there are several.
    """

    start: int
    tokens: int
    position: int


class CopyIndex:
    """An index of a split's samples; a copy never reaches from one sample into another."""

    def __init__(self, split: Split) -> None:
        self._tokens_N = split.tokens
        self._starts = np.asarray(split.stretches.starts, np.int64)
        self._ends = split.stretches.ends
        parts = [np.zeros(0, np.uint64)]
        n_tokens = len(self._tokens_N) if len(self._starts) else 0
        for first in range(0, n_tokens, PLACES_AT_A_TIME * PLACES_APART):
            last = min(first + PLACES_AT_A_TIME * PLACES_APART, n_tokens - GRAM_TOKENS + 1)
            places = np.arange(first, max(last, first), PLACES_APART)
            places = places[self._ends_behind(places) >= places + GRAM_TOKENS]
            grams = (self._tokens_N[places + number] for number in range(GRAM_TOKENS))
            parts.append(_hashes(*grams) & ~LOWER_HALF | (places // PLACES_APART).astype(np.uint64))
        self._keys_G = np.concatenate(parts)
        self._keys_G.sort()

    @property
    def nbytes(self) -> int:
        """Of the index, without the corpus."""
        return self._keys_G.nbytes

    def copies(self, text: list[int] | Int64s) -> list[Copy]:
        """Every copy of at least eight tokens that cannot be made longer, by where it begins."""
        text_M = np.asarray(text, np.int64)
        n_grams = len(text_M) - GRAM_TOKENS + 1
        if n_grams < 1:
            return []
        hashes = _hashes(*(text_M[number : number + n_grams] for number in range(GRAM_TOKENS)))
        firsts = np.searchsorted(self._keys_G, hashes & ~LOWER_HALF, side="left")
        counts = np.searchsorted(self._keys_G, hashes | LOWER_HALF, side="right") - firsts
        found: dict[tuple[int, int], int] = {}
        begin = 0
        while begin < n_grams:
            fits = np.searchsorted(np.cumsum(counts[begin:]), PAIRS_AT_A_TIME, side="right")
            end = begin + max(int(fits), 1)
            some = counts[begin:end]
            within_K = np.repeat(np.arange(begin, end), some)
            numbers_K = np.arange(len(within_K)) - np.repeat(np.cumsum(some) - some, some)
            keys_K = self._keys_G[np.repeat(firsts[begin:end], some) + numbers_K]
            places_K = (keys_K & LOWER_HALF).astype(np.int64) * PLACES_APART
            for start, tokens, position in self._followed(text_M, within_K, places_K):
                found.setdefault((start, tokens), position)
            begin = end
        return [Copy(start, tokens, position) for (start, tokens), position in sorted(found.items())]

    def _followed(self, text_M: Int64s, within_K: Int64s, places_K: Int64s) -> list[tuple[int, int, int]]:
        """Pairs of equal grams to where the text and the corpus part ways, on both sides."""
        for number in range(GRAM_TOKENS):
            equal = self._tokens_N[places_K + number] == text_M[within_K + number]
            within_K, places_K = within_K[equal], places_K[equal]
        ends_K = self._ends_behind(places_K)
        begins_K = self._starts[np.searchsorted(self._starts, places_K, side="right") - 1]
        right_K = np.minimum(len(text_M) - within_K, ends_K - places_K)
        right_K = GRAM_TOKENS + self._equal_steps(
            text_M, within_K + GRAM_TOKENS, places_K + GRAM_TOKENS, right_K - GRAM_TOKENS, 1
        )
        left_K = self._equal_steps(text_M, within_K - 1, places_K - 1, np.minimum(within_K, places_K - begins_K), -1)
        lengths_K = left_K + right_K
        long_enough = lengths_K >= SHORTEST_COPY_TOKENS
        columns = (within_K - left_K, lengths_K, places_K - left_K)
        return list(zip(*(column[long_enough].tolist() for column in columns), strict=True))

    def _equal_steps(self, text_M: Int64s, within_K: Int64s, places_K: Int64s, most_K: Int64s, step: int) -> Int64s:
        """How many tokens are equal from a pair of places on, in one direction, up to so many."""
        steps_K = np.zeros(len(within_K), np.int64)
        going = np.flatnonzero(most_K > 0)
        taken = 0
        while len(going):
            equal = self._tokens_N[places_K[going] + step * taken] == text_M[within_K[going] + step * taken]
            going = going[equal]
            taken += 1
            steps_K[going] = taken
            going = going[most_K[going] > taken]
        return steps_K

    def _ends_behind(self, places: Int64s) -> Int64s:
        """Where the sample around each place ends, its end-of-text left out; 0 where there is none."""
        sample = np.searchsorted(self._starts, places, side="right") - 1
        ends: Int64s = np.where(sample >= 0, self._ends[sample] - 1, 0)
        return np.where(ends > places, ends, 0)


def _hashes(*grams: npt.NDArray[np.integer]) -> npt.NDArray[np.uint64]:
    """Of five tokens each; what counts is the upper half."""
    total = np.zeros(len(grams[0]), np.uint64)
    for tokens, factor in zip(grams, FACTORS, strict=True):
        total += (tokens.astype(np.uint64) + np.uint64(1)) * factor
    total ^= total >> HALF
    total *= FACTORS[0]
    return total


def longest_copy_around(copies: list[Copy], n_tokens: int) -> Int64s:
    """For each token of a text the length of the longest copy that holds it, [M]; 0 where none does."""
    longest_M = np.zeros(n_tokens, np.int64)
    for copy in copies:
        held = slice(copy.start, copy.start + copy.tokens)
        longest_M[held] = np.maximum(longest_M[held], copy.tokens)
    return longest_M
