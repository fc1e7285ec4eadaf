"""Read a run folder: finished, interrupted, running, or killed in the middle of a line. No torch.

Lines that cannot be parsed and unknown kinds are skipped: a report shows what there is.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tunesmith.errors import UserError
from tunesmith.run_dir import METRICS, NOVELTY, RUN_FILE, SAMPLES, number_or, read_settings
from tunesmith.utils.files import parse_json

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Columns:
    """Numbers of the lines of one kind as columns of equal length, by their key; NaN where a line has none."""

    of: Mapping[str, Floats]
    length: int

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, key: str) -> Floats:
        """Return a column; NaN throughout where no line has the key."""
        return self.of.get(key, np.full(self.length, np.nan))

    def has(self, key: str) -> bool:
        """Whether a column has a finite number."""
        return bool(np.isfinite(self[key]).any())


def columns_of(lines: Sequence[Mapping[str, Any]]) -> Columns:
    """Collect the numbers of lines of one kind."""
    keys = dict.fromkeys(key for line in (*lines[:1], *lines[-1:]) for key in line)
    return Columns({key: np.array([_number(line.get(key)) for line in lines]) for key in keys}, len(lines))


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")


INCIDENTS = ("out_of_memory", "nonfinite", "loss_spike", "checkpoint_failed")


@dataclass(frozen=True)
class Measured:
    """One evaluation on the validation split."""

    step: int
    epoch: float
    loss: float
    perplexity: float
    is_best: bool


@dataclass(frozen=True)
class RunRecord:
    """Content of a run folder: `run.json`, the lines of metrics.jsonl by kind, samples, and the novelty measurement."""

    path: Path
    description: dict[str, Any]
    steps: Columns
    machine: Columns
    evaluations: tuple[Measured, ...]
    incidents: tuple[dict[str, Any], ...]
    samples: tuple[dict[str, Any], ...]
    novelty: dict[str, Any] | None

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def plan(self) -> dict[str, Any]:
        return dict(self.description["plan"])

    @property
    def asked(self) -> dict[str, Any]:
        return dict(self.description["config"])

    @property
    def result(self) -> dict[str, Any]:
        return dict(self.description["result"])

    @property
    def status(self) -> str:
        """Either "finished", "interrupted" or "running" (which includes killed runs)."""
        return str(self.result.get("status", "running"))

    @cached_property
    def before(self) -> Measured | None:
        """The evaluation before training."""
        return next((one for one in self.evaluations if one.step == 0), None)

    @cached_property
    def after(self) -> tuple[Measured, ...]:
        """Evaluations during training that are finite."""
        return tuple(one for one in self.evaluations if one.step > 0 and math.isfinite(one.loss))

    @cached_property
    def best(self) -> Measured | None:
        """The evaluation with the lowest loss."""
        return min(self.after, key=lambda one: one.loss, default=None)

    @property
    def last_step(self) -> int:
        """The last logged step."""
        return int(self.steps["step"][-1]) if len(self.steps) else 0


def read_run(path: Path) -> RunRecord:
    """Read a run folder.

    Raises:
        UserError: if it is not a run, or its description is damaged.
    """
    description = describe_run(path)
    lines: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in _lines(path / METRICS):
        lines[str(line.get("kind"))].append(line)
    return RunRecord(
        path=path,
        description=description,
        steps=columns_of(lines["step"]),
        machine=columns_of(lines["system"]),
        evaluations=tuple(one for line in lines["eval"] if (one := _measured(line))),
        incidents=tuple(line for kind in INCIDENTS for line in lines[kind]),
        samples=tuple(line for line in _lines(path / SAMPLES) if {"step", "prompt", "text", "seed"} <= set(line)),
        novelty=_novelty(path),
    )


def describe_run(path: Path) -> dict[str, Any]:
    """Read `run.json`.

    Raises:
        UserError: if it is missing or damaged.
    """
    file = path / RUN_FILE
    if not file.is_file():
        raise UserError(
            "{path} is not a run: there is no run.json in it",
            hint="name the --out of a training, or see what there is: tunesmith runs",
            path=path,
        )
    try:
        description = parse_json(file.read_text("utf-8"))
        complete = all(isinstance(description[key], dict) for key in ("config", "plan", "data", "result"))
    except (ValueError, KeyError, TypeError):
        complete = False
    if not complete:
        raise UserError(
            "{path} is damaged", hint="its metrics.jsonl still contains what was measured; train again", path=file
        )
    return {**description, **{part: read_settings(description[part]) for part in ("config", "plan")}}


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        return
    with path.open("rb") as file:
        for line in file:
            try:
                found = parse_json(line)
            except (ValueError, RecursionError):
                continue  # cut off by a kill
            if isinstance(found, dict):
                yield found


def _measured(line: dict[str, Any]) -> Measured | None:
    try:
        return Measured(
            step=int(line["step"]),
            epoch=float(line["epoch"]),
            loss=number_or(line["val_loss"], math.nan),
            perplexity=number_or(line["val_perplexity"], math.inf),
            is_best=bool(line["is_best"]),
        )
    except (KeyError, TypeError, ValueError):
        return None


def _novelty(path: Path) -> dict[str, Any] | None:
    try:
        found = parse_json((path / NOVELTY).read_text("utf-8"))
        return found if {"written", "held_out", "texts"} <= set(found) else None
    except (OSError, ValueError, TypeError):
        return None
