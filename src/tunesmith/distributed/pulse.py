"""Whether the other processes still live: each says so every few seconds, in a thread, whatever else it does.

A process may be slow: a step takes as long as the slowest host needs, a long text is read by one while the others wait.
So nobody is given up for not having come to a reduction yet, but for having been silent for `SILENCE_S`: its host is
off, its cable is cut, it is stopped. Then whoever waits is told, and a process that cannot be told, because it waits
inside of torch for what will not come, is ended.
"""

import ctypes
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from tunesmith.distributed.lost import lost
from tunesmith.distributed.place import Place
from tunesmith.messages.catalogue import say

if TYPE_CHECKING:
    from torch import Tensor
    from torch._C._distributed_c10d import Store, Work

T = TypeVar("T")

BEAT_S = 5.0
"""Between two signs of life."""
SILENCE_S = 45.0
"""After which a process is given up; with the beat before, and with telling it, that is within a minute."""
GLANCE_S = 1.0
"""Between two looks whether waiting still makes sense."""
DEAF_S = 10.0
"""Left to a process to notice by itself that another one is silent."""
ENDING_S = 600.0
"""Left to it to end by itself, once it has noticed, or where the others ended in good order: something may still be
written to a slow disk."""
FAILED = "failed"
"""Under this key the process stands that told the user why the training ended."""


class Pulse:
    """The signs of life of one process, and its ear for those of the others.

    The first process listens to all; every other one to the first, who says under `FAILED` when somebody is gone. Where
    the store itself does not answer, nobody can be heard.

    Args:
        place: of this process.
        store: that all of them reach; only asked through a connection of its own.
    """

    def __init__(self, place: Place, store: "Store") -> None:
        self._rank, self._size = place.rank, place.size
        self._speaks, self._launcher_tells = place.local_rank == 0, place.is_ours
        self._store: Store = store.clone()  # type: ignore[attr-defined]
        self._stopped, self._noticed = threading.Event(), threading.Event()
        self._has_ended = False
        self._is_told = False
        self._heard_s = time.monotonic()
        self._store.set(self._key(self._rank), "0")

    def start(self) -> None:
        """Beat and listen from now on; all processes have to be there."""
        threading.Thread(target=self._beat, name="pulse", daemon=True).start()
        threading.Thread(target=self._guard, name="guard", daemon=True).start()

    def stop(self) -> None:
        """Be silent; nobody is waited for any more."""
        self._stopped.set()

    @property
    def is_lost(self) -> bool:
        """Whether another process has ended, or is silent."""
        return self._has_ended or self.is_silent

    @property
    def is_silent(self) -> bool:
        """Whether another process says nothing, as far as this one can hear."""
        return time.monotonic() - self._heard_s > SILENCE_S

    def refuse_loss(self) -> None:
        """Go on only if all processes live.

        Raises:
            LostError: if one of them does not.
        """
        if self.is_lost:
            self._noticed.set()
            raise lost()

    def asked(self, ask: Callable[[], T]) -> T:
        """What the store answers, however long it takes, while all processes live: it waits without a limit of its own.

        Raises:
            LostError: if one of them does not.
        """
        answers: list[T] = []
        errors: list[BaseException] = []
        done = threading.Event()

        def work() -> None:
            try:
                answers.append(ask())
            except BaseException as error:  # noqa: BLE001  raised in the thread that asks
                errors.append(error)
            done.set()

        threading.Thread(target=work, name="question", daemon=True).start()
        while not done.wait(GLANCE_S):
            self.refuse_loss()
        if errors:
            raise errors[0]
        return answers[0]

    def wait_for(self, work: "Work | None", tensor: "Tensor") -> None:
        """Until a reduction is done; on a card its stream waits instead.

        Raises:
            LostError: if one of the processes does not live.
            RuntimeError: of torch, likewise.
        """
        assert work is not None
        if tensor.is_cuda:
            work.wait()
            return
        while True:
            try:
                work.wait(timedelta(seconds=GLANCE_S))
            except RuntimeError:
                if work.is_completed():  # it failed, and did not only take longer
                    raise
                self.refuse_loss()
            else:
                return

    def _beat(self) -> None:
        """Speak and listen, until it is over or nobody can be reached."""
        keys = [self._key(rank) for rank in (range(1, self._size) if self._rank == 0 else range(1))]
        said = 0
        before: list[bytes] = [b""] * len(keys)
        heard_s = [time.monotonic()] * len(keys)
        while not self._stopped.wait(BEAT_S):
            said += 1
            try:
                self._store.set(self._key(self._rank), str(said))
                now = self._store.multi_get(keys)
                if self._store.check([FAILED]):
                    self._has_ended = True
                    self._is_told = self._store.get(FAILED) != str(self._rank).encode()
            except Exception:  # noqa: BLE001  the store is gone with its host, whatever torch calls that
                self._has_ended = True
                return
            now_s = time.monotonic()
            heard_s = [now_s if new != old else s for new, old, s in zip(now, before, heard_s, strict=True)]
            before, self._heard_s = now, min(heard_s)
            if self._rank == 0 and self.is_silent and not self._is_told:
                with suppress(Exception):
                    self._store.compare_set(FAILED, "", "0")  # those who hear only the first learn of it

    def _guard(self) -> None:
        """End this process where it cannot be told that another one is gone."""
        while not self._stopped.wait(GLANCE_S):
            if not self.is_lost:
                continue
            _abort_on_cards()
            if self._noticed.wait(DEAF_S if self.is_silent else ENDING_S):
                self._stopped.wait(ENDING_S)
            if not self._stopped.is_set():
                self._end()
            return

    def _end(self) -> None:
        is_told = self._is_told or self._noticed.is_set() or (self._launcher_tells and not self.is_silent)
        if self._speaks and not is_told:
            error = lost()
            show_cursor = "\x1b[?25h" if sys.stderr.isatty() else ""
            sys.stderr.write(f"{show_cursor}{say('error:')} {error.message}\n{say('hint:')} {error.hint}\n")
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)

    def _key(self, rank: int) -> str:
        return f"alive/{rank}"


def _abort_on_cards() -> None:
    """Let reductions end that wait on a card for who is gone; what they leave there is used by nobody."""
    import torch
    import torch.distributed as dist

    if torch.cuda.is_initialized() and dist.is_initialized():
        with suppress(Exception):
            dist.distributed_c10d._get_default_group()._get_backend(torch.device("cuda")).abort()  # noqa: SLF001


def leave_group() -> None:
    """Let the process end without waiting for reductions that will never be done, which torch would do."""
    import torch
    import torch.distributed as dist

    group = dist.distributed_c10d._get_default_group()  # noqa: SLF001
    for kept in (group, group._get_backend(torch.device("cpu"))):  # noqa: SLF001
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(kept))
