"""All checks, in the order in which a person would look."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tunesmith.doctor.check import Check
from tunesmith.doctor.checks.arithmetic import check_arithmetic
from tunesmith.doctor.checks.card_health import check_card_health
from tunesmith.doctor.checks.driver import check_driver
from tunesmith.doctor.checks.model import check_model
from tunesmith.doctor.checks.room import check_room
from tunesmith.doctor.checks.system import check_system
from tunesmith.doctor.checks.tools import check_hub, check_packages, check_tools
from tunesmith.doctor.checks.torch_build import check_torch
from tunesmith.doctor.facts import Facts

CHECKS: tuple[Callable[[Facts], Iterator[Check]], ...] = (
    check_system,
    check_driver,
    check_torch,
    check_arithmetic,
    check_room,
    check_card_health,
    check_tools,
    check_packages,
    check_hub,
    check_model,
)


@dataclass(frozen=True)
class Verdict:
    """What `doctor` says.

    Attributes:
        checks: its lines.
    """

    checks: tuple[Check, ...]

    @property
    def has_failed(self) -> bool:
        """Whether something does not work."""
        return any(check.status == "fail" for check in self.checks)

    @property
    def safe_commands(self) -> tuple[tuple[str, ...], ...]:
        """What `--fix` may run, each once, for what does not work or not well."""
        commands = (check.remedy.command for check in self.checks if check.status != "ok")
        return tuple(dict.fromkeys(command for command in commands if command))

    def as_json(self) -> dict[str, Any]:
        """The keys of `tunesmith doctor --json`."""
        lines = [
            {"name": check.name, "status": check.status, "found": check.found, "fix": check.remedy.text}
            for check in self.checks
        ]
        return {"ok": not self.has_failed, "checks": lines}


def judge(facts: Facts) -> Verdict:
    """Verdicts on a machine that is here or was recorded."""
    return Verdict(tuple(check for checks in CHECKS for check in checks(facts)))
