"""One process of a team: does what a list of scenarios says, one after the other, and writes what came of it.

Started by torch's launcher in `test_processes.py`; several runs share a start, which takes longer than they do.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tunesmith.config import TrainConfig
from tunesmith.distributed import replication
from tunesmith.distributed.agreement import refuse_different
from tunesmith.distributed.joining import joined
from tunesmith.distributed.place import place_here
from tunesmith.distributed.team import Team
from tunesmith.errors import UserError
from tunesmith.training import trainer
from tunesmith.training.events import MicroBatchReduced, NonFiniteDetected, StepLogged
from tunesmith.training.train import train_events

NO_MEMORY = "CUDA out of memory. Tried to allocate 1.00 GiB."


def run(team: Team, config: dict[str, Any], **disturbed: Any) -> dict[str, Any]:
    """One training, stopped by one process only, with a gradient that goes bad in the last, or short of memory."""
    seen = [0]
    bad: list[str] = []
    shrunk: list[int] = []
    error = ""
    honest = trainer.train_step
    if disturbed.get("bad_step") and team.rank == team.size - 1:
        spoil(disturbed["bad_step"])
    if disturbed.get("full_rank") == team.rank:
        run_out_of_memory(disturbed["full_in"], disturbed.get("times", 1))

    def stop() -> bool:
        return team.rank == disturbed.get("stop_rank") and seen[-1] >= disturbed["stop_after"]

    try:
        for event in train_events(TrainConfig(**config), stop=stop, team=team, has_integrations=False):
            if isinstance(event, StepLogged):
                seen.append(event.step)
            if isinstance(event, NonFiniteDetected):
                bad.append(event.what)
            if isinstance(event, MicroBatchReduced):
                shrunk.append(event.step)
    except UserError as refused:
        error = refused.message
    trainer.train_step = honest
    team.wait_for_first()
    return {"steps": seen[-1], "bad": bad, "shrunk": shrunk, "error": error}


def spoil(bad_step: int) -> None:
    """Let one step's gradient be no number, once."""
    honest, calls = trainer.train_step, 0

    def train_step(model: Any, *others: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls != bad_step:
            return honest(model, *others, **options)
        hook = model.transformer.ln_f.weight.register_hook(lambda gradient: gradient * float("nan"))
        result = honest(model, *others, **options)
        hook.remove()
        return result

    trainer.train_step = train_step


def run_out_of_memory(where: str, times: int) -> None:
    """Let memory run out in the third step, and in its repetitions."""
    honest, calls = trainer.train_step, 0

    def refuse(*_arguments: Any) -> None:
        raise torch.OutOfMemoryError(NO_MEMORY)

    def train_step(model: Any, optimizer: Any, batches: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if not 3 <= calls < 3 + times:
            return honest(model, optimizer, batches, **options)
        undo: list[Callable[[], None]] = []
        if where == "forward":
            undo.append(model.transformer.h[1].register_forward_pre_hook(refuse).remove)
        elif where == "backward":  # the gradients of the layers behind it are on their way
            undo.append(model.transformer.h[1].ln_1.weight.register_hook(refuse).remove)
        else:
            clip = options["engine"].clip
            options["engine"].clip = refuse
            undo.append(lambda: setattr(options["engine"], "clip", clip))
        try:
            return honest(model, optimizer, batches, **options)
        finally:
            undo[0]()

    trainer.train_step = train_step


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
    replication.BUCKET_BYTES = 20_000  # so that even this small model's gradients travel in several
    with joined(place, device="cpu") as team:
        for scenario in scenarios:
            config = {
                name: tuple(value) if isinstance(value, list) else value for name, value in scenario["config"].items()
            }
            results.append(run(team, config, **scenario.get("options", {})))
        results.append(differing(team))
    Path(sys.argv[2], f"rank{place.rank}.json").write_text(json.dumps(results), "utf-8")


if __name__ == "__main__":
    main()
