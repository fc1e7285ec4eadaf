"""Joins the process group of torchrun, and reports an error of any process once."""

import itertools
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING

from tunesmith.distributed.env import TorchrunEnv, collective_timeout_s
from tunesmith.distributed.world import AlreadyReportedError, DistributedWorld, PeerLostError
from tunesmith.errors import UsageError, UserError

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

RENDEZVOUS_TIMEOUT = timedelta(seconds=30)
"""The launcher has made sure that all processes exist."""
PEER_LOSS_SIGNS = ("gloo", "Connection closed by peer", "Connection reset by peer", "Broken pipe", "NCCL")
REPORTED_BY = "reported-by"
"""The key of the store under which the first process to fail enters its rank: that process reports to the user."""
REPORT_GRACE_S = 1.0
"""Head start of the main process, and of the process with the cause, before the others may report."""
STORE_ANSWER_S = 5.0
"""A store that does not answer by then cannot be reached: each host reports for itself."""
_joins = itertools.count()
"""A script may train and then evaluate: each joins the process group again, with fresh keys in the store."""


@contextmanager
def init_world(env: TorchrunEnv, *, device: str) -> Iterator[DistributedWorld]:
    """Join the other processes; an error in any of them is raised to the user by one process, with its rank.

    Args:
        env: of this process.
        device: as requested: auto, cpu or cuda.

    Raises:
        AlreadyReportedError: in every process but the one that reports.
        UserError: in that one.
    """
    import torch
    import torch.distributed as dist

    on_gpu = device != "cpu" and torch.cuda.is_available()
    try:
        store = _join(env, device=device, on_gpu=on_gpu)
    except UserError:
        if env.local_rank:
            raise AlreadyReportedError from None  # the first process of this host raises the same
        raise
    try:
        world = DistributedWorld(env)
        yield world
        world.barrier()  # the main process may host the store
    except (Exception, KeyboardInterrupt) as error:
        with _ignore_sigterm():
            reported = _as_reported(error, env, store)
        if not on_gpu:  # NCCL would wait for the lost processes
            with suppress(Exception):
                dist.destroy_process_group()
        if reported is error:
            raise
        raise reported from None
    dist.destroy_process_group()


def check_gpu_count(processes: int, *, device: str) -> None:
    """Check that there is a GPU for every process of this host.

    Raises:
        UserError: if GPUs are to be used and there are fewer.
    """
    import torch

    gpus = torch.cuda.device_count()
    if device == "cpu" or (device == "auto" and not gpus) or processes <= gpus:
        return
    raise UserError(
        "{processes} processes on this host, and torch sees {gpus} CUDA devices",
        hint="start one process per GPU (--devices {gpus}, torchrun --nproc-per-node {gpus}); "
        "CUDA_VISIBLE_DEVICES may hide some",
        processes=processes,
        gpus=gpus,
    )


def _join(env: TorchrunEnv, *, device: str, on_gpu: bool) -> "Store":
    """Bring the process into the default group; return the store that all processes reach."""
    import torch
    import torch.distributed as dist
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]

    check_gpu_count(env.local_world_size, device=device)
    if on_gpu:
        torch.cuda.set_device(env.local_rank)
    else:
        torch.set_num_threads(max((os.cpu_count() or 1) // env.local_world_size, 1))
    if not dist.is_gloo_available() or (on_gpu and not dist.is_nccl_available()):
        raise UserError(
            "this build of torch cannot train on several processes", hint="leave out --devices, and torchrun"
        )
    store = _rendezvous(env)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
        store=PrefixStore("group", store),
        rank=env.rank,
        world_size=env.world_size,
        timeout=timedelta(seconds=collective_timeout_s()),
        device_id=torch.device("cuda", env.local_rank) if on_gpu else None,
    )
    return store


def _rendezvous(env: TorchrunEnv) -> "Store":
    """Connect to the store at torchrun's address.

    Raises:
        UserError: if it cannot be reached, or its port is taken.
    """
    import torch.distributed as dist
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]
    from torch.distributed.rendezvous import rendezvous

    if env.address.startswith(":") or env.address.endswith(":"):
        raise UsageError(
            "RANK and WORLD_SIZE are set, but not MASTER_ADDR and MASTER_PORT",
            hint="start the processes with torchrun, or unset RANK and WORLD_SIZE to train with one",
        )
    started_s = time.monotonic()
    try:
        store, _, _ = next(rendezvous("env://", env.rank, env.world_size, timeout=RENDEZVOUS_TIMEOUT))
    except (dist.DistError, RuntimeError, ValueError) as error:
        if "EADDRINUSE" in str(error) or "already in use" in str(error):
            raise UserError(
                "{address} is in use by another program",
                hint="start with another port: torchrun --master-port N, or --rdzv-endpoint HOST:N; or MASTER_PORT=N",
                address=env.address,
            ) from None
        raise UserError(
            "rank {rank} does not reach {address} within {seconds:.0f} s",
            hint="check that the first process runs there, that the name and the port are right, and that no firewall "
            "is between the hosts",
            rank=env.rank,
            address=env.address,
            seconds=time.monotonic() - started_s,
        ) from None
    return PrefixStore(f"tunesmith/{env.restart_count}/{next(_joins)}", store)


@contextmanager
def _ignore_sigterm() -> Iterator[None]:
    """Finish the report: a launcher that notices the same loss sends SIGTERM at the same time."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _as_reported(error: BaseException, env: TorchrunEnv, store: "Store") -> BaseException:
    """Return the error that this process is to raise: with its rank if it is the first to fail."""
    is_lost = not isinstance(error, UserError) and _is_peer_loss(error)
    if is_lost or env.rank:
        time.sleep(REPORT_GRACE_S)
    launcher_reports = (
        env.launched_by_cli and "timed out" not in str(error).lower()
    )  # it reports the process that was killed
    if not _is_first_to_fail(env, store) or (is_lost and launcher_reports):
        return AlreadyReportedError()
    if is_lost:
        return PeerLostError(
            "another process of this training has ended, or cannot be reached any more",
            hint="what was saved before stays: start the same command again with --resume",
        )
    if isinstance(error, UserError) and env.rank:
        return UserError(
            "rank {rank}: {message}", hint="{advice}", rank=env.rank, message=error.message, advice=error.hint
        )
    return error


def _is_first_to_fail(env: TorchrunEnv, store: "Store") -> bool:
    answers: list[bool] = []

    def claim() -> None:
        with suppress(Exception):  # the store has ended with its host
            answers.append(store.compare_set(REPORTED_BY, "", str(env.rank)) == str(env.rank).encode())

    claiming = threading.Thread(target=claim, daemon=True)  # across a cut network the answer would take minutes
    claiming.start()
    claiming.join(STORE_ANSWER_S)
    return answers[0] if answers else env.local_rank == 0


def _is_peer_loss(error: BaseException) -> bool:
    """Whether an error of torch means that another process cannot be reached."""
    import torch.distributed as dist

    if isinstance(error, dist.DistError):  # of the backend, the network or the store
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in PEER_LOSS_SIGNS)
