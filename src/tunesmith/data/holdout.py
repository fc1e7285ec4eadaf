"""What is kept apart for validation: whole samples by groups, or the ends of a few long documents.

No duplicate of a validation sample is ever trained on: equal texts form a group, and groups are drawn. Where there are
only a few long documents, each gives its end, so that one novel in one file can be learned and measured too.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from tunesmith.data.stretches import Integers, Stretches
from tunesmith.messages.catalogue import Phrase

Method = Literal["all", "none", "whole-samples", "document-ends"]
METHODS: dict[Method, Phrase] = {
    "all": Phrase("every sample"),
    "none": Phrase("no sample"),
    "whole-samples": Phrase("whole samples, duplicates together"),
    "document-ends": Phrase("the end of each document"),
}
"""How it was chosen, in a few words."""

MINIMUM_SAMPLES = 2
FEW_SAMPLES = 10
SHORTEST_CUT_TOKENS = 512


@dataclass(frozen=True)
class Holdout:
    """What is learned and what is kept apart.

    Attributes:
        train: what is learned, ascending.
        validation: what is kept apart, ascending.
        chosen: bool [samples], which samples are kept apart whole; None where documents were cut.
        method: how it was chosen.
    """

    train: Stretches
    validation: Stretches
    chosen: npt.NDArray[np.bool_] | None
    method: Method


def hold_out(samples: Stretches, firsts: Integers, *, fraction: float, seed: int) -> Holdout:
    """Choose.

    Args:
        samples: all of them.
        firsts: [samples], for each the first one with the same text.
        fraction: share to keep apart; 0 keeps none, 1 keeps all.
        seed: of the draw.
    """
    n_samples = len(samples)
    if fraction in {0, 1}:
        chosen = np.full(n_samples, bool(fraction))
        return _by_samples(samples, chosen, "all" if fraction else "none")
    is_long = samples.lengths.min() >= SHORTEST_CUT_TOKENS
    if n_samples < FEW_SAMPLES and is_long and not samples.prompt_tokens.any():
        return _by_cutting(samples, fraction)
    if not firsts.any():  # nothing but copies of one text: grouping cannot help
        firsts = np.arange(n_samples)
    heads = np.flatnonzero(firsts == np.arange(n_samples))  # a group goes by its first sample
    wanted = min(max(round(n_samples * fraction), 1), n_samples - 1)
    drawn = heads[np.random.default_rng(seed).permutation(len(heads))[:wanted]]
    reached = np.cumsum(np.bincount(firsts, minlength=n_samples)[drawn])
    n_groups = min(int(np.searchsorted(reached, wanted)) + 1, len(heads) - 1)
    is_drawn = np.zeros(n_samples, np.bool_)
    is_drawn[drawn[:n_groups]] = True
    return _by_samples(samples, is_drawn[firsts], "whole-samples")


def _by_samples(samples: Stretches, chosen: npt.NDArray[np.bool_], method: Method) -> Holdout:
    return Holdout(samples[~chosen], samples[chosen], chosen, method)


def _by_cutting(samples: Stretches, fraction: float) -> Holdout:
    kept_apart = np.maximum(np.round(samples.lengths * fraction).astype(np.int64), 1)
    learned = samples.lengths - kept_apart
    return Holdout(
        replace(samples, lengths=learned),
        replace(samples, starts=samples.starts + learned, lengths=kept_apart),
        None,
        "document-ends",
    )
