"""The run directory: the only reader and writer of a run's own files, and of the lock on them.

    DIR/
      config.json  model.safetensors  generation_config.json  tokenizer files  README.md    the best model
      run.json          format, configuration, plan with reasons, environment, data, result
      metrics.jsonl     one JSON object a line: steps, evaluations, system metrics, incidents
      samples.jsonl     generated texts of the fixed prompts
      checkpoints/      `tunesmith.training.checkpoint`, the lock, and requests from other processes

JSON has no number for NaN and infinity: null is written for a loss that became NaN, a perplexity too large for a float,
and `max_grad_norm` of a run without gradient clipping. Nothing is written before the run can really start, and nothing
that this run did not write is touched.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tunesmith.errors import UserError
from tunesmith.utils.files import parse_json, sweep_leftovers, to_json, write_json, write_text

FORMAT = 1
"""Of run.json and the files next to it; raised when an older reader would misunderstand them."""
RUN_FILE = "run.json"
METRICS, SAMPLES = "metrics.jsonl", "samples.jsonl"
CHECKPOINTS = "checkpoints"
REPORT = "report.html"
NOVELTY = "novelty.json"
LOCK = ".lock"
STEP_FOLDER = "step-" + "[0-9]" * 8
CHECKPOINT_STATE = "state.json"
"""A step folder without it is a plain model, and cannot be resumed from."""
INITIAL_STEP = -1
"""Before step 0, which is the evaluation of the untrained model."""
SAVE, STOP = "save", "stop"
ACTIONS = (SAVE, STOP)
"""That another process can request of a run."""
TAIL_BYTES = 1 << 16
"""Of the end of the metrics: hundreds of lines."""

JsonObject = dict[str, Any]


class JsonlWriter:
    """Append objects to a JSON-lines file; lines that a full disk rejects wait in memory until there is space.

    Args:
        path: the file, which need not exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pending: list[str] = []

    @property
    def has_pending(self) -> bool:
        """Whether lines are still in memory, because the disk is full or fails."""
        return bool(self._pending)

    def append(self, line: JsonObject) -> None:
        """Add an object; never half of it."""
        self._pending.append(to_json(line) + "\n")
        self.flush()

    def flush(self) -> None:
        """Try to write the pending lines."""
        if not self._pending:
            return
        try:
            with self._path.open("ab", buffering=0) as file:
                size = file.tell()
                try:
                    for line in self._pending:
                        _write_all(file.write, line.encode("utf-8"))
                except OSError:
                    file.truncate(size)  # half a line would damage the next one
                    raise
        except OSError:
            return
        self._pending.clear()


def _write_all(write: Any, content: bytes) -> None:  # noqa: ANN401
    while content:
        content = content[write(content) :]  # a raw file may take less than it is given


class RunDir:
    """The directory of one run.

    Attributes:
        path: need not exist before `write_metadata`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._writers = {name: JsonlWriter(path / name) for name in (METRICS, SAMPLES)}

    def exists(self) -> bool:
        """Whether a run has started here."""
        return (self.path / RUN_FILE).is_file()

    def check_is_new(self) -> None:
        """Make sure that a new run may write here.

        Raises:
            UserError: if the directory contains anything at all, with the command that continues.
        """
        if self.path.is_file():
            raise UserError("--out {path} is a file", hint="name a folder that does not exist yet", path=self.path)
        if not self.path.is_dir() or self._is_empty():
            return
        if not self.exists():
            names = sorted(entry.name for entry in self.path.iterdir())
            shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            raise UserError(
                "--out {path} already contains something else ({shown})",
                hint="name a folder that does not exist yet",
                path=self.path,
                shown=shown,
            )
        if self.status() == "finished":
            raise UserError("--out {path} already contains a finished run", hint="name another --out", path=self.path)
        raise UserError(
            "--out {path} already contains an unfinished run",
            hint="continue it: tunesmith train --resume --out {path}; or name another --out",
            path=self.path,
        )

    def _is_empty(self) -> bool:
        """Whether there is nothing, or only what a process leaves that was killed right after its start."""
        names = {entry.name for entry in self.path.iterdir() if not entry.match(f".{RUN_FILE}.*.tmp")}
        return names <= {CHECKPOINTS} and not self.checkpoints()

    # --- run.json

    def write_metadata(self, metadata: JsonObject) -> None:
        """Write run.json of a run that starts; the directory must be locked."""
        write_json(self.path / RUN_FILE, {"format": FORMAT, **metadata, "result": {"status": "running"}})

    def read_metadata(self) -> JsonObject:
        """Read run.json.

        Raises:
            UserError: if there is none, or it is damaged, or a newer version wrote it.
        """
        path = self.path / RUN_FILE
        if not path.is_file():
            raise UserError(
                "there is no run to resume in {path}",
                hint="leave out --resume to start one, or check --out",
                path=self.path,
            )
        try:
            metadata: JsonObject = parse_json(path.read_text("utf-8"))
            version = metadata.get("format", FORMAT)
            metadata |= {name: read_settings(metadata[name]) for name in ("config", "plan")}
            metadata["result"]["status"], metadata["data"]["fingerprint"]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError("{path} is damaged", hint="train again into another --out", path=path) from None
        if version != FORMAT:
            raise UserError(
                "{path} has format {version}, and this version of tunesmith reads format {format}",
                hint="update tunesmith: pip install -U tunesmith",
                path=path,
                version=version,
                format=FORMAT,
            )
        return metadata

    def status(self) -> str:
        """Return "running", "interrupted" or "finished"; a run that was killed is still "running" and not locked."""
        return str(self.read_metadata()["result"]["status"])

    def finish(self, result: JsonObject) -> None:
        """Write how the run ended."""
        write_json(self.path / RUN_FILE, {**self.read_metadata(), "result": result})

    # --- metrics.jsonl and samples.jsonl

    def append(self, file_name: str, line: JsonObject) -> None:
        """Add an object to `METRICS` or `SAMPLES`; on a full disk, as soon as there is space."""
        self._writers[file_name].append(line)

    def flush(self) -> None:
        """Write lines that could not be written yet.

        Raises:
            UserError: if it still fails.
        """
        for name, writer in self._writers.items():
            writer.flush()
            if writer.has_pending:
                raise UserError(
                    "{path} cannot be written: the disk is full or fails",
                    hint="free disk space, then tunesmith train --resume --out {folder}",
                    path=self.path / name,
                    folder=self.path,
                )

    def read_metrics(self) -> Iterator[JsonObject]:
        """Yield the lines of metrics.jsonl; skip damaged ones, as a crash leaves."""
        return _read_lines(self.path / METRICS)

    def read_samples(self) -> Iterator[JsonObject]:
        """Yield the lines of samples.jsonl; skip damaged ones."""
        return _read_lines(self.path / SAMPLES)

    def read_last_metrics(self, kind: str) -> JsonObject:
        """Return the newest line of a kind from the end of metrics.jsonl; empty if there is none."""
        try:
            with (self.path / METRICS).open("rb") as file:
                file.seek(max(file.seek(0, os.SEEK_END) - TAIL_BYTES, 0))
                lines = file.read().splitlines()
        except OSError:
            return {}
        return next((line for line in map(_parse_line, reversed(lines)) if line and line.get("kind") == kind), {})

    def truncate_logs(self, step: int, *, keep: tuple[str, ...] = ()) -> None:
        """Drop lines after a step that the run returns to, and a last line that was cut off.

        Args:
            step: the last one whose lines stay.
            keep: kinds of lines that stay in any case.
        """
        for name in (METRICS, SAMPLES):
            path = self.path / name
            if not path.is_file():
                continue
            kept = []
            for line in path.read_bytes().split(b"\n"):
                content = _parse_line(line) or {}
                if content.get("kind") in keep or _step_of(content) <= step:
                    kept.append(line.decode())
            write_text(path, "".join(f"{line}\n" for line in kept))

    # --- checkpoints

    def checkpoint(self, step: int) -> Path:
        """Return the folder of a step's checkpoint."""
        return self.path / CHECKPOINTS / f"step-{step:08d}"

    def checkpoints(self) -> list[Path]:
        """Return the checkpoints that a run can be resumed from, oldest first."""
        return [folder for folder in self.step_folders() if (folder / CHECKPOINT_STATE).is_file()]

    def step_folders(self) -> list[Path]:
        """Return all checkpoints, with those of which only the model is left, oldest first."""
        return sorted((self.path / CHECKPOINTS).glob(STEP_FOLDER))

    # --- other processes

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from writing here, and remove what a killed one left half-written.

        The system releases the lock when the process ends, however it ends. The file stays: deleting it would let two
        processes in.

        Raises:
            UserError: if another process has the lock.
        """
        folder = self.path / CHECKPOINTS
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / LOCK
        lock = FileLock(path, is_singleton=False)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            process = _read_process_id(path)
            raise UserError(
                "another process (number {number}) is training in {run_folder}"
                if process
                else "another process is training in {run_folder}",
                hint="wait for it, stop it with Ctrl-C where it runs, or name another --out",
                number=process,
                run_folder=self.path,
            ) from None
        try:
            with suppress(OSError):  # only information for people; Windows does not allow it in a locked file
                path.write_text(f"{os.getpid()}\n", "utf-8")
            for place in (self.path, folder, *self.path.glob("adapter")):
                sweep_leftovers(place)
            yield
        finally:
            lock.release()

    def is_locked(self) -> bool:
        """Whether a process trains here now; nothing is written to find out."""
        path = self.path / CHECKPOINTS / LOCK
        if not path.is_file():
            return False
        lock = FileLock(path, is_singleton=False)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            return True
        except OSError:  # a read-only folder
            return False
        lock.release()
        return False

    def request_action(self, action: str) -> None:
        """Ask the process that trains here for one of `ACTIONS`; an empty file carries the request."""
        assert action in ACTIONS
        self._request_file(action).touch()

    def pending_actions(self) -> tuple[str, ...]:
        """Return the requested actions that the run has not taken yet."""
        return tuple(action for action in ACTIONS if self._request_file(action).exists())

    def clear_action(self, action: str) -> None:
        """Remove a request."""
        self._request_file(action).unlink(missing_ok=True)

    def _request_file(self, action: str) -> Path:
        return self.path / CHECKPOINTS / f".request-{action}"


def checkpoint_step(folder: Path) -> int:
    """Return the step of a checkpoint's folder."""
    return int(folder.name.removeprefix("step-"))


def read_settings(stored: Mapping[str, Any]) -> JsonObject:
    """Return a stored configuration or plan as it was before JSON, which has no infinity."""
    return {**stored, "max_grad_norm": math.inf} if stored.get("max_grad_norm", 0) is None else dict(stored)


def number_or(stored: object, otherwise: float) -> float:
    """Return a stored number, or what it must have been where null was stored.

    Raises:
        TypeError: if it is something else.
        ValueError: likewise.
    """
    return otherwise if stored is None else float(stored)  # type: ignore[arg-type]


def as_json(value: object) -> JsonObject:
    """Return a dataclass as plain JSON values."""
    return json.loads(to_json(asdict(value)))  # type: ignore[call-overload, no-any-return]


def _parse_line(line: bytes) -> JsonObject | None:
    """Return one JSON object; None for a damaged line."""
    try:
        content = parse_json(line)
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


def _read_lines(path: Path) -> Iterator[JsonObject]:
    if path.is_file():
        with path.open("rb") as file:
            yield from (content for line in file if (content := _parse_line(line)))


def _step_of(content: JsonObject) -> float:
    """Return the step of a line; damaged lines and texts at the end of a run come after every step."""
    try:
        return math.inf if content.get("is_final") else float(content["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


def _read_process_id(path: Path) -> str:
    """Return the number of the process that has the lock, if it wrote it."""
    try:
        number = path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""
    return number if number.isdigit() else ""
