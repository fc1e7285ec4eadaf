"""The run folder: what stands where, who may write it, and the texts in it.

    DIR/
      config.json  model.safetensors  generation_config.json  tokenizer files  README.md    the best model
      run.json          asked configuration, plan with reasons, environment, data, outcome
      metrics.jsonl     one object a line
      samples.jsonl     fixed prompts through time
      checkpoints/      tunesmith.training.checkpoint

Nothing is written before the run can really start, and nothing that was not written by this run is touched.
"""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tunesmith.errors import UserError
from tunesmith.files import write_json, write_text

CHECKPOINTS = "checkpoints"
RUN_FILE = "run.json"
CHECKPOINTS_KEPT = 1


class RunFolder:
    """A folder that one run writes.

    Attributes:
        path: the folder; it need not exist before `begin`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def refuse_if_taken(self) -> None:
        """Make sure that a new run may write here.

        Raises:
            UserError: if the folder holds anything at all, naming the ways on.
        """
        if self.path.is_file():
            raise UserError(f"--out {self.path} is a file", hint="name a folder that does not exist yet")
        if not self.path.is_dir() or not any(self.path.iterdir()):
            return
        if not (self.path / RUN_FILE).is_file():
            held = sorted(entry.name for entry in self.path.iterdir())
            shown = ", ".join(held[:3]) + (", ..." if len(held) > 3 else "")
            raise UserError(
                f"--out {self.path} already holds something else ({shown})",
                hint="name a folder that does not exist yet",
            )
        if self.outcome() == "finished":
            raise UserError(f"--out {self.path} already holds a finished run", hint="name another --out")
        raise UserError(
            f"--out {self.path} already holds an unfinished run",
            hint=f"continue it: tunesmith train --resume --out {self.path}; or name another --out",
        )

    def begin(self, description: dict[str, Any]) -> None:
        """Create the folder and keep what the run is about."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.path / RUN_FILE, {**description, "outcome": {"status": "running"}})

    def describe(self) -> dict[str, Any]:
        """The content of `run.json`.

        Raises:
            UserError: if there is none or it is damaged.
        """
        path = self.path / RUN_FILE
        if not path.is_file():
            raise UserError(
                f"there is no run to resume in {self.path}",
                hint="leave out --resume to start one, or check --out",
            )
        try:
            description: dict[str, Any] = json.loads(path.read_text("utf-8"))
            description["asked"], description["outcome"]["status"], description["data"]["fingerprint"]
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{path} is damaged", hint="train again into another --out") from None
        return description

    def outcome(self) -> str:
        """Either "running", "interrupted" or "finished"."""
        return str(self.describe()["outcome"]["status"])

    def end(self, outcome: dict[str, Any]) -> None:
        """Keep how the run ended."""
        write_json(self.path / RUN_FILE, {**self.describe(), "outcome": outcome})

    def append(self, file_name: str, line: dict[str, Any]) -> None:
        """Add an object to a JSON-lines file."""
        with (self.path / file_name).open("a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def forget_after(self, step: int) -> None:
        """Drop what was logged after a step that the run returns to, and any last line that was cut off."""
        for name in ("metrics.jsonl", "samples.jsonl"):
            path = self.path / name
            if path.is_file():
                kept = [line for line in path.read_text("utf-8").split("\n") if _step_of(line) <= step]
                write_text(path, "".join(f"{line}\n" for line in kept))

    def checkpoint(self, step: int) -> Path:
        """The folder of a step's checkpoint."""
        return self.path / CHECKPOINTS / f"step-{step:08d}"

    def checkpoints(self) -> list[Path]:
        """Whole checkpoints, oldest first."""
        return sorted((self.path / CHECKPOINTS).glob("step-" + "[0-9]" * 8))

    def drop_old_checkpoints(self) -> None:
        """Delete all but the newest, and what a crash left half-written: all of it is this run's own."""
        for folder in [
            *self.checkpoints()[:-CHECKPOINTS_KEPT],
            *(self.path / CHECKPOINTS).glob(".step-*.tmp"),
        ]:
            shutil.rmtree(folder)


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def as_json(value: object) -> dict[str, Any]:
    """A dataclass as plain JSON values."""
    return json.loads(json.dumps(asdict(value)))  # type: ignore[call-overload, no-any-return]
