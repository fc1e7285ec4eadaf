"""How a process that `torchrun` started finds the others."""

import itertools
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING

from tunesmith.distributed.cards import refuse_too_few_cards
from tunesmith.distributed.lost import LostError, ToldError, is_loss, lost
from tunesmith.distributed.place import Place
from tunesmith.distributed.pulse import Pulse, leave_group
from tunesmith.distributed.team import PATIENCE, ManyProcesses
from tunesmith.errors import UsageError, UserError

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

MEETING_PATIENCE = timedelta(seconds=30)
"""With others that are to be there already, as whoever starts them all has made sure."""
ARRIVAL_PATIENCE = timedelta(minutes=2)
"""With others that have found the meeting point, and are to connect to each other."""
CLAIM_S = 5.0
"""For the store to say who tells the user; one that says nothing cannot be reached."""
JOINED = itertools.count()
"""How often this process has joined the others: a script may train and then measure, and each begins anew."""
GRACE_S = 1.0
"""Left to the first process to say what went wrong for all of them."""


@contextmanager
def joined(place: Place, *, device: str) -> Iterator[ManyProcesses]:
    """This process among the others; an error of any of them leaves one of them only, and names it.

    Args:
        place: which one it is.
        device: what was asked for: auto, cpu or cuda.

    Raises:
        ToldError: in every process but the one that tells.
        UserError: in that one.
    """
    import torch
    import torch.distributed as dist

    on_cards = device != "cpu" and torch.cuda.is_available()
    try:
        store, pulse = _grouped(place, device=device, on_cards=on_cards)
    except UserError:
        if place.local_rank:
            raise ToldError from None  # the first one of this host says the same
        raise
    team = ManyProcesses(place, store, pulse)
    pulse.start()
    try:
        yield team
        team.wait_for_first()  # it may host the store
    except (Exception, KeyboardInterrupt) as error:
        with _deaf_to_launcher():
            told = _as_told(error, place, team, launcher_knows=place.is_ours and not pulse.is_silent)
        with suppress(Exception):  # NCCL would wait for those who are gone
            if pulse.is_lost:
                leave_group()
            elif not on_cards:
                dist.destroy_process_group()
        if told is error:
            raise
        raise told from None
    finally:
        pulse.stop()
    dist.destroy_process_group()


def _grouped(place: Place, *, device: str, on_cards: bool) -> tuple["Store", Pulse]:
    """Bring the process into the group; what all of them reach, and how they know that the others live."""
    import torch
    import torch.distributed as dist
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]

    refuse_too_few_cards(place.local_size, device=device)
    if on_cards:
        torch.cuda.set_device(place.local_rank)
    else:
        torch.set_num_threads(max((os.cpu_count() or 1) // place.local_size, 1))
    if not dist.is_gloo_available() or (on_cards and not dist.is_nccl_available()):
        raise UserError(
            "this build of torch cannot train on several processes", hint="leave out --devices, and torchrun"
        )
    store = _met(place)
    pulse = Pulse(place, store)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if on_cards else "gloo",
        store=PrefixStore("group", store),
        rank=place.rank,
        world_size=place.size,
        timeout=ARRIVAL_PATIENCE,
        device_id=torch.device("cuda", place.local_rank) if on_cards else None,
    )
    dist.distributed_c10d._set_pg_timeout(PATIENCE)  # noqa: SLF001  of what is reduced from here on
    return store, pulse


def _met(place: Place) -> "Store":
    """The store that all processes reach.

    Raises:
        UserError: if it cannot be reached, or its port is taken.
    """
    import torch.distributed as dist
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]
    from torch.distributed.rendezvous import rendezvous

    if place.address.startswith(":") or place.address.endswith(":"):
        raise UsageError(
            "RANK and WORLD_SIZE are set, but not MASTER_ADDR and MASTER_PORT",
            hint="start the processes with torchrun, or unset RANK and WORLD_SIZE to train with one",
        )
    started_s = time.monotonic()
    try:
        store, _, _ = next(rendezvous("env://", place.rank, place.size, timeout=MEETING_PATIENCE))
    except (dist.DistError, RuntimeError, ValueError) as error:
        if "EADDRINUSE" in str(error) or "already in use" in str(error):
            raise UserError(
                "{address} is in use by another program",
                hint="start with another port: torchrun --master-port N, or --rdzv-endpoint HOST:N; or MASTER_PORT=N",
                address=place.address,
            ) from None
        raise UserError(
            "rank {rank} does not reach {address} within {seconds:.0f} s",
            hint="check that the first process runs there, that the name and the port are right, and that no firewall "
            "is between the hosts",
            rank=place.rank,
            address=place.address,
            seconds=time.monotonic() - started_s,
        ) from None
    return PrefixStore(f"tunesmith/{place.attempt}/{next(JOINED)}", store)


@contextmanager
def _deaf_to_launcher() -> Iterator[None]:
    """While this lasts SIGTERM is nothing new: a launcher that learns of the same loss sends it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _as_told(error: BaseException, place: Place, team: ManyProcesses, *, launcher_knows: bool) -> BaseException:
    """The same error where this process is to tell it, else `ToldError`."""
    is_lost = isinstance(error, LostError) or (not isinstance(error, UserError) and is_loss(error))
    if is_lost or place.rank:
        time.sleep(GRACE_S)
    claimed: list[bool] = []

    def claim() -> None:
        with suppress(Exception):  # the store is gone, with its host
            claimed.append(team.claim_failure())

    asking = threading.Thread(target=claim, daemon=True)  # behind a cut cable the answer would take minutes
    asking.start()
    asking.join(CLAIM_S)
    is_first = claimed[0] if claimed else place.local_rank == 0
    if not is_first or (is_lost and launcher_knows):  # that one names the process that was killed
        return ToldError()
    if is_lost:
        return lost()
    if isinstance(error, UserError) and place.rank:
        return UserError(
            "rank {rank}: {message}", hint="{advice}", rank=place.rank, message=error.message, advice=error.hint
        )
    return error
