"""One process of several: does what a list of scenarios says, one after the other, and writes what came of it.

Started by torch's launcher in `test_world.py`; several runs share a start, which takes longer than they do.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tunesmith.config import TrainConfig
from tunesmith.distributed.consistency import check_same_inputs
from tunesmith.distributed.env import torchrun_env
from tunesmith.distributed.init import init_world
from tunesmith.distributed.world import World
from tunesmith.errors import UserError
from tunesmith.training import trainer
from tunesmith.training.events import MicroBatchReduced, NonFiniteDetected, StepLogged
from tunesmith.training.train import train_events

NO_MEMORY = "CUDA out of memory. Tried to allocate 1.00 GiB."


def run(world: World, config: dict[str, Any], **disturbed: Any) -> dict[str, Any]:
    """One training, stopped by one process only, with a gradient that goes bad in the last, or short of memory."""
    seen = [0]
    bad: list[str] = []
    shrunk: list[int] = []
    error = ""
    honest = trainer.train_step
    if disturbed.get("bad_step") and world.rank == world.size - 1:
        spoil(disturbed["bad_step"])
    if disturbed.get("full_rank") == world.rank:
        run_out_of_memory(disturbed["full_in"], disturbed.get("times", 1))

    def stop() -> bool:
        return world.rank == disturbed.get("stop_rank") and seen[-1] >= disturbed["stop_after"]

    try:
        for event in train_events(TrainConfig(**config), stop=stop, world=world):
            if isinstance(event, StepLogged):
                seen.append(event.step)
            if isinstance(event, NonFiniteDetected):
                bad.append(event.what)
            if isinstance(event, MicroBatchReduced):
                shrunk.append(event.step)
    except UserError as refused:
        error = refused.message
    trainer.train_step = honest
    world.barrier()
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
            clip = options["strategy"].clip_grad_norm
            options["strategy"].clip_grad_norm = refuse
            undo.append(lambda: setattr(options["strategy"], "clip_grad_norm", clip))
        try:
            return honest(model, optimizer, batches, **options)
        finally:
            undo[0]()

    trainer.train_step = train_step


def differing(world: World) -> dict[str, Any]:
    """What every process says when one of them read another text."""
    try:
        check_same_inputs(world, "other" if world.rank == 2 else "same", None)
    except UserError as error:
        return {"error": error.message}
    return {}


def main() -> None:
    scenarios = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    env = torchrun_env()
    assert env is not None
    results = []
    with init_world(env, device="cpu") as world:
        for scenario in scenarios:
            config = {
                name: tuple(value) if isinstance(value, list) else value for name, value in scenario["config"].items()
            }
            results.append(run(world, config, **scenario.get("options", {})))
        results.append(differing(world))
    Path(sys.argv[2], f"rank{env.rank}.json").write_text(json.dumps(results), "utf-8")


if __name__ == "__main__":
    main()
