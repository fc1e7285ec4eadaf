"""The `train` command: from a configuration to a run with its callbacks, or to one clear error with nothing written."""

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, fields, replace
from datetime import datetime
from pathlib import Path

import torch

from tunesmith.config import TrackerName, TrainConfig
from tunesmith.distributed.env import torchrun_env
from tunesmith.distributed.init import init_world
from tunesmith.distributed.world import SINGLE_PROCESS, World
from tunesmith.doctor.preflight import check_device
from tunesmith.errors import UsageError, UserError
from tunesmith.model.hub import local_folder
from tunesmith.monitoring.system_monitor import SystemMonitor
from tunesmith.run_dir import INITIAL_STEP, RunDir, as_json, number_or
from tunesmith.tracking.callback import TrackerCallback
from tunesmith.tracking.trackers import make_trackers
from tunesmith.training.anomalies import memory_limit
from tunesmith.training.callbacks import (
    Callback,
    MemoryCalibrationCallback,
    MetricsWriter,
    ReportWriter,
    SystemMonitorCallback,
    dispatch,
)
from tunesmith.training.events import (
    DashboardStarted,
    Event,
    IntegrationFailed,
    ResumeVerified,
    RunEnded,
    RunStarted,
    TrainResult,
)
from tunesmith.training.from_scratch import materialize_scratch_model
from tunesmith.training.resume import resumed_config, stored_config, verify_resume
from tunesmith.training.run_sync import broadcast_config, launch_training
from tunesmith.training.setup import TrainSetup, build_trainer, check_config, describe_config, describe_run
from tunesmith.training.stop import StopController, StopRequest, first_deadline, stop_on_signals
from tunesmith.training.trainer import Trainer
from tunesmith.utils.device import deterministic, gpu_uuid, resolve_device

Events = Generator[Event, None, None]


def train(config: TrainConfig, *, on_event: Callable[[Event], None], stop: StopRequest | None = None) -> TrainResult:
    """Train as configured; Ctrl-C and SIGTERM save and end the run.

    With `devices` above 1 other processes train, and `on_event` is not called; started by `torchrun`, the main process
    calls it for every event.

    Args:
        config: of the run.
        on_event: called between two pieces of work, and never from a signal handler.
        stop: is set by Ctrl-C and SIGTERM, for callers that show it before the run gets to it.

    Raises:
        UserError: if the run cannot be done.
    """
    place, stop = torchrun_env(), stop or StopRequest()
    if place is None and config.devices > 1:
        return _train_in_processes(config)
    result = None
    with ExitStack() as stack:
        world = SINGLE_PROCESS
        if place is not None:
            place.check_devices(config.devices)
            world = stack.enter_context(init_world(place, device=config.device))
            if place.restart_count and world.is_main_process and RunDir(Path(config.out)).exists():
                config = replace(config, resume=True)  # the launcher starts us again after a failure
        session = stack.enter_context(open_session(config, stop, world))
        if world.is_main_process:
            on_event(session.started)  # until here there is nothing to save, and Ctrl-C ends at once
        stack.enter_context(stop_on_signals(stop))
        for event in session.introduce():
            on_event(event)
        for event in stack.enter_context(closing(session.trainer.events())):
            for handled in dispatch(event, session.callbacks):
                if world.is_main_process:
                    on_event(handled)
                if isinstance(handled, RunEnded):
                    result = handled.result
    assert result is not None, "the trainer ends with RunEnded"
    return result


def train_events(
    config: TrainConfig, stop: Callable[[], bool], *, world: World = SINGLE_PROCESS, has_integrations: bool = True
) -> Events:
    """Train, and yield what happens; the last event is `RunEnded`.

    Args:
        config: of the run.
        stop: called before every step; the run saves and ends when it returns true.
        world: processes that train together; this one among them.
        has_integrations: whether trackers, dashboard and report are of this run.

    Raises:
        UserError: before anything is written, if the run cannot be done; later, if its loss stays non-finite.
    """
    with open_session(config, stop, world, has_integrations=has_integrations) as session:
        if world.is_main_process:
            yield session.started
        yield from session.introduce()
        with closing(session.trainer.events()) as events:
            for event in events:
                yield from dispatch(event, session.callbacks)


@dataclass
class TrainSession:
    """A run that is ready to start, with everything that observes it.

    Attributes:
        introduce: returns events before the first step; it starts the dashboard and trackers.
        callbacks: of the main process; the others write nothing.
    """

    trainer: Trainer
    started: RunStarted
    introduce: Callable[[], list[Event]]
    callbacks: Sequence[Callback]


@contextmanager
def open_session(
    config: TrainConfig, stop: Callable[[], bool], world: World, *, has_integrations: bool = True
) -> Iterator[TrainSession]:
    """Check and set up a run, and release what it used at the end; the arguments are those of `train_events`.

    Raises:
        UserError: if the run cannot be done; nothing is written then.
    """
    run = RunDir(Path(config.out))
    trackers = {}
    if has_integrations:
        if config.dashboard and world.is_main_process:
            from tunesmith.serving.server import check_extra

            check_extra("tunesmith train --dashboard")
        check_device(config)
        if world.is_main_process:
            trackers = make_trackers(config.report_to or _stored_trackers(config, run))
    deadline = first_deadline(config.max_hours, config.stop_at, now=datetime.now().astimezone())
    control = StopController(run, stop, deadline, world)
    with ExitStack() as stack:
        if not world.is_main_process:
            setup = _set_up_other_rank(config, run, control, world, stack)
            yield TrainSession(setup.trainer, setup.started, list, ())
            return
        setup, verified = _set_up(config, run, control, world, stack)
        trainer = setup.trainer
        watch = stack.enter_context(SystemMonitor(gpu_uuid(torch.device(trainer.plan.device))))
        callbacks: list[Callback] = [
            MetricsWriter(run),
            SystemMonitorCallback(watch, lambda: trainer.state),
        ]
        if setup.calibrator:
            callbacks.append(MemoryCalibrationCallback(setup.calibrator, lambda: trainer.state))
        if has_integrations:
            callbacks.append(ReportWriter(config.out))
            callbacks.append(stack.enter_context(TrackerCallback(trackers, run, is_resumed=config.resume)))

        def introduce() -> list[Event]:
            events: list[Event] = [verified] if verified else []
            if has_integrations and config.dashboard:
                events.insert(0, _start_dashboard(config.out, stack))
            return events

        yield TrainSession(trainer, setup.started, introduce, callbacks)


def _set_up(
    config: TrainConfig, run: RunDir, stop: StopController, world: World, stack: ExitStack
) -> tuple[TrainSetup, ResumeVerified | None]:
    """Set up the only or the main process, lock the run directory and write run.json."""
    previous = stored_config(run) if config.resume else None
    if previous:
        config = resumed_config(config, previous, run)
    elif not config.sources:
        raise UsageError("no source was named", hint="name the text to train on: tunesmith train FILE --out DIR")
    device = check_config(config, world)
    if not previous:
        run.check_is_new()
    if config.verify_resume and device.type == "cuda":
        config = replace(config, deterministic=True)  # else no two runs on a GPU are the same, interrupted or not
    stack.enter_context(deterministic(device, is_on=config.deterministic))
    stack.enter_context(memory_limit(device))
    with world.main_process_first():
        config = config if previous else materialize_scratch_model(config, local_folder)
    verified = verify_resume(config, _train_quietly) if config.verify_resume else None
    world.broadcast_object(lambda: as_json(config))
    if previous:
        stack.enter_context(run.lock())
    setup = build_trainer(config, run, stop, previous, world)
    trainer = setup.trainer
    if previous:
        stop.clear()
        run.write_metadata({**run.read_metadata(), **describe_config(config, trainer.plan)})
        is_measured = not math.isnan(trainer.state.base_perplexity)
        run.truncate_logs(trainer.state.step if is_measured else INITIAL_STEP)
    else:
        stack.enter_context(run.lock())
        run.check_is_new()  # another run may have started meanwhile
        run.write_metadata(describe_run(config, trainer.plan, trainer.corpus))
    return setup, verified


def _set_up_other_rank(
    config: TrainConfig, run: RunDir, stop: StopController, world: World, stack: ExitStack
) -> TrainSetup:
    """Set up a process that writes nothing and receives from the main process what that reads."""
    if not config.resume:
        check_config(config, world)
    with world.main_process_first():
        config = config if config.resume else materialize_scratch_model(config, local_folder)
    was_resumed = config.resume
    config = broadcast_config(world, config)
    # of a resumed run only what is typed now was known before
    device = check_config(config, world) if was_resumed else resolve_device(config.device).value
    stack.enter_context(deterministic(device, is_on=config.deterministic))
    return build_trainer(config, run, stop, None, world)


def _train_quietly(config: TrainConfig, stop: Callable[[], bool]) -> Events:
    return train_events(config, stop, has_integrations=False)


def _train_in_processes(config: TrainConfig) -> TrainResult:
    """Start the processes that train, and read their result from the run directory."""
    code = launch_training(config)
    result = RunDir(Path(config.out)).read_metadata()["result"] if code in {0, 130} else {}
    names = {field.name for field in fields(TrainResult)}
    if not names <= set(result):
        raise UserError(
            "the processes of devices={devices} ended with exit code {code}",
            hint="their error message is above",
            devices=config.devices,
            code=code,
        )
    base_perplexity = number_or(result["base_perplexity"], math.inf)
    return TrainResult(**{name: result[name] for name in names} | {"base_perplexity": base_perplexity})


def _start_dashboard(out: str, stack: ExitStack) -> Event:
    """Start the dashboard, which ends with the run; a run continues without one."""
    from tunesmith.dashboard.launch import DashboardStartError, dashboard_process

    try:
        return DashboardStarted(stack.enter_context(dashboard_process(Path(out))))
    except DashboardStartError as error:
        return IntegrationFailed("--dashboard", str(error))


def _stored_trackers(config: TrainConfig, run: RunDir) -> tuple[TrackerName, ...]:
    """Return the trackers of a run that is resumed; an unreadable one is reported later, with a better message."""
    if not config.resume:
        return ()
    try:
        return tuple(run.read_metadata()["config"].get("report_to", ()))
    except UserError:
        return ()
