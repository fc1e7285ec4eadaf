"""Exact n-gram index of a corpus: finds every span of a text that is verbatim in it.

Every fourth position of the corpus is stored with a hash of the five tokens from there on. Any eight consecutive tokens
contain one such 5-gram, so no match of eight or more tokens is missed; candidates are compared token by token and
extended in both directions, so every reported match is exact. The index is one sorted array of two bytes per token.

Shapes: N tokens of the corpus, G stored positions, M tokens of a text, K pairs of a text and a corpus position.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tunesmith.data.corpus import Split
from tunesmith.data.spans import Int64s

MIN_MATCH_TOKENS = 8
GRAM_TOKENS = 5
STRIDE = MIN_MATCH_TOKENS - GRAM_TOKENS + 1
FACTORS = np.array(
    [0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93, 0xA0761D6478BD642F], np.uint64
)
"""Odd constants; a hash is the upper half of a sum of products, modulo 2^64."""
POSITIONS_AT_A_TIME = 1 << 20
PAIRS_AT_A_TIME = 1 << 20
LOWER_HALF = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)


@dataclass(frozen=True)
class VerbatimMatch:
    """A maximal span of a text that is verbatim in the corpus.

    Attributes:
        start: first token in the text.
        tokens: length.
        position: first token in the corpus; one occurrence if there are several.
    """

    start: int
    tokens: int
    position: int


class NgramIndex:
    """Index of a split's samples; a match never crosses a sample boundary."""

    def __init__(self, split: Split) -> None:
        self._tokens_N = split.tokens
        self._starts = np.asarray(split.spans.starts, np.int64)
        self._ends = split.spans.ends
        parts = [np.zeros(0, np.uint64)]
        n_tokens = len(self._tokens_N) if len(self._starts) else 0
        for first in range(0, n_tokens, POSITIONS_AT_A_TIME * STRIDE):
            last = min(first + POSITIONS_AT_A_TIME * STRIDE, n_tokens - GRAM_TOKENS + 1)
            positions = np.arange(first, max(last, first), STRIDE)
            positions = positions[self._sample_ends(positions) >= positions + GRAM_TOKENS]
            grams = (self._tokens_N[positions + number] for number in range(GRAM_TOKENS))
            parts.append(_hashes(*grams) & ~LOWER_HALF | (positions // STRIDE).astype(np.uint64))
        self._keys_G = np.concatenate(parts)
        self._keys_G.sort()

    @property
    def nbytes(self) -> int:
        """Size of the index, without the corpus."""
        return self._keys_G.nbytes

    def find_matches(self, text: list[int] | Int64s) -> list[VerbatimMatch]:
        """Find every maximal match of at least eight tokens, ordered by start."""
        text_M = np.asarray(text, np.int64)
        n_grams = len(text_M) - GRAM_TOKENS + 1
        if n_grams < 1:
            return []
        hashes = _hashes(*(text_M[number : number + n_grams] for number in range(GRAM_TOKENS)))
        firsts = np.searchsorted(self._keys_G, hashes & ~LOWER_HALF, side="left")
        counts = np.searchsorted(self._keys_G, hashes | LOWER_HALF, side="right") - firsts
        matches: dict[tuple[int, int], int] = {}
        begin = 0
        while begin < n_grams:
            fits = np.searchsorted(np.cumsum(counts[begin:]), PAIRS_AT_A_TIME, side="right")
            end = begin + max(int(fits), 1)
            n_pairs = counts[begin:end]
            text_K = np.repeat(np.arange(begin, end), n_pairs)
            numbers_K = np.arange(len(text_K)) - np.repeat(np.cumsum(n_pairs) - n_pairs, n_pairs)
            keys_K = self._keys_G[np.repeat(firsts[begin:end], n_pairs) + numbers_K]
            corpus_K = (keys_K & LOWER_HALF).astype(np.int64) * STRIDE
            for start, tokens, position in self._extend_matches(text_M, text_K, corpus_K):
                matches.setdefault((start, tokens), position)
            begin = end
        return [VerbatimMatch(start, tokens, position) for (start, tokens), position in sorted(matches.items())]

    def _extend_matches(self, text_M: Int64s, text_K: Int64s, corpus_K: Int64s) -> list[tuple[int, int, int]]:
        """Extend pairs of equal 5-grams in both directions to where text and corpus differ."""
        for number in range(GRAM_TOKENS):
            equal = self._tokens_N[corpus_K + number] == text_M[text_K + number]
            text_K, corpus_K = text_K[equal], corpus_K[equal]
        ends_K = self._sample_ends(corpus_K)
        begins_K = self._starts[np.searchsorted(self._starts, corpus_K, side="right") - 1]
        right_K = np.minimum(len(text_M) - text_K, ends_K - corpus_K)
        right_K = GRAM_TOKENS + self._count_equal(
            text_M, text_K + GRAM_TOKENS, corpus_K + GRAM_TOKENS, right_K - GRAM_TOKENS, 1
        )
        left_K = self._count_equal(text_M, text_K - 1, corpus_K - 1, np.minimum(text_K, corpus_K - begins_K), -1)
        lengths_K = left_K + right_K
        long_enough = lengths_K >= MIN_MATCH_TOKENS
        columns = (text_K - left_K, lengths_K, corpus_K - left_K)
        return list(zip(*(column[long_enough].tolist() for column in columns), strict=True))

    def _count_equal(self, text_M: Int64s, text_K: Int64s, corpus_K: Int64s, max_K: Int64s, step: int) -> Int64s:
        """Number of equal tokens from each pair of positions, in one direction, up to a maximum."""
        steps_K = np.zeros(len(text_K), np.int64)
        going = np.flatnonzero(max_K > 0)
        taken = 0
        while len(going):
            equal = self._tokens_N[corpus_K[going] + step * taken] == text_M[text_K[going] + step * taken]
            going = going[equal]
            taken += 1
            steps_K[going] = taken
            going = going[max_K[going] > taken]
        return steps_K

    def _sample_ends(self, positions: Int64s) -> Int64s:
        """End of the sample around each position, without its end-of-text; 0 outside of samples."""
        sample = np.searchsorted(self._starts, positions, side="right") - 1
        ends: Int64s = np.where(sample >= 0, self._ends[sample] - 1, 0)
        return np.where(ends > positions, ends, 0)


def _hashes(*grams: npt.NDArray[np.integer]) -> npt.NDArray[np.uint64]:
    """Hashes of 5-grams, in the upper half of each number."""
    total = np.zeros(len(grams[0]), np.uint64)
    for tokens, factor in zip(grams, FACTORS, strict=True):
        total += (tokens.astype(np.uint64) + np.uint64(1)) * factor
    total ^= total >> HALF
    total *= FACTORS[0]
    return total


def longest_match_per_token(matches: list[VerbatimMatch], n_tokens: int) -> Int64s:
    """Length of the longest match that covers each token of a text, [M]; 0 where there is none."""
    longest_M = np.zeros(n_tokens, np.int64)
    for match in matches:
        covered = slice(match.start, match.start + match.tokens)
        longest_M[covered] = np.maximum(longest_M[covered], match.tokens)
    return longest_M
