"""Tracker callback: pass a run's events to experiment trackers, each in its own thread with a queue.

A tracker can neither stop nor slow a run. What it raises is reported once; after a few failures it is left alone. At
the end it has a limited time to finish; the run directory has everything in any case.
"""

import math
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self

from tunesmith.errors import UserError
from tunesmith.generation.generate import GeneratedText
from tunesmith.i18n import say
from tunesmith.run_dir import RunDir
from tunesmith.tracking.trackers import TrackedRun, Tracker
from tunesmith.training.events import Event, IntegrationFailed, RunEnded, Sampled, metrics_of

FINISH_TIMEOUT_S = 30.0
"""Until a tracker must be done after the run."""
MAX_FAILURES = 3
"""In a row, until a tracker is left alone."""
MAX_QUEUED = 100_000
"""Calls that wait for a slow tracker; more are dropped."""
PREFIXES = {"step": ("train", "train_"), "eval": ("eval", "val_"), "system": ("system", "")}
"""Of metric names, by kind, with what they replace: `train_loss` of a step is `train/loss`."""
NOT_METRICS = {"kind", "step"}


class TrackerCallback:
    """Pass events to all trackers of a run; used as a context manager around it.

    Args:
        trackers: by name.
        run: which has started.
        is_resumed: whether the trackers know an earlier part of it.
    """

    def __init__(self, trackers: Mapping[str, Tracker], run: RunDir, *, is_resumed: bool) -> None:
        self._run = run
        self._last_steps: dict[str, int] = {}
        self._failures: queue.SimpleQueue[IntegrationFailed] = queue.SimpleQueue()
        self._is_ended = False
        tracked = describe_tracked_run(run, is_resumed=is_resumed) if trackers else None
        self._threads = [
            _TrackerThread(name, tracker, tracked, self._failures)
            for name, tracker in trackers.items()
            if tracked is not None
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._is_ended:  # the run ended in an error
            self._finish(waits=kind is None or not issubclass(kind, KeyboardInterrupt))

    def __call__(self, event: Event) -> Sequence[Event]:
        if not self._threads or isinstance(event, IntegrationFailed):
            return ()
        if isinstance(event, Sampled) and (event.is_final or self._is_new("samples", event.step)):
            for text in event.texts:
                self._put(partial(_log_sample, event.step, text))
        elif (metrics := metrics_of(event)) and (values := tracker_metrics(metrics)):
            step = int(metrics["step"])
            if self._is_new(metrics["kind"], step):
                self._put(lambda tracker: tracker.log(step, values))
        elif isinstance(event, RunEnded):
            self._finish(waits=True)
        failures = []
        while not self._failures.empty():
            failures.append(self._failures.get())
        return failures

    def _is_new(self, kind: str, step: int) -> bool:
        """Whether a step was not logged before; after a rollback it was."""
        is_new = step > self._last_steps.get(kind, -1)
        if is_new:
            self._last_steps[kind] = step
        return is_new

    def _put(self, call: "Callable[[Tracker], object]") -> None:
        for thread in self._threads:
            thread.put(call)

    def _finish(self, *, waits: bool) -> None:
        self._is_ended = True
        result = _read_metadata(self._run).get("result", {})
        card = self._run.path / "README.md"
        text = card.read_text("utf-8") if card.is_file() else ""
        for thread in self._threads:
            thread.put(lambda tracker: tracker.finish(result, text))
            thread.put(None)
        for thread in self._threads if waits else []:
            thread.join(FINISH_TIMEOUT_S)
            if thread.is_alive():
                reason = say("not done after {seconds:.0f} s", seconds=FINISH_TIMEOUT_S)
                self._failures.put(IntegrationFailed(thread.what, reason))


class _TrackerThread(threading.Thread):
    def __init__(
        self, name: str, tracker: Tracker, run: TrackedRun, failures: "queue.SimpleQueue[IntegrationFailed]"
    ) -> None:
        super().__init__(name=f"tracker {name}", daemon=True)
        self.what = f"--report-to {name}"
        self._tracker, self._tracked, self._failures = tracker, run, failures
        self._calls: queue.Queue[Callable[[Tracker], object] | None] = queue.Queue(MAX_QUEUED)
        self._failed_in_a_row = 0

    def put(self, call: "Callable[[Tracker], object] | None") -> None:
        """Queue a call; None ends the thread. It never waits."""
        if self.is_alive():
            try:
                self._calls.put_nowait(call)
            except queue.Full:
                return

    def run(self) -> None:
        if not self._try(lambda tracker: tracker.start(self._tracked)):
            return
        while self._failed_in_a_row < MAX_FAILURES and (call := self._calls.get()):
            self._failed_in_a_row = 0 if self._try(call) else self._failed_in_a_row + 1

    def _try(self, call: "Callable[[Tracker], object]") -> bool:
        try:
            call(self._tracker)
        except Exception as error:  # noqa: BLE001  whatever a tracker does, the run is not affected
            if self._failed_in_a_row == 0:
                self._failures.put(IntegrationFailed(self.what, f"{type(error).__name__}: {error}"))
            return False
        return True


def _log_sample(step: int, text: GeneratedText, tracker: Tracker) -> None:
    tracker.sample(step, text.prompt, text.text)


def describe_tracked_run(run: RunDir, *, is_resumed: bool) -> TrackedRun:
    """Return what trackers get at the start of a run."""
    metadata = _read_metadata(run)
    settings = {
        f"{part}/{name}": value
        for part in ("config", "plan")
        for name, value in metadata.get(part, {}).items()
        if name not in {"reasons", "peak_memory_parts"} and value is not None
    }
    name = run.path.resolve().name
    return TrackedRun(run.path, name, str(metadata.get("run_id", name)), settings, is_resumed)


def tracker_metrics(line: Mapping[str, Any]) -> dict[str, float]:
    """Return the finite numbers of a line of metrics.jsonl, named by what they belong to."""
    if line["kind"] not in PREFIXES:
        return {}
    prefix, replaced = PREFIXES[line["kind"]]
    return {
        f"{prefix}/{name.removeprefix(replaced)}": float(value)
        for name, value in line.items()
        if name not in NOT_METRICS and isinstance(value, int | float) and math.isfinite(value)
    }


def _read_metadata(run: RunDir) -> dict[str, Any]:
    try:
        return run.read_metadata()
    except UserError:  # reported by whatever needs it
        return {}
