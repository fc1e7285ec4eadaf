"""Which samples repeat an earlier one: exactly, or nearly (MinHash over stretches of tokens).

Near duplicates share at least four fifths of their stretches of three tokens, as far as 64 hash functions can tell
(Broder, "On the resemblance and containment of documents", 1997; candidates by locality-sensitive hashing in bands).
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from tunesmith.data.stretches import Int64s, Integers, Stretches

SHINGLE_TOKENS = 3
HASH_FUNCTIONS = 64
BANDS = 16
SIMILAR = 0.8
SEED = 1
TOKENS_AT_A_TIME = 1 << 20
SAMPLES_AT_A_TIME = 1 << 20
TABLE_BITS = 1 << 22
MIXER = np.uint64(0x9E3779B97F4A7C15)

Signatures = npt.NDArray[np.uint32]


def first_equal(hashes: Int64s) -> Integers:
    """For each sample the first one with the same hash, itself where there is none before it.

    Most texts hold few duplicates or none, so nothing but those is sorted with its place.
    """
    firsts = np.arange(len(hashes), dtype=np.min_scalar_type(max(len(hashes) - 1, 0)))
    ordered = np.sort(hashes)
    repeated = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    del ordered
    copies = _places_of(repeated, hashes)
    if len(copies):
        _, first, which = np.unique(hashes[copies], return_index=True, return_inverse=True)
        firsts[copies] = copies[first][which]
    return firsts


def _places_of(wanted: Int64s, hashes: Int64s) -> Int64s:
    """Where the wanted hashes stand; a table of their last bits spares most others the search."""
    may_be_wanted = np.zeros(TABLE_BITS, np.bool_)
    may_be_wanted[wanted & (TABLE_BITS - 1)] = True
    places = [np.zeros(0, np.int64)]
    for begin in range(0, len(hashes), SAMPLES_AT_A_TIME):
        some = hashes[begin : begin + SAMPLES_AT_A_TIME]
        candidates = np.flatnonzero(may_be_wanted[some & (TABLE_BITS - 1)])
        nearest = np.minimum(np.searchsorted(wanted, some[candidates]), len(wanted) - 1)
        places.append(begin + candidates[wanted[nearest] == some[candidates]])
    return np.concatenate(places)


def first_similar(tokens: npt.NDArray[Any], samples: Stretches) -> Integers:
    """For each sample the first one that is nearly the same, over any number of steps; itself where there is none.

    Args:
        tokens: the token file.
        samples: stretches of it, each ending in end-of-text.
    """
    if len(samples) < 2:
        return np.zeros(len(samples), np.int64)
    signatures = np.concatenate(
        [np.zeros((0, HASH_FUNCTIONS), np.uint32), *(_signatures(tokens, some) for some in _portions(samples))]
    )
    firsts = np.arange(len(samples))
    for band in np.split(signatures, BANDS, axis=1):
        keys = _mixed(band)
        order = np.argsort(keys, kind="stable")
        is_same_bucket = np.diff(keys[order]) == 0
        earlier, later = order[:-1][is_same_bucket], order[1:][is_same_bucket]
        are_apart = firsts[earlier] != firsts[later]
        earlier, later = earlier[are_apart], later[are_apart]
        are_similar = (signatures[earlier] == signatures[later]).mean(axis=1) >= SIMILAR
        _link(firsts, earlier[are_similar], later[are_similar])
    return firsts


def _portions(samples: Stretches) -> Iterator[Stretches]:
    """The samples, about a million tokens at a time."""
    reached = np.cumsum(samples.lengths, dtype=np.int64)
    borders = np.searchsorted(reached, np.arange(TOKENS_AT_A_TIME, reached[-1:].sum(), TOKENS_AT_A_TIME))
    for first, end in zip([0, *borders.tolist()], [*borders.tolist(), len(samples)], strict=True):
        if first < end:
            yield samples[first:end]


def _signatures(tokens: npt.NDArray[Any], samples: Stretches) -> Signatures:
    """uint32 [samples, HASH_FUNCTIONS]."""
    from rensa import RMinHash

    starts, ends = samples.starts.tolist(), samples.ends.tolist()
    shingles = [_shingles(tokens[start : end - 1]) for start, end in zip(starts, ends, strict=True)]
    offsets = np.cumsum([0, *map(len, shingles)]).astype(np.uint64)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(np.concatenate(shingles), offsets, HASH_FUNCTIONS, SEED)
    return np.array(matrix.to_rows(), np.uint32)


def _shingles(tokens: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """A hash of every stretch of SHINGLE_TOKENS tokens; of the whole where it is shorter."""
    ids = tokens.astype(np.uint64)
    n = max(len(ids) - SHINGLE_TOKENS + 1, 1)
    hashes = np.zeros(n, np.uint64)
    for place in range(min(SHINGLE_TOKENS, len(ids))):
        hashes = (hashes ^ (ids[place : place + n] + np.uint64(1))) * MIXER
        hashes ^= hashes >> np.uint64(29)
    return hashes


def _mixed(band: Signatures) -> npt.NDArray[np.uint64]:
    """One key for each row of a band; equal for equal rows."""
    keys = np.zeros(len(band), np.uint64)
    for column in band.T:
        keys = (keys ^ column) * MIXER
        keys ^= keys >> np.uint64(29)
    return keys


def _link(firsts: Int64s, earlier: Int64s, later: Int64s) -> None:
    """Join the groups of pairs; every member points to the group's first sample."""
    for one, other in zip(earlier.tolist(), later.tolist(), strict=True):
        a, b = _root(firsts, one), _root(firsts, other)
        firsts[max(a, b)] = min(a, b)
    while (firsts[firsts] != firsts).any():
        firsts[:] = firsts[firsts]


def _root(firsts: Int64s, sample: int) -> int:
    while firsts[sample] != sample:
        sample = int(firsts[sample])
    return sample
