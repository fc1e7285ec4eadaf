"""Stop and save requests: Ctrl-C and SIGTERM, --max-hours and --stop-at, and the dashboard.

The trainer polls one `StopController` before every step; all processes of a run stop, or save, after the same step.
"""

import enum
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from datetime import time as clock_time
from types import FrameType

from tunesmith.distributed.world import World
from tunesmith.errors import UserError
from tunesmith.run_dir import ACTIONS, SAVE, STOP, RunDir

CLOCK = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)")
POLL_S = 0.5
"""Between two looks at the run directory for requests of other processes."""


class StopRequest:
    """Whether the run was asked to end.

    A plain flag without a lock: a signal may arrive while the handler of another one sets it.
    """

    def __init__(self) -> None:
        self._is_set = False

    def __call__(self) -> bool:
        return self._is_set

    def set(self) -> None:
        """Request the end; safe from any thread and from a signal handler."""
        self._is_set = True


@contextmanager
def stop_on_signals(request: StopRequest) -> Iterator[None]:
    """Turn the first Ctrl-C or SIGTERM into a stop request; the second one acts as it always did.

    The handler does nothing else: it may interrupt anything, a callback or a write to the terminal included. Outside
    the main thread signals cannot be caught, and the request is only set by hand.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not set from Python

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        request.set()
        restore()

    for number in previous:
        signal.signal(number, on_signal)
    try:
        yield
    finally:
        restore()


@dataclass(frozen=True)
class Deadline:
    """A time at which a run saves and ends by itself, as after Ctrl-C.

    Attributes:
        at: local time.
        reason: the flag that set it, as it was typed.
    """

    at: datetime
    reason: str

    def has_passed(self) -> bool:
        """Whether it is time; by wall-clock time, which continues while a laptop sleeps."""
        return datetime.now().astimezone() >= self.at


def first_deadline(max_hours: float | None, stop_at: str | None, *, now: datetime) -> Deadline | None:
    """Return the earlier one of two deadlines; None if there is none.

    Args:
        max_hours: from now on.
        stop_at: HH:MM, the next time that clocks show it.
        now: with its time zone.

    Raises:
        UserError: if one of them is not valid.
    """
    deadlines = []
    if max_hours is not None:
        try:
            deadlines.append(Deadline(now + timedelta(hours=max_hours), f"--max-hours {max_hours:g}"))
        except (OverflowError, ValueError):
            raise UserError(
                "--max-hours {max_hours} is too long", hint="leave it out to train to the end", max_hours=max_hours
            ) from None
    if stop_at is not None:
        deadlines.append(Deadline(_next_time(stop_at, now), f"--stop-at {stop_at}"))
    return min(deadlines, key=lambda deadline: deadline.at, default=None)


def _next_time(stop_at: str, now: datetime) -> datetime:
    clock = CLOCK.fullmatch(stop_at.strip())
    if clock is None:
        raise UserError("--stop-at {stop_at} is not a time of day", hint="write it as --stop-at 07:00", stop_at=stop_at)
    wall = clock_time(int(clock[1]), int(clock[2]))
    today = datetime.combine(now.date(), wall).astimezone()  # with the zone of that very time
    return today if today > now else datetime.combine(now.date() + timedelta(days=1), wall).astimezone()


class ControlFiles:
    """Requests that other processes leave in a run directory; looked for twice a second at most.

    Args:
        run: the run of this process.
    """

    def __init__(self, run: RunDir) -> None:
        self._run = run
        self._seen: set[str] = set()
        self._looked_s = float("-inf")

    def clear(self) -> None:
        """Drop requests to an earlier process."""
        self._seen.clear()
        for action in ACTIONS:
            self._run.clear_action(action)

    def take(self, action: str) -> bool:
        """Whether an action is requested; it is not any more after that."""
        now_s = time.monotonic()
        if now_s - self._looked_s >= POLL_S:
            self._looked_s = now_s
            self._seen.update(self._run.pending_actions())
        if action not in self._seen:
            return False
        self._seen.discard(action)
        self._run.clear_action(action)
        return True


class StopLevel(enum.IntEnum):
    """How urgently a run saves or ends; of several requests the highest counts."""

    NONE = 0
    SAVE = 1
    DEADLINE = 2
    REQUESTED = 3


@dataclass(frozen=True)
class StopReason:
    """Why a run ends before its last step: a deadline's flag, or a request of the user."""

    text: str
    by_request: bool


class StopController:
    """Everything that can stop a run, or make it save, in one place.

    Args:
        run: where other processes leave requests.
        requested: whether this process was asked to stop.
        deadline: when to stop in any case.
        world: processes that train together; the main process reads the requests.

    Attributes:
        save_requested: whether a checkpoint is due after the current step.
    """

    def __init__(self, run: RunDir, requested: Callable[[], bool], deadline: Deadline | None, world: World) -> None:
        self._files = ControlFiles(run)
        self._requested = requested
        self._deadline = deadline
        self._world = world
        self.save_requested = False

    def clear(self) -> None:
        """Drop requests to an earlier process of the run."""
        self._files.clear()

    def poll(self) -> StopReason | None:
        """Return why the run ends now, or None; all processes agree on it."""
        level = StopLevel.SAVE if self._world.is_main_process and self._files.take(SAVE) else StopLevel.NONE
        level = StopLevel.DEADLINE if self._deadline and self._deadline.has_passed() else level
        level = (
            StopLevel.REQUESTED
            if self._requested() or (self._world.is_main_process and self._files.take(STOP))
            else level
        )
        level = StopLevel(self._world.all_reduce_max(level))
        self.save_requested = level is StopLevel.SAVE
        if level is StopLevel.DEADLINE and self._deadline:
            return StopReason(self._deadline.reason, by_request=False)
        return StopReason("the user", by_request=True) if level > StopLevel.SAVE else None
