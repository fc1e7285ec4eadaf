"""The run folder: what stands where, who may write it, and the texts in it.

    DIR/
      config.json  model.safetensors  generation_config.json  tokenizer files  README.md    the best model
      run.json          asked configuration, plan with reasons, environment, data, outcome
      metrics.jsonl     one object a line
      samples.jsonl     fixed prompts through time
      checkpoints/      tunesmith.training.checkpoint, and the lock

Nothing is written before the run can really start, and nothing that was not written by this run is touched.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tunesmith.errors import UserError
from tunesmith.training.checkpoint import DAMAGED_SUFFIX, STATE
from tunesmith.training.lines import LinesFile
from tunesmith.training.lock import is_locked, locked
from tunesmith.training.retention import drop_old
from tunesmith.training.run_files import CHECKPOINTS, METRICS, RUN_FILE, SAMPLES, read_settings
from tunesmith.utils.files import parse_json, remove_folder, sweep_leftovers, to_json, write_json, write_text

STEP_FOLDER = "step-" + "[0-9]" * 8
BEFORE_THE_BEGINNING = -1
"""The step before the untouched model is measured."""


class RunFolder:
    """A folder that one run writes.

    Attributes:
        path: the folder; it need not exist before `begin`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines = {name: LinesFile(path / name) for name in (METRICS, SAMPLES)}

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other process from writing here, and sweep away what a killed one left half-written.

        Raises:
            UserError: if another process writes here.
        """
        (self.path / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
        with locked(self.path, self.path / CHECKPOINTS):
            for folder in (self.path, self.path / CHECKPOINTS, *self.path.glob("adapter")):
                sweep_leftovers(folder)
            yield

    def is_being_written(self) -> bool:
        """Whether a process trains in it now."""
        return is_locked(self.path / CHECKPOINTS)

    def refuse_if_taken(self) -> None:
        """Make sure that a new run may write here.

        Raises:
            UserError: if the folder holds anything at all, naming the ways on.
        """
        if self.path.is_file():
            raise UserError("--out {path} is a file", hint="name a folder that does not exist yet", path=self.path)
        if not self.path.is_dir() or self._is_empty():
            return
        if not (self.path / RUN_FILE).is_file():
            held = sorted(entry.name for entry in self.path.iterdir())
            shown = ", ".join(held[:3]) + (", ..." if len(held) > 3 else "")
            raise UserError(
                "--out {path} already holds something else ({shown})",
                hint="name a folder that does not exist yet",
                path=self.path,
                shown=shown,
            )
        if self.outcome() == "finished":
            raise UserError("--out {path} already holds a finished run", hint="name another --out", path=self.path)
        raise UserError(
            "--out {path} already holds an unfinished run",
            hint="continue it: tunesmith train --resume --out {path}; or name another --out",
            path=self.path,
        )

    def _is_empty(self) -> bool:
        """Whether there is nothing, or no more than a process leaves that was killed in its first instant."""
        held = (entry.name for entry in self.path.iterdir() if not entry.match(f".{RUN_FILE}.*.tmp"))
        return set(held) <= {CHECKPOINTS} and not self.checkpoints()

    def begin(self, description: dict[str, Any]) -> None:
        """Keep what the run is about, in a folder that is locked."""
        write_json(self.path / RUN_FILE, {**description, "outcome": {"status": "running"}})

    def describe(self) -> dict[str, Any]:
        """The content of `run.json`.

        Raises:
            UserError: if there is none or it is damaged.
        """
        path = self.path / RUN_FILE
        if not path.is_file():
            raise UserError(
                "there is no run to resume in {path}",
                hint="leave out --resume to start one, or check --out",
                path=self.path,
            )
        try:
            description: dict[str, Any] = parse_json(path.read_text("utf-8"))
            description |= {part: read_settings(description[part]) for part in ("asked", "plan")}
            description["outcome"]["status"], description["data"]["fingerprint"]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError("{path} is damaged", hint="train again into another --out", path=path) from None
        return description

    def outcome(self) -> str:
        """Either "running", "interrupted" or "finished"."""
        return str(self.describe()["outcome"]["status"])

    def end(self, outcome: dict[str, Any]) -> None:
        """Keep how the run ended."""
        write_json(self.path / RUN_FILE, {**self.describe(), "outcome": outcome})

    def append(self, file_name: str, line: dict[str, Any]) -> None:
        """Add an object to `METRICS` or `SAMPLES`; when the disk is full, as soon as there is room."""
        self._lines[file_name].append(line)

    def flush(self) -> None:
        """Write what could not be written yet.

        Raises:
            UserError: if it still cannot.
        """
        for name, lines in self._lines.items():
            lines.flush()
            if lines.waiting:
                raise UserError(
                    "{path} cannot be written: the disk is full or fails",
                    hint="make room, then tunesmith train --resume --out {folder}",
                    path=self.path / name,
                    folder=self.path,
                )

    def forget_after(self, step: int, *, but: tuple[str, ...] = ()) -> None:
        """Drop what was logged after a step that the run returns to, and any last line that was cut off.

        Args:
            step: whose lines are the last to stay.
            but: kinds of lines that stay in any case.
        """
        for name in (METRICS, SAMPLES):
            path = self.path / name
            if path.is_file():
                lines = path.read_bytes().split(b"\n")
                kept = [line.decode() for line in lines if _step_of(line) <= step or _kind_of(line) in but]
                write_text(path, "".join(f"{line}\n" for line in kept))

    def checkpoint(self, step: int) -> Path:
        """The folder of a step's checkpoint."""
        return self.path / CHECKPOINTS / f"step-{step:08d}"

    def checkpoints(self) -> list[Path]:
        """Those that a run can be resumed from, oldest first."""
        return [folder for folder in self._step_folders() if (folder / STATE).is_file()]

    def drop_old_checkpoints(self, keep_bytes: float | None) -> None:
        """Keep within a budget: all of it is this run's own (`tunesmith.training.retention`).

        Args:
            keep_bytes: for all checkpoints together; None keeps what a resume can need.
        """
        for folder in (self.path / CHECKPOINTS).glob(STEP_FOLDER + DAMAGED_SUFFIX):
            remove_folder(folder)
        drop_old(self._step_folders(), keep_bytes)

    def _step_folders(self) -> list[Path]:
        return sorted((self.path / CHECKPOINTS).glob(STEP_FOLDER))


def checkpoint_step(folder: Path) -> int:
    """The step whose checkpoint a folder is."""
    return int(folder.name.removeprefix("step-"))


def _step_of(line: bytes) -> float:
    """What a line tells of; texts that end a run come after every step."""
    try:
        about = parse_json(line)
        return float("inf") if about.get("is_final") else float(about["step"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return float("inf")


def _kind_of(line: bytes) -> str:
    try:
        return str(parse_json(line)["kind"])
    except (ValueError, KeyError, TypeError):
        return ""


def as_json(value: object) -> dict[str, Any]:
    """A dataclass as plain JSON values."""
    return json.loads(to_json(asdict(value)))  # type: ignore[call-overload, no-any-return]
