"""Energy of the processor, where the system lets one read it: Linux's powercap counters (RAPL).

Reference: the kernel's Documentation/power/powercap/powercap.rst. Since 2020 most distributions show them to root only;
then nothing is known, and nothing is claimed.
"""

from pathlib import Path

POWERCAP = Path("/sys/class/powercap")
PACKAGES = "intel-rapl:[0-9]*"
"""Whole processors; AMD's have the same name. Their parts have a second number, behind another colon."""


class ProcessorEnergy:
    """Adds up what all processors of the machine draw, from its first reading on.

    Args:
        folder: of the counters.
    """

    def __init__(self, folder: Path = POWERCAP) -> None:
        self._joules = 0.0
        self._last: dict[Path, int] = {}
        for package in sorted(folder.glob(PACKAGES)):
            count = _count(package / "energy_uj")
            if package.name.count(":") == 1 and count is not None:
                self._last[package] = count

    def read_joules(self) -> float | None:
        """Drawn since this gauge was made; None where no counter can be read."""
        for package, before in self._last.items():
            now = _count(package / "energy_uj")
            if now is None:
                continue
            # a counter that reached its largest value began anew
            passed = (
                now - before if now >= before else now - before + (_count(package / "max_energy_range_uj") or before)
            )
            self._joules += passed / 1e6
            self._last[package] = now
        return self._joules if self._last else None


def _count(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
