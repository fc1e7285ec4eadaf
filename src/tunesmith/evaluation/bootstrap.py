"""Bootstrap confidence intervals over samples.

Samples are drawn with replacement; each draw's result is a sum over a sum, so long samples weigh what they weigh in the
text. Two models are compared on the same draws: what both find hard cancels out.
Reference: Efron & Tibshirani 1993, chapter 13 (percentile interval).
"""

from typing import Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Interval = tuple[float, float]

RESAMPLES = 1000
PERCENTILES = (2.5, 97.5)
"""Ends of a 95 % interval."""


def resampled_sums(columns_KS: npt.NDArray[np.number], *, seed: int) -> Floats | None:
    """Return sums of K columns over S samples drawn with replacement, [K, draws]; None for a single sample."""
    _, n_samples = columns_KS.shape
    if n_samples < 2:
        return None
    random = np.random.default_rng(seed)
    sums_KD = np.empty((len(columns_KS), RESAMPLES))
    for draw in range(RESAMPLES):
        sums_KD[:, draw] = columns_KS[:, random.integers(n_samples, size=n_samples)].sum(axis=1)
    return sums_KD


def interval_of(draws_D: Floats) -> Interval:
    """Return the 95 % percentile interval of a statistic, from its draws."""
    # nothing lies between two infinite draws
    method: Literal["linear", "nearest"] = "linear" if np.isfinite(draws_D).all() else "nearest"
    low, high = np.percentile(draws_D, PERCENTILES, method=method)
    return float(low), float(high)
