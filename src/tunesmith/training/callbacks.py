"""Callbacks: everything that observes a run through its events, and never changes it.

A callback takes an event and returns further ones, which all callbacks then get as well. The order matters: the metrics
writer is the first, so that an event is on disk before anything else handles it.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from tunesmith.config import ReportConfig
from tunesmith.monitoring.system_monitor import SystemMonitor
from tunesmith.run_dir import METRICS, SAMPLES, RunDir, as_json
from tunesmith.training.events import (
    Event,
    IntegrationFailed,
    ReportWritten,
    RunEnded,
    Sampled,
    StepLogged,
    SystemMetricsLogged,
    metrics_of,
)
from tunesmith.training.memory_calibration import MemoryCalibrator
from tunesmith.training.state import TrainState

Callback = Callable[[Event], Sequence[Event]]


def dispatch(event: Event, callbacks: Sequence[Callback]) -> list[Event]:
    """Give an event to all callbacks; return it with the events that they added, `RunEnded` at the end."""
    handled: list[Event] = []
    pending = deque([event])
    while pending:
        current = pending.popleft()
        for callback in callbacks:
            pending.extend(callback(current))
        handled.append(current)
    if isinstance(event, RunEnded):
        handled.append(handled.pop(0))
    return handled


class MetricsWriter:
    """Write events to metrics.jsonl and samples.jsonl, and the result to run.json."""

    def __init__(self, run: RunDir) -> None:
        self._run = run

    def __call__(self, event: Event) -> Sequence[Event]:
        metrics = metrics_of(event)
        if metrics:
            self._run.append(METRICS, metrics)
        elif isinstance(event, Sampled):
            for text in event.texts:
                self._run.append(SAMPLES, {"step": event.step, "is_final": event.is_final, **as_json(text)})
        elif isinstance(event, RunEnded):
            status = "interrupted" if event.result.interrupted else "finished"
            self._run.finish({"status": status, **as_json(event.result)})
        return ()


class SystemMonitorCallback:
    """Log what the machine does around steps, and count its energy over all resumes.

    Args:
        watch: measures in the background.
        state: returns the train state, which keeps the energy; a rollback replaces it.
    """

    def __init__(self, watch: SystemMonitor, state: Callable[[], TrainState]) -> None:
        self._watch = watch
        self._state = state
        self._before_joules = state().energy_joules

    def __call__(self, event: Event) -> Sequence[Event]:
        if not isinstance(event, StepLogged) or not (reading := self._watch.latest()):
            return ()
        known = [joules for joules in (self._before_joules, reading.energy_joules) if joules is not None]
        energy_joules = self._state().energy_joules = sum(known) if known else None
        return [SystemMetricsLogged(event.step, event.elapsed_s, replace(reading, energy_joules=energy_joules))]


class MemoryCalibrationCallback:
    """Record the memory peak of a complete run in which memory sufficed.

    Args:
        calibrator: of this run.
        state: returns the train state.
    """

    def __init__(self, calibrator: MemoryCalibrator, state: Callable[[], TrainState]) -> None:
        self._calibrator = calibrator
        self._state = state

    def __call__(self, event: Event) -> Sequence[Event]:
        if isinstance(event, RunEnded) and not event.result.interrupted and self._state().micro_batch_splits == 1:
            self._calibrator.after_run(event.result.peak_memory_bytes)
        return ()


class ReportWriter:
    """Write report.html at the end; a run is complete without one.

    Args:
        out: the run directory.
    """

    def __init__(self, out: str) -> None:
        self._out = out

    def __call__(self, event: Event) -> Sequence[Event]:
        if not isinstance(event, RunEnded):
            return ()
        from tunesmith.reporting.write_report import write_report

        try:
            return [ReportWritten(Path(write_report(ReportConfig(self._out))["report"]))]
        except Exception as error:  # noqa: BLE001  whatever it is, the model is trained and saved
            return [IntegrationFailed("report.html", f"{type(error).__name__}: {error}")]
