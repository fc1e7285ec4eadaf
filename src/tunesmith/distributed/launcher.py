"""`--devices N`: torch's own launcher (the one of `torchrun`) starts the command N times on this host."""

import logging
import os
import secrets
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith.config import EvaluateConfig, GenerateConfig, TrainConfig
from tunesmith.distributed.env import LAUNCHED_BY_CLI, torchrun_env
from tunesmith.distributed.init import check_gpu_count, init_world
from tunesmith.distributed.world import SINGLE_PROCESS, World
from tunesmith.errors import UserError
from tunesmith.i18n import say
from tunesmith.utils.device import resolve_device, use_device

if TYPE_CHECKING:
    import torch
import yaml

DONE, INTERRUPTED = 0, 130
COMMANDS = {TrainConfig: "train", EvaluateConfig: "evaluate", GenerateConfig: "generate"}
SHUTDOWN_TIMEOUT_S = 600
"""For processes that were asked to end, before they are killed: a large model is written to a slow disk."""


def killed_hint() -> str:
    """Return what to do if a process was killed."""
    return say("SIGKILL is often the system's answer when memory runs out: take fewer --devices")


def launch(config: TrainConfig | EvaluateConfig | GenerateConfig, *, hint: Callable[[], str] = killed_hint) -> int:
    """Run a command in `config.devices` processes; they print and write everything themselves.

    A signal that asks this process to end is passed on; when one process fails, the others are ended.

    Args:
        config: of the command.
        hint: what to do if a process was killed, where there is more to say than the usual.

    Returns:
        The exit code of the command.

    Raises:
        UserError: if they cannot be started, or one of them was killed.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    check_gpu_count(config.devices, device=config.device)
    launch_config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=config.devices,
        run_id=secrets.token_hex(8),
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",  # a port that is free
        local_addr="127.0.0.1",
        max_restarts=0,
        shutdown_timeout=SHUTDOWN_TIMEOUT_S,
    )
    with command_for(config) as command, _environment(config.devices), _silent_launcher():
        try:
            elastic_launch(launch_config, sys.executable)(*command)
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            if failure.exitcode >= 0:
                return failure.exitcode  # it has reported why
            raise UserError(
                "rank {rank} was ended by {signal}, and the others with it",
                hint="{advice}",
                rank=rank,
                signal=_signal_name(-failure.exitcode),
                advice=hint(),
            ) from None
        except SignalException:
            return INTERRUPTED
        except (OSError, RuntimeError) as error:
            raise UserError(
                "{n} processes cannot be started: {error}",
                hint="start them with torchrun to see more: torchrun --nproc-per-node {n} -m tunesmith train ...",
                n=config.devices,
                error=str(error).splitlines()[0] if str(error) else type(error).__name__,
            ) from None
    return DONE


@contextmanager
def command_world(config: EvaluateConfig | GenerateConfig) -> Iterator[World]:
    """Join the processes that share the work of a command, or only this one.

    Raises:
        UserError: if something was asked for that only a single process can do.
    """
    env = torchrun_env()
    if env is None:
        if config.devices > 1:
            raise UserError(
                "devices={devices} starts other processes, whose result a Python function does not receive",
                hint="use the command line, or start your own script with torchrun",
                devices=config.devices,
            )
        yield SINGLE_PROCESS
        return
    env.check_devices(config.devices)
    if config.device.startswith("cuda:"):
        raise UserError(
            "--device {device} names one GPU, and several processes use one each",
            hint="write --device cuda; CUDA_VISIBLE_DEVICES chooses which GPUs they are",
            device=config.device,
        )
    with init_world(env, device=config.device) as world:
        yield world


def device_for(world: World, requested: str) -> "torch.device":
    """Return the device of this process; a GPU becomes the current one of this thread.

    Raises:
        UserError: if it cannot be used.
    """
    import torch

    device = resolve_device(requested).value
    if world.size > 1 and device.type == "cuda":
        device = torch.device("cuda", world.local_rank)
    use_device(device)
    return device


@contextmanager
def command_for(config: TrainConfig | EvaluateConfig | GenerateConfig) -> Iterator[list[str]]:
    """Write a configuration to a file; yield the arguments of Python that run the command with it."""
    values = {
        field.name: list(value) if isinstance(value := getattr(config, field.name), tuple) else value
        for field in fields(config)
        if field.name != "devices" and getattr(config, field.name) not in (field.default, None)
    }
    with tempfile.TemporaryDirectory(prefix="tunesmith-") as folder:
        path = Path(folder, "options.yaml")
        path.write_text(yaml.safe_dump(values, allow_unicode=True), "utf-8")
        yield ["-m", "tunesmith", COMMANDS[type(config)], "--config", str(path)]


@contextmanager
def _environment(processes: int) -> Iterator[None]:
    """Set what the processes read: that the command line started them, and their share of the CPU's threads."""
    threads = str(max((os.cpu_count() or 1) // processes, 1))
    added = {LAUNCHED_BY_CLI: "1", **({} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": threads})}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


@contextmanager
def _silent_launcher() -> Iterator[None]:
    """Silence the launcher's own log, which reports in many lines what the error says in one."""
    logger = logging.getLogger("torch.distributed.elastic")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return say("signal {number}", number=number)
