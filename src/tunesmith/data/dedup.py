"""Duplicate detection: exact by hash, near by MinHash over token n-grams.

Near duplicates share at least four fifths of their 3-grams, estimated with 64 hash functions (Broder, "On the
resemblance and containment of documents", 1997; candidates by locality-sensitive hashing in bands).
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from tunesmith.data.spans import Int64s, Integers, TokenSpans

SHINGLE_TOKENS = 3
HASH_FUNCTIONS = 64
BANDS = 16
MIN_SIMILARITY = 0.8
SEED = 1
TOKENS_AT_A_TIME = 1 << 20
SAMPLES_AT_A_TIME = 1 << 20
TABLE_BITS = 1 << 22
MIXER = np.uint64(0x9E3779B97F4A7C15)

Signatures = npt.NDArray[np.uint32]


def exact_duplicate_of(hashes: Int64s) -> Integers:
    """Return for each sample the index of the first one with the same hash; its own index if there is none before it.

    Most texts have few duplicates or none, so only duplicates are sorted together with their index.
    """
    firsts = np.arange(len(hashes), dtype=np.min_scalar_type(max(len(hashes) - 1, 0)))
    ordered = np.sort(hashes)
    repeated = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    del ordered
    copies = _indices_of(repeated, hashes)
    if len(copies):
        _, first, which = np.unique(hashes[copies], return_index=True, return_inverse=True)
        firsts[copies] = copies[first][which]
    return firsts


def _indices_of(repeated: Int64s, hashes: Int64s) -> Int64s:
    """Indices of the repeated hashes; a table of their lowest bits spares most others the search."""
    is_candidate = np.zeros(TABLE_BITS, np.bool_)
    is_candidate[repeated & (TABLE_BITS - 1)] = True
    indices = [np.zeros(0, np.int64)]
    for begin in range(0, len(hashes), SAMPLES_AT_A_TIME):
        chunk = hashes[begin : begin + SAMPLES_AT_A_TIME]
        candidates = np.flatnonzero(is_candidate[chunk & (TABLE_BITS - 1)])
        nearest = np.minimum(np.searchsorted(repeated, chunk[candidates]), len(repeated) - 1)
        indices.append(begin + candidates[repeated[nearest] == chunk[candidates]])
    return np.concatenate(indices)


def near_duplicate_of(tokens: npt.NDArray[Any], samples: TokenSpans) -> Integers:
    """Return for each sample the index of the first near duplicate, transitively; its own index if there is none.

    Args:
        tokens: the token file.
        samples: spans of it, each ending in end-of-text.
    """
    if len(samples) < 2:
        return np.zeros(len(samples), np.int64)
    signatures = np.concatenate(
        [np.zeros((0, HASH_FUNCTIONS), np.uint32), *(_signatures(tokens, portion) for portion in _portions(samples))]
    )
    firsts = np.arange(len(samples))
    for band in np.split(signatures, BANDS, axis=1):
        keys = _bucket_keys(band)
        order = np.argsort(keys, kind="stable")
        is_same_bucket = np.diff(keys[order]) == 0
        earlier, later = order[:-1][is_same_bucket], order[1:][is_same_bucket]
        is_new = firsts[earlier] != firsts[later]
        earlier, later = earlier[is_new], later[is_new]
        is_similar = (signatures[earlier] == signatures[later]).mean(axis=1) >= MIN_SIMILARITY
        _link(firsts, earlier[is_similar], later[is_similar])
    return firsts


def _portions(samples: TokenSpans) -> Iterator[TokenSpans]:
    """The samples, about a million tokens at a time."""
    cumulative = np.cumsum(samples.lengths, dtype=np.int64)
    borders = np.searchsorted(cumulative, np.arange(TOKENS_AT_A_TIME, cumulative[-1:].sum(), TOKENS_AT_A_TIME))
    for first, end in zip([0, *borders.tolist()], [*borders.tolist(), len(samples)], strict=True):
        if first < end:
            yield samples[first:end]


def _signatures(tokens: npt.NDArray[Any], samples: TokenSpans) -> Signatures:
    """uint32 [samples, HASH_FUNCTIONS]."""
    from rensa import RMinHash

    starts, ends = samples.starts.tolist(), samples.ends.tolist()
    shingles = [_shingles(tokens[start : end - 1]) for start, end in zip(starts, ends, strict=True)]
    offsets = np.cumsum([0, *map(len, shingles)]).astype(np.uint64)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(np.concatenate(shingles), offsets, HASH_FUNCTIONS, SEED)
    return np.array(matrix.to_rows(), np.uint32)


def _shingles(tokens: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """Hash of every n-gram of SHINGLE_TOKENS tokens; of the whole text if it is shorter."""
    ids = tokens.astype(np.uint64)
    n = max(len(ids) - SHINGLE_TOKENS + 1, 1)
    return _mix(np.zeros(n, np.uint64), [ids[k : k + n] + np.uint64(1) for k in range(min(SHINGLE_TOKENS, len(ids)))])


def _bucket_keys(band: Signatures) -> npt.NDArray[np.uint64]:
    """One key for each row of a band; equal for equal rows."""
    return _mix(np.zeros(len(band), np.uint64), list(band.T))


def _mix(hashes: npt.NDArray[np.uint64], columns: list[npt.NDArray[Any]]) -> npt.NDArray[np.uint64]:
    for column in columns:
        hashes = (hashes ^ column) * MIXER
        hashes ^= hashes >> np.uint64(29)
    return hashes


def _link(firsts: Int64s, earlier: Int64s, later: Int64s) -> None:
    """Union the groups of pairs; every member points to the group's first sample."""
    for pair in zip(earlier.tolist(), later.tolist(), strict=True):
        a, b = (_root(firsts, sample) for sample in pair)
        firsts[max(a, b)] = min(a, b)
    while (firsts[firsts] != firsts).any():
        firsts[:] = firsts[firsts]


def _root(firsts: Int64s, sample: int) -> int:
    while firsts[sample] != sample:
        sample = int(firsts[sample])
    return sample
