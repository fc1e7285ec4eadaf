"""Plans a run of a model, as `tunesmith plan` does; run in a process of its own, because it may need torch."""

import sys

from tunesmith.config import PlanConfig
from tunesmith.doctor.children import found
from tunesmith.errors import UserError
from tunesmith.model.hub import folder_here
from tunesmith.optim.state_format import STATE_FORMATS
from tunesmith.training.forecast import Forecast, forecast, shape_of

FP32_BYTES = 4


def main() -> None:
    """Write the fields of `ModelFacts`."""
    name = sys.argv[1]
    found(name=name)
    try:
        found(is_here=folder_here(name) is not None)
        answer = forecast(PlanConfig(model=name))
    except (UserError, ImportError, OSError) as error:
        found(error=error.message if isinstance(error, UserError) else f"{type(error).__name__}: {error}")
        return
    found(
        budget_bytes=answer.hardware.budget.value,
        where=answer.hardware.name,
        memory_bytes=answer.plan.peak_memory_bytes if answer.plan else None,
        refusal=answer.refusal,
        **_sizes(answer),
    )


def _sizes(answer: Forecast) -> dict[str, int]:
    """Of the weights' file, and of the run at its fullest: two checkpoints, and the best model and its successor."""
    shape = shape_of(answer.model)
    parameters = shape.matrix_parameters + shape.n_positions * shape.n_embd
    weights_bytes = parameters * FP32_BYTES
    bits = STATE_FORMATS[answer.plan.states].moment_bits if answer.plan else 32
    return {"weights_bytes": weights_bytes, "disk_bytes": 4 * weights_bytes + 2 * (2 * parameters * bits // 8)}


if __name__ == "__main__":
    main()
