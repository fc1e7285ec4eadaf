"""The operating system and Python."""

from collections.abc import Iterator

from tunesmith.doctor.check import Check, Remedy
from tunesmith.doctor.facts import Facts
from tunesmith.messages.catalogue import say

LEAST_PYTHON = (3, 11)
KINDS = {"linux": "Linux", "windows": "Windows", "wsl": "WSL (Linux inside of Windows)", "macos": "macOS"}


def check_system(facts: Facts) -> Iterator[Check]:
    """What runs here."""
    system = facts.system
    found = f"{KINDS[system.kind]}: {system.name}"
    if system.kind == "macos":
        yield Check("system", "warn", say("{found}: computes on the processor only", found=found))
    else:
        yield Check("system", "ok", found)
    yield _python(facts)


def _python(facts: Facts) -> Check:
    system = facts.system
    found = f"{system.python}, {system.executable}"
    if system.python_bits != 64:
        return Check(
            "python",
            "fail",
            say("{found} has 32 bits, and there is no torch for it", found=found),
            Remedy(say("install the 64-bit Python from https://www.python.org/downloads/ and make a new environment")),
        )
    if tuple(map(int, system.python.split(".")[:2])) < LEAST_PYTHON:
        return Check(
            "python",
            "fail",
            say("{found} is older than 3.11", found=found),
            Remedy(say("make an environment with a newer one: {command}", command="uv venv --python 3.12")),
        )
    if not system.is_isolated:
        command = r"py -m venv .venv; .venv\Scripts\activate" if system.kind == "windows" else ""
        return Check(
            "python",
            "warn",
            say("{found} is the system's own, without an environment", found=found),
            Remedy(
                say(
                    "make one, and install tunesmith there: {command}",
                    command=command or "python3 -m venv .venv && source .venv/bin/activate",
                )
            ),
        )
    return Check("python", "ok", found)
