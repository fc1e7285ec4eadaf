"""Trackers by name; their libraries are loaded when they are asked for."""

from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec

from tunesmith.errors import UserError
from tunesmith.tracking.tracker import Tracker

LIBRARIES = {"tensorboard": "tensorboard", "wandb": "wandb", "trackio": "trackio", "mlflow": "mlflow"}
CLASSES = {
    "tensorboard": "TensorBoardTracker",
    "wandb": "WandbTracker",
    "trackio": "TrackioTracker",
    "mlflow": "MLflowTracker",
}


def make_trackers(asked: Sequence[str]) -> dict[str, Tracker]:
    """The trackers that were asked for, each once.

    Raises:
        UserError: for a library that is not installed, before anything is trained.
    """
    missing = [name for name in asked if find_spec(LIBRARIES[name]) is None]
    if missing:
        raise UserError(
            "--track {names}: not installed",
            hint="pip install {libraries}, or all of them: pip install 'tunesmith[track]'",
            names=", ".join(missing),
            libraries=" ".join(LIBRARIES[name] for name in missing),
        )
    return {name: _class(name)() for name in dict.fromkeys(asked)}


def _class(name: str) -> Callable[[], Tracker]:
    found: Callable[[], Tracker] = getattr(import_module(f"tunesmith.tracking.{name}_tracker"), CLASSES[name])
    return found
