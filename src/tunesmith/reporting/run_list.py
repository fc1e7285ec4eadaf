"""The command `runs` without --compare: the runs in a folder."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from tunesmith.config import RunsConfig
from tunesmith.errors import UsageError, UserError
from tunesmith.i18n import say
from tunesmith.reporting.run_reader import RunRecord, read_run
from tunesmith.reporting.tables import duration_s, tokens_per_s
from tunesmith.run_dir import RUN_FILE, RunDir

DEPTH = 4
"""Folders below the one that is named in which runs are looked for."""


def list_runs(config: RunsConfig) -> list[dict[str, Any]]:
    """List the runs in a folder, in the requested order.

    Raises:
        UserError: if the folder does not exist.
    """
    if config.out:
        raise UsageError(
            "--out is the page of a comparison and has no effect without --compare",
            hint="name the runs to compare: tunesmith runs --compare RUN RUN --out {out}",
            out=config.out,
        )
    folder = Path(config.folder)
    if not folder.is_dir():
        raise UserError(
            "{folder} is not a folder",
            hint="name the folder that contains your runs: tunesmith runs DIR",
            folder=folder,
        )
    rows = [_row(path, name) for name, path in runs_by_name(folder).items()]
    return sorted((row for row in rows if row), key=_ORDERS[config.sort])


def runs_by_name(folder: Path) -> dict[str, Path]:
    """Map relative path to run folder; the folder may be a run itself."""
    return {
        path.relative_to(folder).as_posix() if path != folder else path.resolve().name: path
        for path in _runs_in(folder, DEPTH)
    }


def _runs_in(folder: Path, depth: int) -> list[Path]:
    if (folder / RUN_FILE).is_file():
        return [folder]
    if not depth:
        return []
    try:
        inner = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except OSError:
        return []  # not ours to read
    return [run for entry in inner for run in _runs_in(entry, depth - 1)]


def _row(path: Path, name: str) -> dict[str, Any] | None:
    try:
        run = read_run(path)
    except UserError:
        return None
    before, best = run.before, run.best
    return {
        "name": name,
        "path": str(path),
        "status": status_of(run),
        "model": str(run.asked.get("model", "")),
        "base_perplexity": before.perplexity if before else None,
        "perplexity": best.perplexity if best else None,
        "best_step": best.step if best else None,
        "steps": run.last_step,
        "planned_steps": int(run.plan["steps"]),
        "learning_rate": float(run.plan["learning_rate"]),
        "tokens_per_step": int(run.plan["tokens_per_step"]),
        "tokens_per_s": tokens_per_s(run),
        "duration_s": duration_s(run),
        "changed": datetime.fromtimestamp((path / RUN_FILE).stat().st_mtime).astimezone().isoformat(timespec="seconds"),
    }


def status_of(run: RunRecord) -> str:
    """Status in `run.json`; "broken off" where no process works on a run that never ended."""
    if run.status == "running" and not RunDir(run.path).is_locked():
        return "broken off"
    return run.status


def status_words(status: str) -> str:
    """Translate a status of `status_of`."""
    words = {
        "finished": say("finished"),
        "interrupted": say("interrupted"),
        "running": say("running"),
        "broken off": say("broken off"),
    }
    return words.get(status, status)


def _worst_last(row: dict[str, Any]) -> float:
    return float("inf") if row["perplexity"] is None else float(row["perplexity"])


_ORDERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "time": lambda row: -datetime.fromisoformat(row["changed"]).timestamp(),
    "perplexity": _worst_last,
    "name": lambda row: row["name"],
}
