"""What a run leaves in its folder, for all who write or read it: names, and the numbers that JSON does not have.

In all of its JSON null stands where a number is not finite: a loss that became NaN, a perplexity beyond what a float
holds, `max_grad_norm` of a run whose gradients are not clipped.
"""

import math
from collections.abc import Mapping
from typing import Any

RUN_FILE = "run.json"
METRICS, SAMPLES = "metrics.jsonl", "samples.jsonl"
CHECKPOINTS = "checkpoints"
REPORT = "report.html"
NOVELTY = "novelty.json"


def read_settings(kept: Mapping[str, Any]) -> dict[str, Any]:
    """What was asked or planned, as it was before JSON."""
    return {**kept, "max_grad_norm": math.inf} if kept.get("max_grad_norm", 0) is None else dict(kept)


def number_or(kept: object, otherwise: float) -> float:
    """A number that was kept; what it must have been where null stands for it.

    Raises:
        TypeError: if it is something else.
        ValueError: likewise.
    """
    return otherwise if kept is None else float(kept)  # type: ignore[arg-type]
