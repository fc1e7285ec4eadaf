"""Times at which a run is to end by itself: --max-hours and --stop-at. It saves and can be resumed, as after Ctrl-C."""

import re
from dataclasses import dataclass
from datetime import datetime, time, timedelta

from tunesmith.errors import UserError

CLOCK = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)")


@dataclass(frozen=True)
class Deadline:
    """When to end.

    Attributes:
        at: local time.
        reason: in the user's own words.
    """

    at: datetime
    reason: str

    def has_passed(self) -> bool:
        """Whether it is time; by the clock on the wall, which goes on while a laptop sleeps."""
        return datetime.now().astimezone() >= self.at


def first_deadline(max_hours: float | None, stop_at: str | None, *, now: datetime) -> Deadline | None:
    """The earlier of two wishes; None if there is none.

    Args:
        max_hours: from now on.
        stop_at: HH:MM, the next time that clocks show it.
        now: with its time zone.

    Raises:
        UserError: if one of them cannot be meant.
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
        deadlines.append(Deadline(_next(stop_at, now), f"--stop-at {stop_at}"))
    return min(deadlines, key=lambda deadline: deadline.at, default=None)


def _next(stop_at: str, now: datetime) -> datetime:
    clock = CLOCK.fullmatch(stop_at.strip())
    if clock is None:
        raise UserError(
            "--stop-at {stop_at} is no time of the day", hint="write it as --stop-at 07:00", stop_at=stop_at
        )
    wall = time(int(clock[1]), int(clock[2]))
    today = datetime.combine(now.date(), wall).astimezone()  # with the zone of that very time
    return today if today > now else datetime.combine(now.date() + timedelta(days=1), wall).astimezone()
