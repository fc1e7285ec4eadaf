"""Trackers beside a run: each in its own thread, reading the run's own files, so that none can stop or slow it.

The run knows nothing of them. What a tracker raises is said once; after a few failures it is left alone. At the end it
has a while to catch up; `metrics.jsonl` holds everything in any case.
"""

import json
import math
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tunesmith.messages.catalogue import say
from tunesmith.tracking.follower import Follower
from tunesmith.tracking.tracker import TrackedRun, Tracker
from tunesmith.training.run_files import METRICS, RUN_FILE, SAMPLES

LOOKS_EVERY_S = 1.0
LAST_WORDS_S = 30.0
"""Until a tracker has to be done after the run."""
PATIENCE = 3
"""Failures in a row, until a tracker is left alone."""
PREFIXES = {"step": "train", "evaluation": "evaluation", "machine": "machine"}
TOLD_OTHERWISE = {"kind", "step"}


@dataclass(frozen=True)
class Failure:
    """A tracker did not do what it was asked."""

    tracker: str
    reason: str


class Tracking:
    """All trackers of a run, as a context manager around it.

    Args:
        trackers: by name.
        folder: of the run, which has begun.
        is_resumed: whether what its files hold now was told before.
    """

    def __init__(self, trackers: Mapping[str, Tracker], folder: Path, *, is_resumed: bool) -> None:
        self._failures: queue.SimpleQueue[Failure] = queue.SimpleQueue()
        run = tracked_run(folder, is_resumed=is_resumed)
        self._threads = [_TrackerThread(name, tracker, run, self._failures) for name, tracker in trackers.items()]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for thread in self._threads:
            thread.run_is_over.set()
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            return
        for thread in self._threads:
            thread.join(LAST_WORDS_S)
            if thread.is_alive():
                self._failures.put(Failure(thread.name, say("not done after {seconds:.0f} s", seconds=LAST_WORDS_S)))

    def failures(self) -> Iterator[Failure]:
        """What went wrong since the last time."""
        while not self._failures.empty():
            yield self._failures.get()


def tracked_run(folder: Path, *, is_resumed: bool) -> TrackedRun:
    """What trackers are told of a run at its beginning."""
    description = _description(folder)
    settings = {
        f"{part}/{name}": value
        for part in ("asked", "plan")
        for name, value in description.get(part, {}).items()
        if name not in {"reasons", "peak_memory_parts"} and value is not None
    }
    name = folder.resolve().name
    return TrackedRun(folder, name, str(description.get("run_id", name)), settings, is_resumed)


class _TrackerThread(threading.Thread):
    def __init__(self, name: str, tracker: Tracker, run: TrackedRun, failures: "queue.SimpleQueue[Failure]") -> None:
        super().__init__(name=name, daemon=True)
        self._tracker, self._run, self._failures = tracker, run, failures
        self._metrics = Follower(run.folder / METRICS, skip=run.is_resumed)
        self._samples = Follower(run.folder / SAMPLES, skip=run.is_resumed)
        self._failed_in_a_row = 0
        self.run_is_over = threading.Event()

    def run(self) -> None:
        if not self._told(lambda: self._tracker.start(self._run)):
            return  # nothing can be told to somebody who is not there
        while not self.run_is_over.wait(LOOKS_EVERY_S):
            self._catch_up()
            if self._failed_in_a_row >= PATIENCE:
                return
        self._catch_up()
        if self._failed_in_a_row >= PATIENCE:
            return
        folder = self._run.folder
        card = folder / "README.md"
        outcome = _description(folder).get("outcome", {})
        self._told(lambda: self._tracker.finish(outcome, card.read_text("utf-8") if card.is_file() else ""))

    def _catch_up(self) -> None:
        for line in self._metrics.new_lines():
            if metrics := metrics_to_tell(line):
                self._tell(partial(self._tracker.log, int(line["step"]), metrics))
        for line in self._samples.new_lines():
            self._tell(partial(self._tracker.sample, int(line["step"]), str(line["prompt"]), str(line["text"])))

    def _tell(self, say_it: Callable[[], object]) -> None:
        """Tell one thing, unless it is time to give up."""
        if self._failed_in_a_row < PATIENCE:
            self._failed_in_a_row = 0 if self._told(say_it) else self._failed_in_a_row + 1

    def _told(self, say_it: Callable[[], object]) -> bool:
        try:
            say_it()
        except Exception as error:  # noqa: BLE001  whatever a tracker does, it is no matter of the run
            if self._failed_in_a_row == 0:
                self._failures.put(Failure(self.name, f"{type(error).__name__}: {error}"))
            return False
        return True


def metrics_to_tell(line: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of a line of `metrics.jsonl`, named by what they belong to."""
    prefix = PREFIXES.get(str(line.get("kind")))
    if prefix is None:
        return {}
    return {
        f"{prefix}/{name}": float(value)
        for name, value in line.items()
        if name not in TOLD_OTHERWISE and isinstance(value, int | float) and math.isfinite(value)
    }


def _description(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / RUN_FILE).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
