"""`--devices N`: torch's own launcher (the one behind `torchrun`) starts the same command N times on this host."""

import logging
import os
import secrets
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tunesmith.distributed.place import LAUNCHED_BY_US
from tunesmith.errors import UserError
from tunesmith.messages.catalogue import say

SAVING_PATIENCE_S = 600
"""Left to processes that were asked to end, before they are killed: a large model is written to a slow disk."""


def run_processes(arguments: Sequence[str], processes: int) -> None:
    """Run `python -m tunesmith` with these arguments in so many processes, until all have ended.

    A signal that asks this process to end is passed on; when one process fails, the others are ended.

    Raises:
        ProcessFailedError: if one of them did not end well; unless a signal killed it, it has said why.
        InterruptedBySignal: if they were asked to end, and have.
        UserError: if they cannot be started.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=secrets.token_hex(8),
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",  # a port that is free
        local_addr="127.0.0.1",
        max_restarts=0,
        shutdown_timeout=SAVING_PATIENCE_S,
    )
    with _environment(processes), _silent_launcher():
        try:
            elastic_launch(config, sys.executable)("-m", "tunesmith", *arguments)
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            raise ProcessFailedError(rank, failure.exitcode) from None
        except SignalException:
            raise InterruptedBySignal from None
        except (OSError, RuntimeError) as error:
            raise UserError(
                "{n} processes cannot be started: {error}",
                hint="start them with torchrun to see more: torchrun --nproc-per-node {n} -m tunesmith train ...",
                n=processes,
                error=str(error).splitlines()[0] if str(error) else type(error).__name__,
            ) from None


class InterruptedBySignal(Exception):  # noqa: N818  no error
    """The processes were asked to end, and have."""


class ProcessFailedError(Exception):
    """One process did not end well.

    Attributes:
        rank: which one.
        exit_code: negative where a signal killed it.
    """

    def __init__(self, rank: int, exit_code: int) -> None:
        super().__init__(f"rank {rank}: exit code {exit_code}")
        self.rank = rank
        self.exit_code = exit_code


def name_of_signal(number: int) -> str:
    """As people know it."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return say("signal {number}", number=number)


@contextmanager
def _environment(processes: int) -> Iterator[None]:
    """What the processes find in theirs: that we started them, and their part of the processor's threads."""
    threads = str(max((os.cpu_count() or 1) // processes, 1))
    added = {LAUNCHED_BY_US: "1", **({} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": threads})}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


@contextmanager
def _silent_launcher() -> Iterator[None]:
    """The launcher's own log says in many lines what we say in one."""
    logger = logging.getLogger("torch.distributed.elastic")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)
