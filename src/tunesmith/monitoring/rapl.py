"""Energy of the CPU, where the system lets one read it: Linux's powercap counters (RAPL).

Reference: the kernel's Documentation/power/powercap/powercap.rst. Since 2020 most distributions show them to root only;
then the energy is unknown.
"""

from pathlib import Path

POWERCAP = Path("/sys/class/powercap")
PACKAGES = "intel-rapl:[0-9]*"
"""Whole CPUs, AMD's as well; their parts have a second number after another colon."""


class CPUEnergyCounter:
    """Sums the energy of all CPUs of the machine from its creation on; `folder` contains the counters."""

    def __init__(self, folder: Path = POWERCAP) -> None:
        self._joules = 0.0
        self._last: dict[Path, int] = {}
        for package in sorted(folder.glob(PACKAGES)):
            count = _count(package / "energy_uj")
            if package.name.count(":") == 1 and count is not None:
                self._last[package] = count

    def read_joules(self) -> float | None:
        """Energy since the creation; None where no counter can be read."""
        for package, before in self._last.items():
            now = _count(package / "energy_uj")
            if now is None:
                continue
            passed = now - before
            if passed < 0:  # the counter reached its largest value and began again
                passed += _count(package / "max_energy_range_uj") or before
            self._joules += passed / 1e6
            self._last[package] = now
        return self._joules if self._last else None


def _count(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
