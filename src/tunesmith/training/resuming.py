"""What a resumed run was asked before, what may be asked now, and whether text and model are still the same."""

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from tunesmith.config import TrainConfig
from tunesmith.data.corpus import Corpus
from tunesmith.data.hub_datasets import HUB_PREFIX
from tunesmith.data.standard_input import STANDARD_INPUT
from tunesmith.distributed.consistency import weights_sha256
from tunesmith.errors import UserError
from tunesmith.messages.catalogue import say
from tunesmith.training.changed_plan import LENGTH, MAY_CHANGE, ONE_SITTING
from tunesmith.training.plan import TrainPlan
from tunesmith.training.run import RunFolder


def asked_before(run: RunFolder) -> TrainConfig:
    """The configuration that a run was started with.

    Raises:
        UserError: if there is no run or its description is damaged.
    """
    known = {field.name for field in fields(TrainConfig)} - set(ONE_SITTING)
    asked: Mapping[str, Any] = run.describe()["asked"]
    before = {name: value for name, value in asked.items() if name in known}
    return TrainConfig(**before, out=str(run.path))


def asked_now(given: TrainConfig, before: TrainConfig, run: RunFolder) -> TrainConfig:
    """What the run is to do now: as before, but for what was given anew and may change.

    Raises:
        UserError: naming what may not change; or if the run is finished and nothing more is asked of it.
    """
    given = with_absolute_paths(given)
    defaults = TrainConfig(out=given.out)
    changed = {
        field.name: getattr(given, field.name)
        for field in fields(TrainConfig)
        if getattr(given, field.name) not in (getattr(defaults, field.name), getattr(before, field.name))
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
            hint="leave these out: tunesmith train --resume --out {path}; or start anew in another --out",
            path=run.path,
            refused="; ".join(refused),
        )
    if run.outcome() == "finished" and not set(LENGTH) & set(changed):
        raise UserError(
            "the run in {path} is finished: there is nothing to resume",
            hint="ask for more: tunesmith train --resume --epochs {epochs:g} --out {path}; or train further "
            "from its result: tunesmith train FILE --model {path} --out NEW",
            path=run.path,
            epochs=2 * before.epochs,
        )
    if "epochs" in changed and "max_steps" not in changed:
        changed["max_steps"] = None  # the newer wish counts
    sitting = {name: getattr(given, name) for name in ONE_SITTING}
    return replace(before, **{**changed, **sitting})


def plan_before(run: RunFolder) -> TrainPlan:
    """The plan that a run follows.

    Raises:
        UserError: if another version made it.
    """
    try:
        return TrainPlan(**run.describe()["plan"])
    except (TypeError, KeyError):
        raise UserError(
            "the run in {path} was planned by another version of tunesmith",
            hint="resume it with that version, or train again into another --out",
            path=run.path,
        ) from None


def refuse_changed_text(run: RunFolder, corpus: Corpus) -> None:
    """Check that the text is the one the run began with.

    Raises:
        UserError: if it is not.
    """
    if run.describe()["data"]["fingerprint"] != corpus.fingerprint:
        raise UserError(
            "the text has changed since the run in {path} began",
            hint="bring the old files back, or start anew in another --out",
            path=run.path,
        )


def refuse_changed_model(run: RunFolder, folder: Path) -> None:
    """Check that the base model is the one the run began with, where its weights are read again.

    Raises:
        UserError: if it is not.
    """
    before = run.describe().get("model", {}).get("weights_sha256")
    if before is not None and before != weights_sha256(folder):
        raise UserError(
            "the model in {folder} has changed since the run in {path} began",
            hint="bring the old weights back, or start anew in another --out",
            folder=folder,
            path=run.path,
        )


def with_absolute_paths(config: TrainConfig) -> TrainConfig:
    """So that a run can be resumed from any folder."""
    model = str(Path(config.model).resolve()) if Path(config.model).is_dir() else config.model
    prompts = str(Path(config.sample_prompts).resolve()) if config.sample_prompts else None
    return replace(config, sources=tuple(map(_absolute, config.sources)), model=model, sample_prompts=prompts)


def _absolute(source: str) -> str:
    is_path = source not in STANDARD_INPUT and not source.startswith(HUB_PREFIX)
    return str(Path(source).resolve()) if is_path else source
