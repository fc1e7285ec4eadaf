"""Experiment trackers, each a small class around its own library, which is imported when the tracker starts.

All methods of a tracker are called in one thread, and may raise anything.
"""

import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from tunesmith.errors import UserError
from tunesmith.utils.files import to_json

PROJECT = "tunesmith"
"""Unless the tracker's own environment variable names another project or experiment."""
MLFLOW_RUN_TAG = "tunesmith.run_id"
MLFLOW_MAX_CHARACTERS = 500
"""Of a parameter's value; some servers reject longer ones."""
MLFLOW_MAX_PARAMETERS = 100
"""In one request."""
TENSORBOARD_MAX_CHARACTERS = 20_000


@dataclass(frozen=True)
class TrackedRun:
    """The run that is tracked.

    Attributes:
        name: of the run directory.
        run_id: the same over all resumes.
        settings: configuration and plan, flat, as "config/..." and "plan/...".
        is_resumed: whether the tracker knows an earlier part of it.
    """

    folder: Path
    name: str
    run_id: str
    settings: Mapping[str, Any]
    is_resumed: bool


class Tracker(Protocol):
    """An experiment tracker."""

    def start(self, run: TrackedRun) -> None:
        """Start or continue a run."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log numbers named "train/...", "eval/...", "system/..."."""

    def sample(self, step: int, prompt: str, text: str) -> None:
        """Log a generated text."""

    def finish(self, result: Mapping[str, Any], card: str) -> None:
        """End the run.

        Args:
            result: as in `run.json`.
            card: the model card in Markdown; empty where there is no model yet.
        """


class TensorBoardTracker:
    """Event files in the run directory, by TensorBoard's own writer; `tensorboard --logdir RUN` shows them."""

    def start(self, run: TrackedRun) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._writer = EventFileWriter(str(run.folder / "tensorboard"))
        self._text("settings", to_json(dict(run.settings), indent=1, default=str), 0)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._add(Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in metrics.items()]), step)

    def sample(self, step: int, prompt: str, text: str) -> None:
        self._text(_sample_name(prompt), text, step)

    def finish(self, result: Mapping[str, Any], card: str) -> None:
        if card:
            self._text("model card", card, int(result.get("steps") or 0))
        self._writer.close()

    def _text(self, tag: str, text: str, step: int) -> None:
        from tensorboard.plugins.text.summary_v2 import text_pb

        self._add(text_pb(tag, text[:TENSORBOARD_MAX_CHARACTERS]), step)

    def _add(self, summary: Any, step: int) -> None:  # noqa: ANN401  the library has no types
        from tensorboard.compat.proto.event_pb2 import Event

        self._writer.add_event(Event(wall_time=time.time(), step=step, summary=summary))


class WandbTracker:
    """Weights & Biases; without a key it writes offline, and `wandb sync` uploads later."""

    def start(self, run: TrackedRun) -> None:
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run.name,
            id=run.run_id,
            resume="allow",
            dir=str(run.folder),
            config=dict(run.settings),
            mode=None if "WANDB_MODE" in os.environ or wandb.api.api_key else "offline",  # it must never ask a person
            settings=wandb.Settings(console="off", silent=True),
        )
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        self._table = wandb.Table(columns=["step", "prompt", "text"])

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log({"step": step, **metrics})

    def sample(self, step: int, prompt: str, text: str) -> None:
        self._table.add_data(step, prompt, text)

    def finish(self, result: Mapping[str, Any], card: str) -> None:
        self._run.log({"samples": self._table})
        self._run.summary.update({f"result/{name}": value for name, value in result.items()})
        if card:
            self._run.notes = card
        self._run.finish(exit_code=0)


class TrackioTracker:
    """Trackio: a local database, which `trackio show` opens.

    It prints to stdout, where only results belong: its modules get a `print` that does nothing.
    """

    def start(self, run: TrackedRun) -> None:
        import trackio

        for name, module in list(sys.modules.items()):
            if name.partition(".")[0] == "trackio":
                vars(module)["print"] = lambda *_arguments, **_options: None
        self._run: Any = trackio.init(  # the library is not typed throughout
            project=os.environ.get("TRACKIO_PROJECT", PROJECT),
            name=f"{run.name}-{run.run_id[:6]}",
            config=dict(run.settings),
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=step)

    def sample(self, step: int, prompt: str, text: str) -> None:
        self._run.log({_sample_name(prompt): text}, step=step)

    def finish(self, result: Mapping[str, Any], card: str) -> None:
        numbers = {f"result/{name}": value for name, value in result.items() if isinstance(value, int | float)}
        self._run.log({**numbers, **({"model card": card} if card else {})}, step=int(result.get("steps") or 0))
        self._run.finish()


class MLflowTracker:
    """MLflow; it writes where MLFLOW_TRACKING_URI says, else to MLflow's default, and changes nothing global."""

    def __init__(self) -> None:
        self._samples: list[dict[str, Any]] = []

    def start(self, run: TrackedRun) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Param

        for logger in ("mlflow", "alembic"):
            logging.getLogger(logger).setLevel(logging.WARNING)
        self._client = MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        known = self._client.get_experiment_by_name(name)
        experiment = known.experiment_id if known else self._client.create_experiment(name)
        tag = f"tags.`{MLFLOW_RUN_TAG}` = '{run.run_id}'"
        earlier = self._client.search_runs([experiment], tag) if run.is_resumed else []
        if earlier:
            self._run_id = earlier[0].info.run_id
            self._client.update_run(self._run_id, "RUNNING")
            return
        created = self._client.create_run(experiment, run_name=run.name, tags={MLFLOW_RUN_TAG: run.run_id})
        self._run_id = created.info.run_id
        params = [Param(name, str(value)[:MLFLOW_MAX_CHARACTERS]) for name, value in run.settings.items()]
        for start in range(0, len(params), MLFLOW_MAX_PARAMETERS):
            self._client.log_batch(self._run_id, params=params[start : start + MLFLOW_MAX_PARAMETERS])

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        self._client.log_batch(
            self._run_id, metrics=[Metric(name, value, now_ms, step) for name, value in metrics.items()]
        )

    def sample(self, step: int, prompt: str, text: str) -> None:
        self._samples.append({"step": step, "prompt": prompt, "text": text})

    def finish(self, result: Mapping[str, Any], card: str) -> None:
        self._client.log_dict(self._run_id, {"samples": self._samples}, "samples.json")
        if card:
            self._client.log_text(self._run_id, card, "model-card.md")
        for name, value in result.items():
            self._client.set_tag(self._run_id, f"result.{name}", str(value))
        self._client.set_terminated(self._run_id, "FINISHED" if result.get("status") == "finished" else "KILLED")


TRACKERS: dict[str, type[Tracker]] = {
    "tensorboard": TensorBoardTracker,
    "wandb": WandbTracker,
    "trackio": TrackioTracker,
    "mlflow": MLflowTracker,
}
LIBRARIES = {name: name for name in TRACKERS}
"""The module that each needs."""


def make_trackers(names: Sequence[str]) -> dict[str, Tracker]:
    """Return the named trackers.

    Raises:
        UserError: for a library that is not installed, before anything is trained.
    """
    missing = [name for name in names if find_spec(LIBRARIES[name]) is None]
    if missing:
        raise UserError(
            "--report-to {names}: not installed",
            hint="pip install {libraries}, or all of them: pip install 'tunesmith[track]'",
            names=", ".join(missing),
            libraries=" ".join(LIBRARIES[name] for name in missing),
        )
    return {name: TRACKERS[name]() for name in dict.fromkeys(names)}


def _sample_name(prompt: str) -> str:
    return f"samples/{prompt or '(from nothing)'}"
