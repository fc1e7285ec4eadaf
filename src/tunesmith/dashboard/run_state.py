"""Progress of a run, cheap enough to be read every second: from the ends of its files."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.reporting.run_reader import describe_run
from tunesmith.run_dir import CHECKPOINTS, METRICS, NOVELTY, RUN_FILE, SAMPLES, RunDir
from tunesmith.utils.files import parse_json

READ_BYTES = 1 << 16
"""Of the end of the metrics: hundreds of lines."""


@dataclass(frozen=True)
class RunState:
    """A run at this moment.

    Attributes:
        status: "running", "broken off", "interrupted" or "finished".
        saved_step: of the newest checkpoint.
        pending_actions: requested actions that are not done yet.
        version: changes when there is something new to show.
    """

    name: str
    out: str
    status: str
    step: int
    steps: int
    eta_s: float | None
    saved_step: int | None
    pending_actions: tuple[str, ...]
    version: str

    @property
    def is_running(self) -> bool:
        """Whether a process works on it now."""
        return self.status == "running"


def state_of(name: str, folder: Path) -> RunState:
    """Read the state of a run.

    Raises:
        UserError: if its description is damaged or gone.
    """
    description = describe_run(folder)
    status = str(description["result"].get("status", "running"))
    if status == "running" and not RunDir(folder).is_locked():
        status = "broken off"
    newest = _newest_step(folder / METRICS)
    return RunState(
        name=name,
        out=str(description["config"].get("out", folder)),
        status=status,
        step=int(newest.get("step", 0)),
        steps=int(description["plan"]["steps"]),
        eta_s=newest.get("eta_s") if status == "running" else None,
        saved_step=_saved_step(folder / CHECKPOINTS),
        pending_actions=RunDir(folder).pending_actions(),
        version="-".join([status, *map(_mark, (folder / part for part in (RUN_FILE, METRICS, SAMPLES, NOVELTY)))]),
    )


def _newest_step(metrics: Path) -> dict[str, Any]:
    try:
        with metrics.open("rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - READ_BYTES, 0))
            lines = file.read().splitlines()
    except OSError:
        return {}
    for line in reversed(lines):
        try:
            found = parse_json(line)
        except ValueError:
            continue  # cut off: at the beginning by us, at the end by a run that is writing it
        if isinstance(found, dict) and found.get("kind") == "step":
            return found
    return {}


def _saved_step(checkpoints: Path) -> int | None:
    names = [path.name.removeprefix("step-") for path in checkpoints.glob("step-*")]
    return max((int(name) for name in names if name.isdigit()), default=None)


def _mark(path: Path) -> str:
    try:
        found = path.stat()
    except OSError:
        return "0"
    return f"{found.st_size}.{found.st_mtime_ns}"
