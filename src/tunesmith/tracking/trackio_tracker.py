"""Trackio: a local database (`trackio show` opens it), through its own library.

It prints what it does to stdout, where only results belong; its modules are given a `print` that keeps silent.
"""

import os
import sys
from collections.abc import Mapping
from typing import Any

from tunesmith.tracking.tracker import TrackedRun

PROJECT = "tunesmith"
"""Unless TRACKIO_PROJECT says otherwise."""


class TrackioTracker:
    """Logs to a run of Trackio."""

    def start(self, run: TrackedRun) -> None:
        import trackio

        for name, module in list(sys.modules.items()):
            if name.partition(".")[0] == "trackio":
                vars(module)["print"] = _keep_silent
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
        self._run.log({f"samples/{prompt or '(from nothing)'}": text}, step=step)

    def finish(self, outcome: Mapping[str, Any], card: str) -> None:
        numbers = {f"outcome/{name}": value for name, value in outcome.items() if isinstance(value, int | float)}
        self._run.log({**numbers, **({"model card": card} if card else {})}, step=int(outcome.get("steps") or 0))
        self._run.finish()


def _keep_silent(*_said: object, **_options: object) -> None:
    """Instead of `print`."""
