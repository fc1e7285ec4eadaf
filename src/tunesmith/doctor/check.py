"""One line of what `doctor` says."""

from dataclasses import dataclass, field
from typing import Literal

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Remedy:
    """What mends it.

    Attributes:
        text: what to do, in the person's language, with the exact command for this system where there is one.
        command: what `--fix --yes` runs; empty where a person has to do it.
    """

    text: str
    command: tuple[str, ...] = ()


NOTHING = Remedy("")


@dataclass(frozen=True)
class Check:
    """A verdict.

    Attributes:
        name: of what was checked.
        status: ok; warn where things work, but not well or not for long; fail where they do not.
        found: what was found, in the person's language.
        remedy: what mends it.
    """

    name: str
    status: Status
    found: str
    remedy: Remedy = field(default=NOTHING)
