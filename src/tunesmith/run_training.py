"""A training with all that stands beside it: other processes, trackers, the live page, and the report at its end.

Each function imports what it needs when it is called: a command line that only prints help waits for nothing.
"""

import math
from collections.abc import Callable, Generator
from contextlib import ExitStack, closing
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith.config import ReportConfig, TrackerName, TrainConfig
from tunesmith.errors import UserError

if TYPE_CHECKING:
    from tunesmith.distributed.world import World
    from tunesmith.training.events import Event, TrainResult
    from tunesmith.training.interrupt import StopRequest

    Events = Generator[Event, None, None]

RUN_FILE = "run.json"


def run_training(
    config: TrainConfig, *, on_event: "Callable[[Event], None]", stop: "StopRequest | None" = None
) -> "TrainResult":
    """Train as configured; Ctrl-C and SIGTERM save and end the run.

    With `devices` above 1 other processes train, and `on_event` hears nothing; started by `torchrun`, the first of them
    hears everything.

    Args:
        config: what was asked.
        on_event: told of everything that happens, always between two pieces of work and never from a signal handler.
        stop: is set by Ctrl-C and SIGTERM, for who wants to show that before the loop comes to it.

    Raises:
        UserError: if it cannot be done.
    """
    from tunesmith.distributed.env import torchrun_env
    from tunesmith.distributed.world import SINGLE_PROCESS

    env = torchrun_env()
    if env is None and config.devices > 1:
        return _trained_by_others(config)
    if env is None:
        return _run_here(config, on_event=on_event, world=SINGLE_PROCESS, stop=stop)
    from tunesmith.distributed.init import init_world

    env.check_devices(config.devices)
    with init_world(env, device=config.device) as world:
        if env.restart_count and world.is_main_process and (Path(config.out) / RUN_FILE).is_file():
            config = replace(config, resume=True)  # whoever started us does so again after a failure
        heard = on_event if world.is_main_process else (lambda _event: None)
        return _run_here(config, on_event=heard, world=world, stop=stop)


def _trained_by_others(config: TrainConfig) -> "TrainResult":
    """Start the processes that train; what happens there is heard by nobody here."""
    from tunesmith.reporting.run_record import describe_run
    from tunesmith.training.events import TrainResult
    from tunesmith.training.run_files import number_or
    from tunesmith.training.run_sync import launch_training

    code = launch_training(config)
    outcome = describe_run(Path(config.out))["outcome"] if code in {0, 130} else {}
    known = {field.name for field in fields(TrainResult)}
    if not known <= set(outcome):
        raise UserError(
            "the processes of devices={devices} ended with exit code {code}",
            hint="they said why above",
            devices=config.devices,
            code=code,
        )
    base_perplexity = number_or(outcome["base_perplexity"], math.inf)
    return TrainResult(**{name: outcome[name] for name in known} | {"base_perplexity": base_perplexity})


def _run_here(
    config: TrainConfig, *, on_event: "Callable[[Event], None]", world: "World", stop: "StopRequest | None"
) -> "TrainResult":
    from tunesmith.training.events import Ended
    from tunesmith.training.interrupt import StopRequest, stop_on_signals

    stop = stop or StopRequest()
    events = all_events(config, stop, world)
    on_event(next(events))  # until here there is nothing to save, and Ctrl-C ends at once
    result = None
    with stop_on_signals(stop), closing(events):
        for event in events:
            on_event(event)
            if isinstance(event, Ended):
                result = event.result
    assert result is not None, "the loop ends with Ended"
    return result


def all_events(config: TrainConfig, stop: Callable[[], bool], world: "World") -> "Events":
    """Those of the run, of the trackers beside it, and of the report behind it."""
    from tunesmith.doctor.guard import refuse_processor_by_surprise
    from tunesmith.tracking.registry import make_trackers
    from tunesmith.tracking.tracking import Tracking
    from tunesmith.training.events import Ended, WatchFailed
    from tunesmith.training.job import train_model

    def failures() -> "Events":
        for failure in tracking.failures():
            yield WatchFailed(f"--track {failure.tracker}", failure.reason)

    if config.dashboard and world.is_main_process:
        from tunesmith.serving.hosting import refuse_without_extra

        refuse_without_extra("tunesmith train --dashboard")
    refuse_processor_by_surprise(config)
    trackers = make_trackers(config.track or _tracked_before(config)) if world.is_main_process else {}
    events = train_model(config, stop=stop, world=world)
    yield next(events)
    tracking = Tracking(trackers, Path(config.out), is_resumed=config.resume)
    ended: Ended | None = None
    with closing(events), tracking, ExitStack() as beside:
        if config.dashboard and world.is_main_process:
            yield _page(config.out, beside)
        for event in events:
            if isinstance(event, Ended):
                ended = event
                if world.is_main_process:
                    yield _report(config.out)
                continue
            yield event
            yield from failures()
    yield from failures()
    if ended:
        yield ended


def _page(out: str, beside: ExitStack) -> "Event":
    """Start the live page, which ends with what is beside the run; a run goes on without."""
    from tunesmith.dashboard.beside import NoPageError, page_beside
    from tunesmith.training.events import PageOpened, WatchFailed

    try:
        return PageOpened(beside.enter_context(page_beside(Path(out))))
    except NoPageError as error:
        return WatchFailed("--dashboard", str(error))


def _tracked_before(config: TrainConfig) -> tuple[TrackerName, ...]:
    """The trackers of a run that is resumed; an unreadable one is refused later, with better words."""
    from tunesmith.reporting.run_record import describe_run

    if not config.resume:
        return ()
    try:
        return tuple(describe_run(Path(config.out))["asked"].get("track", ()))
    except UserError:
        return ()


def _report(out: str) -> "Event":
    """Write the report that every run ends with; a run is whole without one."""
    from tunesmith.reporting.write_report import write_report
    from tunesmith.training.events import ReportWritten, WatchFailed

    try:
        return ReportWritten(Path(write_report(ReportConfig(out))["report"]))
    except Exception as error:  # noqa: BLE001  whatever it is, the model is learned and saved
        return WatchFailed("report.html", f"{type(error).__name__}: {error}")
