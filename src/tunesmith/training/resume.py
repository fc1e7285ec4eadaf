"""Resuming: what may change, whether text and model are still the same, and `--verify-resume`."""

import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, replace
from itertools import count
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tunesmith.config import TrainConfig
from tunesmith.data.corpus import Corpus
from tunesmith.data.hf_datasets import HUB_PREFIX
from tunesmith.data.source_files import STDIN_NAMES
from tunesmith.distributed.consistency import weights_sha256
from tunesmith.errors import UserError
from tunesmith.i18n import say
from tunesmith.run_dir import RunDir, checkpoint_step
from tunesmith.training.events import Event, ResumeVerified
from tunesmith.training.plan import TrainPlan

LENGTH = ("epochs", "max_steps")
INTERVALS = ("eval_steps", "save_steps")
ONE_SESSION = (
    *("resume", "verify_resume", "max_hours", "stop_at", "json", "quiet", "lang", "out"),
    *("dashboard", "devices", "shard"),
)
"""Not stored: each command sets them again."""
MAY_CHANGE = (*ONE_SESSION, *LENGTH, *INTERVALS, "keep_gb", "sample_prompts", "report_to")
VERIFIED_STEPS, INTERRUPTED_AFTER = 4, 2

Train = Callable[[TrainConfig, Callable[[], bool]], Iterable[Event]]


def stored_config(run: RunDir) -> TrainConfig:
    """Return the configuration that a run was started with.

    Raises:
        UserError: if there is no run or its description is damaged.
    """
    known = {field.name for field in fields(TrainConfig)} - set(ONE_SESSION)
    stored: Mapping[str, Any] = run.read_metadata()["config"]
    return TrainConfig(**{name: value for name, value in stored.items() if name in known}, out=str(run.path))


def resumed_config(typed: TrainConfig, before: TrainConfig, run: RunDir) -> TrainConfig:
    """Return the configuration of a resumed run: as before, except for what was typed and may change.

    Raises:
        UserError: for what may not change; or if the run is finished and no more steps are requested.
    """
    typed = with_absolute_paths(typed)
    defaults = TrainConfig(out=typed.out)
    changed = {
        field.name: getattr(typed, field.name)
        for field in fields(TrainConfig)
        if getattr(typed, field.name) not in (getattr(defaults, field.name), getattr(before, field.name))
    }
    refused = sorted(
        say(
            "{flag} was {before} and is now {now}",
            flag=f"--{name.replace('_', '-')}",
            before=getattr(before, name),
            now=value,
        )
        for name, value in changed.items()
        if name not in MAY_CHANGE
    )
    if refused:
        raise UserError(
            "the run in {path} was started differently: {refused}",
            hint="leave these out: tunesmith train --resume --out {path}; or start again in another --out",
            path=run.path,
            refused="; ".join(refused),
        )
    if run.status() == "finished" and not set(LENGTH) & set(changed):
        raise UserError(
            "the run in {path} is finished: there is nothing to resume",
            hint="ask for more: tunesmith train --resume --epochs {epochs:g} --out {path}; or train further "
            "from its result: tunesmith train FILE --model {path} --out NEW",
            path=run.path,
            epochs=2 * before.epochs,
        )
    if "epochs" in changed and "max_steps" not in changed:
        changed["max_steps"] = None  # what is typed now counts
    session = {name: getattr(typed, name) for name in ONE_SESSION}
    return replace(before, **{**changed, **session})


def stored_plan(run: RunDir) -> TrainPlan:
    """Return the plan that a run follows.

    Raises:
        UserError: if another version made it.
    """
    try:
        return TrainPlan(**run.read_metadata()["plan"])
    except (TypeError, KeyError):
        raise UserError(
            "the run in {path} was planned by another version of tunesmith",
            hint="resume it with that version, or train again into another --out",
            path=run.path,
        ) from None


def check_same_text(run: RunDir, corpus: Corpus) -> None:
    """Check that the text is the one the run began with.

    Raises:
        UserError: if it is not.
    """
    if run.read_metadata()["data"]["fingerprint"] != corpus.fingerprint:
        raise UserError(
            "the text has changed since the run in {path} began",
            hint="restore the old files, or start again in another --out",
            path=run.path,
        )


def check_same_model(run: RunDir, folder: Path) -> None:
    """Check that the base model is the one the run began with, where its weights are read again.

    Raises:
        UserError: if it is not.
    """
    before = run.read_metadata().get("model", {}).get("weights_sha256")
    if before is not None and before != weights_sha256(folder):
        raise UserError(
            "the model in {folder} has changed since the run in {path} began",
            hint="restore the old weights, or start again in another --out",
            folder=folder,
            path=run.path,
        )


def with_absolute_paths(config: TrainConfig) -> TrainConfig:
    """Make paths absolute, so that a run can be resumed from any folder."""
    model = str(Path(config.model).resolve()) if Path(config.model).is_dir() else config.model
    prompts = str(Path(config.sample_prompts).resolve()) if config.sample_prompts else None
    return replace(config, sources=tuple(map(_absolute, config.sources)), model=model, sample_prompts=prompts)


def _absolute(source: str) -> str:
    is_path = source not in STDIN_NAMES and not source.startswith(HUB_PREFIX)
    return str(Path(source).resolve()) if is_path else source


def changed_plan(plan: TrainPlan, before: TrainConfig, now: TrainConfig) -> TrainPlan:
    """Adapt a plan to a changed length or changed intervals; everything else stays as decided.

    Args:
        plan: of the run so far.
        before: the configuration of the run so far.
        now: differs in `MAY_CHANGE` only.
    """
    intervals = {
        name: getattr(now, name) for name in INTERVALS if getattr(now, name) not in (getattr(before, name), "auto")
    }
    reasons = dict.fromkeys(intervals, say("asked for"))
    if all(getattr(now, name) == getattr(before, name) for name in LENGTH):
        return replace(plan, **intervals, reasons={**plan.reasons, **reasons})
    steps = max(round(plan.steps_per_epoch * now.epochs), 1)
    reasons["steps"] = say(
        "{epochs:g} epochs of {per_epoch}, asked for when it was resumed",
        epochs=now.epochs,
        per_epoch=plan.steps_per_epoch,
    )
    if now.max_steps is not None and now.max_steps < steps:
        steps, reasons["steps"] = now.max_steps, say("--max-steps, asked for when it was resumed")
    return replace(
        plan, **intervals, steps=steps, epochs=steps / plan.steps_per_epoch, reasons={**plan.reasons, **reasons}
    )


def verify_resume(config: TrainConfig, train: Train) -> ResumeVerified:
    """Compute the first steps of this run without and with an interruption, and compare the results bit by bit.

    Text, model, device and settings are the user's, and checkpoints are written and read as in any run, in a temporary
    folder next to the run's.

    Args:
        config: of the run.
        train: trains by a configuration, and takes a function that is called before every step and requests the end.

    Raises:
        UserError: as the run itself would.
    """
    out = Path(config.out).absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    short = replace(
        config,
        resume=False,
        verify_resume=False,
        max_hours=None,
        stop_at=None,
        max_steps=VERIFIED_STEPS,
        eval_steps=VERIFIED_STEPS,
        save_steps=VERIFIED_STEPS,
    )
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.verify-resume-", dir=out.parent) as folder:
        unbroken, broken = RunDir(Path(folder) / "unbroken"), RunDir(Path(folder) / "broken")
        _run(replace(short, out=str(unbroken.path)), train, VERIFIED_STEPS)
        broken.path.mkdir()
        broken.write_metadata(unbroken.read_metadata())  # another plan, for the memory now, would sum in another order
        resumed = TrainConfig(out=str(broken.path), resume=True)
        _run(resumed, train, INTERRUPTED_AFTER)
        _run(resumed, train, VERIFIED_STEPS - INTERRUPTED_AFTER)
        return _compare(unbroken.checkpoints()[-1], broken.checkpoints()[-1])


def _run(config: TrainConfig, train: Train, stop_after: int) -> None:
    steps = count()  # once before every step
    for _ in train(config, lambda: next(steps) >= stop_after):
        pass


def _compare(unbroken: Path, broken: Path) -> ResumeVerified:
    largest: dict[str, float] = {}
    for path in sorted(unbroken.rglob("*.safetensors")):
        name = path.relative_to(unbroken).as_posix()
        first, second = load_file(path), load_file(broken / name)
        differing = [(first[key], second[key]) for key in first if not first[key].equal(second[key])]
        if differing:
            largest[name] = max(float((a.to(torch.float64) - b.to(torch.float64)).abs().max()) for a, b in differing)
    steps = checkpoint_step(unbroken)
    return ResumeVerified(steps, min(INTERRUPTED_AFTER, steps), largest)
