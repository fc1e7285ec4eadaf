"""One process of a team: does what a list of scenarios says, one after the other, and writes what came of it.

Started by torch's launcher in `test_processes.py`; several runs share a start, which takes longer than they do.
"""

import json
import sys
from pathlib import Path
from typing import Any

from tunesmith.config import TrainConfig
from tunesmith.distributed.agreement import refuse_different
from tunesmith.distributed.joining import joined
from tunesmith.distributed.place import place_here
from tunesmith.distributed.team import Team
from tunesmith.errors import UserError
from tunesmith.training import loop
from tunesmith.training.events import BadNumbers, Stepped
from tunesmith.training.job import train_model


def run(team: Team, config: dict[str, Any], *, stop_rank: int, stop_after: int, bad_step: int) -> dict[str, Any]:
    """One training, stopped by one process only, or with a gradient that goes bad in the last one."""
    seen = [0]
    bad: list[str] = []
    honest = loop.train_step
    if bad_step and team.rank == team.size - 1:
        spoil(bad_step)

    def stop() -> bool:
        return team.rank == stop_rank and seen[-1] >= stop_after

    for event in train_model(TrainConfig(**config), stop=stop, team=team):
        if isinstance(event, Stepped):
            seen.append(event.step)
        if isinstance(event, BadNumbers):
            bad.append(event.what)
    loop.train_step = honest
    team.wait_for_first()
    return {"steps": seen[-1], "bad": bad}


def spoil(bad_step: int) -> None:
    """Let one step's gradient be no number, once."""
    honest, calls = loop.train_step, 0

    def train_step(model: Any, *others: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls != bad_step:
            return honest(model, *others, **options)
        hook = model.transformer.ln_f.weight.register_hook(lambda gradient: gradient * float("nan"))
        result = honest(model, *others, **options)
        hook.remove()
        return result

    loop.train_step = train_step


def differing(team: Team) -> dict[str, Any]:
    """What every process says when one of them read another text."""
    try:
        refuse_different(team, {"versions": "1", "text": "other" if team.rank == 2 else "same", "model": ""})
    except UserError as error:
        return {"error": error.message}
    return {}


def main() -> None:
    scenarios = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    place = place_here()
    assert place is not None
    results = []
    with joined(place, device="cpu") as team:
        for scenario in scenarios:
            config = {
                name: tuple(value) if isinstance(value, list) else value for name, value in scenario["config"].items()
            }
            options = {"stop_rank": -1, "stop_after": 0, "bad_step": 0, **scenario.get("options", {})}
            results.append(run(team, config, **options))
        results.append(differing(team))
    Path(sys.argv[2], f"rank{place.rank}.json").write_text(json.dumps(results), "utf-8")


if __name__ == "__main__":
    main()
