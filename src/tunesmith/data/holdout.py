"""What is kept apart for validation: whole samples by groups, or the ends of a few long documents.

No duplicate of a validation sample is ever trained on: equal texts form a group, and groups are drawn. Where there are
only a few long documents, each gives its end, so that one novel in one file can be learned and measured too.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

Int64s = npt.NDArray[np.int64]

MINIMUM_SAMPLES = 2
FEW_SAMPLES = 10


@dataclass(frozen=True)
class Holdout:
    """Stretches of the token file: start, end, and how many tokens at the start are a prompt.

    Attributes:
        train: int64 [n, 3], what is learned, ascending.
        validation: int64 [n, 3], what is kept apart, ascending.
        samples: which samples are kept apart whole; None where documents were cut.
        method: in a few words.
        distinct_samples: how many different texts there are.
    """

    SHORTEST_CUT_TOKENS: ClassVar[int] = 512

    train: Int64s
    validation: Int64s
    samples: Int64s | None
    method: str
    distinct_samples: int


def hold_out(token_counts: Int64s, prompt_counts: Int64s, hashes: Int64s, *, fraction: float, seed: int) -> Holdout:
    """Choose.

    Args:
        token_counts: int64 [samples], tokens of each with its end-of-text; the first begins at token 1.
        prompt_counts: int64 [samples], tokens of each that are given and not predicted.
        hashes: int64 [samples], equal for equal texts.
        fraction: share to keep apart; 0 keeps none, 1 keeps all.
        seed: of the draw.
    """
    ends = 1 + np.cumsum(token_counts)
    ranges = np.stack([ends - token_counts, ends, prompt_counts], axis=1)
    n_samples = len(token_counts)
    groups = _groups_by_first_appearance(hashes)
    distinct = int(groups.max()) + 1
    if fraction in {0, 1}:
        chosen = np.full(n_samples, bool(fraction))
        return _by_samples(ranges, chosen, "every sample" if fraction else "no sample", distinct)
    is_long = token_counts.min() >= Holdout.SHORTEST_CUT_TOKENS
    if n_samples < FEW_SAMPLES and is_long and not prompt_counts.any():
        return _by_cutting(ranges, fraction, distinct)
    if distinct == 1:  # nothing but copies of one text: grouping cannot help
        groups = np.arange(n_samples)
    wanted = min(max(round(n_samples * fraction), 1), n_samples - 1)
    sizes = np.bincount(groups)
    order = np.random.default_rng(seed).permutation(len(sizes))
    reached = np.cumsum(sizes[order])
    n_groups = min(int(np.searchsorted(reached, wanted)) + 1, len(sizes) - 1)
    chosen = np.isin(groups, order[:n_groups])
    return _by_samples(ranges, chosen, "whole samples, duplicates together", distinct)


def _groups_by_first_appearance(hashes: Int64s) -> Int64s:
    """Number the distinct hashes in the order in which they come, whatever their values are."""
    _, first, group = np.unique(hashes, return_index=True, return_inverse=True)
    number = np.empty(len(first), np.int64)
    number[np.argsort(first)] = np.arange(len(first))
    return number[group]


def _by_samples(ranges: Int64s, chosen: npt.NDArray[np.bool_], method: str, distinct: int) -> Holdout:
    return Holdout(ranges[~chosen], ranges[chosen], np.flatnonzero(chosen), method, distinct)


def _by_cutting(ranges: Int64s, fraction: float, distinct: int) -> Holdout:
    cut = ranges[:, 1] - np.maximum(np.round((ranges[:, 1] - ranges[:, 0]) * fraction).astype(np.int64), 1)
    return Holdout(
        np.stack([ranges[:, 0], cut, ranges[:, 2]], axis=1),
        np.stack([cut, ranges[:, 1], ranges[:, 2]], axis=1),
        None,
        "the end of each document",
        distinct,
    )
