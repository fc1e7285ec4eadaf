"""Long series for small pictures: of each stretch the lowest and the highest point stay, so that no peak is lost.

Every point that is drawn was measured: none is an average. The smoothed line beside it is one, and is called so.
"""

import numpy as np

from tunesmith.reporting.columns import Floats

MOST_POINTS = 480
SMOOTHED_OVER = 50
"""So many stretches a smoothed line averages a run over, roughly."""


def kept_points(values: Floats, most: int = MOST_POINTS) -> np.ndarray:
    """Indices of the points to draw, ascending: the first, the last, and the extremes of each stretch.

    Args:
        values: in order; what is not finite is never drawn.
        most: roughly how many to keep.
    """
    finite = np.flatnonzero(np.isfinite(values))
    if len(finite) <= most:
        return finite
    stretches = np.array_split(finite, most // 2)
    lowest = [stretch[np.argmin(values[stretch])] for stretch in stretches]
    highest = [stretch[np.argmax(values[stretch])] for stretch in stretches]
    return np.unique(np.array([finite[0], *lowest, *highest, finite[-1]]))


def smoothed(values: Floats) -> Floats:
    """The mean of each point and those just before it, a fiftieth of the run; NaN where there is none to average.

    Args:
        values: in order; what is not finite does not count.
    """
    window = max(len(values) // SMOOTHED_OVER, 1)
    finite = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(finite, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(finite)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    n_counted = counts[ends] - counts[starts]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(n_counted > 0, (sums[ends] - sums[starts]) / n_counted, np.nan)
