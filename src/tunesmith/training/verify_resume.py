"""`--verify-resume`: the first steps of this very run, once unbroken and once broken and resumed, compared bit by bit.

Text, model, device and settings are the user's, and so is the way: checkpoints are written and read as in any run, in a
temporary folder beside the run's.
"""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import torch
from safetensors.torch import load_file

from tunesmith.config import TrainConfig
from tunesmith.training.events import Event, ResumeVerified
from tunesmith.training.run import RunFolder

STEPS, BROKEN_AFTER = 4, 2

Train = Callable[[TrainConfig, Callable[[], bool]], Iterator[Event]]


def verify_resume(config: TrainConfig, train: Train) -> ResumeVerified:
    """Make a few steps twice.

    Args:
        config: of the run.
        train: what trains: a configuration and what asks for the end.

    Raises:
        UserError: whatever is wrong with the run itself.
    """
    out = Path(config.out).absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    short = replace(
        config,
        resume=False,
        verify_resume=False,
        max_hours=None,
        stop_at=None,
        max_steps=STEPS,
        eval_every_steps=STEPS,
        save_every_steps=STEPS,
    )
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.verify-resume-", dir=out.parent) as folder:
        unbroken, broken = Path(folder) / "unbroken", Path(folder) / "broken"
        _run(replace(short, out=str(unbroken)), train, STEPS)
        _begin_as(RunFolder(unbroken), RunFolder(broken))
        _run(TrainConfig(out=str(broken), resume=True), train, BROKEN_AFTER)
        _run(TrainConfig(out=str(broken), resume=True), train, STEPS - BROKEN_AFTER)
        return _compared(RunFolder(unbroken), RunFolder(broken))


def _begin_as(first: RunFolder, second: RunFolder) -> None:
    """Give the second run the first one's plan: memory is not as it was, and another plan adds in another order."""
    second.path.mkdir()
    second.begin(first.describe())


def _run(config: TrainConfig, train: Train, stop_after: int) -> None:
    asked = count()  # once before every step
    for _ in train(config, lambda: next(asked) >= stop_after):
        pass


def _compared(unbroken: RunFolder, broken: RunFolder) -> ResumeVerified:
    one, other = unbroken.checkpoints()[-1], broken.checkpoints()[-1]
    largest: dict[str, float] = {}
    for path in sorted(one.rglob("*.safetensors")):
        name = path.relative_to(one).as_posix()
        first, second = load_file(path), load_file(other / name)
        differing = [(first[key], second[key]) for key in first if not first[key].equal(second[key])]
        if differing:
            largest[name] = max(float((a.to(torch.float64) - b.to(torch.float64)).abs().max()) for a, b in differing)
    steps = int(one.name.removeprefix("step-"))
    return ResumeVerified(steps, min(BROKEN_AFTER, steps), largest)
