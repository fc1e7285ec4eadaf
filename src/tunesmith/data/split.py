"""Training and validation split: whole samples by groups of duplicates, or the ends of a few long documents.

A sample is never trained on if its exact duplicate is held out: equal texts form a group, and groups are drawn at
random. With only a few long documents the end of each is held out, so that one novel in one file can be used too.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from tunesmith.data.spans import Integers, TokenSpans
from tunesmith.i18n import LazyString

ValMethod = Literal["all", "none", "whole-samples", "document-ends"]
VAL_METHODS: dict[ValMethod, LazyString] = {
    "all": LazyString("every sample"),
    "none": LazyString("no sample"),
    "whole-samples": LazyString("whole samples, duplicates together"),
    "document-ends": LazyString("the end of each document"),
}
"""Descriptions for people."""

MIN_SAMPLES = 2
FEW_SAMPLES = 10
MIN_CUT_TOKENS = 512


@dataclass(frozen=True)
class TrainValSplit:
    """Which spans are trained on and which are held out.

    Attributes:
        train: ascending.
        validation: ascending.
        is_held_out: bool [samples], samples held out as a whole; None where documents were cut.
        method: how it was chosen.
    """

    train: TokenSpans
    validation: TokenSpans
    is_held_out: npt.NDArray[np.bool_] | None
    method: ValMethod


def train_val_split(samples: TokenSpans, duplicate_of: Integers, *, fraction: float, seed: int) -> TrainValSplit:
    """Split samples.

    Args:
        samples: all samples.
        duplicate_of: [samples], index of the first sample with the same text.
        fraction: of the samples that are held out; 0 is none, 1 all.
        seed: of the random draw.
    """
    n_samples = len(samples)
    if fraction in {0, 1}:
        return _split_samples(samples, np.full(n_samples, bool(fraction)), "all" if fraction else "none")
    is_long = samples.lengths.min() >= MIN_CUT_TOKENS
    if n_samples < FEW_SAMPLES and is_long and not samples.prompt_tokens.any():
        return _cut_documents(samples, fraction)
    if not duplicate_of.any():  # all are duplicates of one text: grouping cannot help
        duplicate_of = np.arange(n_samples)
    firsts = np.flatnonzero(duplicate_of == np.arange(n_samples))  # a group is identified by its first sample
    n_held_out = min(max(round(n_samples * fraction), 1), n_samples - 1)
    drawn = firsts[np.random.default_rng(seed).permutation(len(firsts))[:n_held_out]]
    cumulative = np.cumsum(np.bincount(duplicate_of, minlength=n_samples)[drawn])
    n_groups = min(int(np.searchsorted(cumulative, n_held_out)) + 1, len(firsts) - 1)
    is_drawn = np.zeros(n_samples, np.bool_)
    is_drawn[drawn[:n_groups]] = True
    return _split_samples(samples, is_drawn[duplicate_of], "whole-samples")


def _split_samples(samples: TokenSpans, is_held_out: npt.NDArray[np.bool_], method: ValMethod) -> TrainValSplit:
    return TrainValSplit(samples[~is_held_out], samples[is_held_out], is_held_out, method)


def _cut_documents(samples: TokenSpans, fraction: float) -> TrainValSplit:
    n_held_out = np.maximum(np.round(samples.lengths * fraction).astype(np.int64), 1)
    n_trained = samples.lengths - n_held_out
    return TrainValSplit(
        replace(samples, lengths=n_trained),
        replace(samples, starts=samples.starts + n_trained, lengths=n_held_out),
        None,
        "document-ends",
    )
