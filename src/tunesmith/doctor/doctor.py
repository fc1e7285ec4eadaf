"""The command `doctor`: collect the facts about this machine and run all checks on them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tunesmith.doctor.checks.environment import check_hub, check_packages, check_system, check_tools
from tunesmith.doctor.checks.gpu_health import check_driver, check_gpu_health
from tunesmith.doctor.checks.resources import check_model, check_resources
from tunesmith.doctor.checks.torch_build import check_arithmetic, check_torch
from tunesmith.doctor.collect import collect
from tunesmith.doctor.facts import Facts
from tunesmith.doctor.fixes import Check

CHECKS: tuple[Callable[[Facts], Iterator[Check]], ...] = (
    check_system,
    check_driver,
    check_torch,
    check_arithmetic,
    check_resources,
    check_gpu_health,
    check_tools,
    check_packages,
    check_hub,
    check_model,
)
"""In the order in which a person would look."""


@dataclass(frozen=True)
class MachineReport:
    """What `doctor` shows."""

    checks: tuple[Check, ...]

    @property
    def has_failed(self) -> bool:
        """Whether something does not work."""
        return any(check.status == "fail" for check in self.checks)

    @property
    def safe_commands(self) -> tuple[tuple[str, ...], ...]:
        """What `--fix` may run, each once, for what does not work or not well."""
        commands = (check.fix.command for check in self.checks if check.status != "ok")
        return tuple(dict.fromkeys(command for command in commands if command))

    def as_json(self) -> dict[str, Any]:
        """The keys of `tunesmith doctor --json`."""
        lines = [
            {"name": check.name, "status": check.status, "found": check.finding, "fix": check.fix.text}
            for check in self.checks
        ]
        return {"ok": not self.has_failed, "checks": lines}


def run_doctor(*, model: str | None = None, quick: bool = False) -> MachineReport:
    """Check this machine; takes seconds, or with `quick` less than one, and never hangs.

    Args:
        model: also check whether it can be trained here.
        quick: do not try torch, the tokenizer and the hub.
    """
    return run_checks(collect(model=model, quick=quick))


def run_checks(facts: Facts) -> MachineReport:
    """Check a machine that is here or was recorded."""
    return MachineReport(tuple(check for checks in CHECKS for check in checks(facts)))
