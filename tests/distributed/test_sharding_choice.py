"""Whole models where they fit, parts where only those do."""

from dataclasses import replace
from typing import Any

import pytest

from tunesmith.config import PlanConfig
from tunesmith.errors import UserError
from tunesmith.model.hub import preset_shape
from tunesmith.optim.state_format import STATE_FORMATS
from tunesmith.planning.memory_model import Calibration, StepSpec, estimate_memory
from tunesmith.training.estimate import TrainEstimate, estimate


def planned(model: str, vram: str, devices: int, **others: Any) -> TrainEstimate:
    """What `plan` says of a GPU that is not here."""
    return estimate(PlanConfig(model=model, vram=vram, devices=devices, **others))


def test_xl_on_two_cards_of_12_gb_is_in_parts() -> None:
    """It fits no GPU of 12 GB in fp32, and two of 24 GB in parts; the plan's table has the line."""
    alone = planned("gpt2-xl", "24GB", 1)
    together = planned("gpt2-xl", "24GB", 2)
    assert alone.plan is not None
    assert together.plan is not None
    assert (alone.plan.memory_mode, alone.plan.shard) != ("fp32", True)
    assert (together.plan.memory_mode, together.plan.shard, together.plan.devices) == ("fp32", True, 2)
    assert together.plan.peak_memory_bytes < together.hardware.budget.value
    chosen = [method for method in together.methods if method.is_chosen and method.model == "gpt2-xl"]
    assert [method.method for method in chosen] == ["fp32 in 2 parts"]


def test_a_small_model_stays_whole() -> None:
    """Where a whole model fits, nobody sends weights at every micro-batch."""
    plan = planned("gpt2", "12GB", 4).plan
    assert plan is not None
    assert (plan.memory_mode, plan.shard) == ("fp32", False)


def test_parts_are_counted() -> None:
    """Twice as many processes hold half of the moments each, and of the weights no less than what is gathered."""
    shape = preset_shape("gpt2-xl")
    assert shape is not None
    demand = StepSpec(shape, STATE_FORMATS["fp32"], "full", 1024, 1, 2, "cuda", is_sharded=True)
    two, four = (estimate_memory(replace(demand, processes=n), Calibration()) for n in (2, 4))
    assert two.moments == 2 * four.moments
    assert two.weights > four.weights > two.weights / 2


@pytest.mark.parametrize(
    "others", [{"lora_r": 4}, {"memory_mode": "8bit"}, {"freeze": "embeddings"}, {"devices": 1}], ids=str
)
def test_what_does_not_go_with_parts_is_said(others: dict[str, Any]) -> None:
    """It is refused by name, not ignored."""
    with pytest.raises(UserError, match="--shard yes: "):
        planned("gpt2", "12GB", **{"devices": 2, "shard": "yes", **others})
