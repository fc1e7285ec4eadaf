"""Sample the machine every few seconds in a thread, so that training never waits for a driver.

The energy is that of the GPU where the run computes on one, else that of the CPUs: of the whole device, including what
other programs use.
"""

import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from tunesmith.monitoring.nvml import GPUEnergyCounter, GPUMonitor, GPUReading

INTERVAL_S = 2.0
POWERCAP = Path("/sys/class/powercap")
PACKAGES = "intel-rapl:[0-9]*"
"""Whole CPUs, AMD's as well; their parts have a second number after another colon."""


@dataclass(frozen=True)
class SystemReading:
    """One sample of the machine.

    Attributes:
        cpu_percent: of all cores, since the sample before.
        process_memory_bytes: resident, of this process.
        host_memory_used_bytes: by all programs, as is `gpu_memory_used_bytes`.
        gpu_utilization_percent: and the other values of the GPU: None without one.
        energy_joules: of the device that computes, since the monitor was started; None where it is unknown.
    """

    cpu_percent: float
    process_memory_bytes: int
    host_memory_used_bytes: int
    host_memory_bytes: int
    gpu_utilization_percent: float | None
    gpu_memory_used_bytes: int | None
    gpu_temperature_celsius: float | None
    gpu_power_watts: float | None
    energy_joules: float | None


class SystemMonitor:
    """Samples the machine until the block ends.

    Args:
        gpu: UUID of the GPU that computes; empty where the CPU does.
        interval_s: between two samples.
    """

    def __init__(self, gpu: str = "", *, interval_s: float = INTERVAL_S) -> None:
        self._gpu, self._interval_s = gpu, interval_s
        self._lock = threading.Lock()
        self._latest: SystemReading | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="system monitor", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def latest(self) -> SystemReading | None:
        """The latest sample, if there is one since the last call."""
        with self._lock:
            latest, self._latest = self._latest, None
        return latest

    def _run(self) -> None:
        monitor = GPUMonitor.open(self._gpu) if self._gpu else None
        cpu_energy, gpu_energy = CPUEnergyCounter(), GPUEnergyCounter()
        if monitor:
            gpu_energy.add(monitor.read(), time.monotonic())
        psutil.cpu_percent()  # measures since the call before; the first one has none
        try:
            while not self._ended.wait(self._interval_s):
                gpu = monitor.read() if monitor else GPUReading()
                joules = gpu_energy.add(gpu, time.monotonic()) if monitor else cpu_energy.read_joules()
                reading = _reading(gpu, joules)
                with self._lock:
                    self._latest = reading
        except (OSError, psutil.Error):
            return  # training works without samples
        finally:
            if monitor:
                monitor.close()


def _reading(gpu: GPUReading, joules: float | None) -> SystemReading:
    memory = psutil.virtual_memory()
    return SystemReading(
        cpu_percent=psutil.cpu_percent(),
        process_memory_bytes=psutil.Process().memory_info().rss,
        host_memory_used_bytes=memory.total - memory.available,
        host_memory_bytes=memory.total,
        gpu_utilization_percent=gpu.utilization_percent,
        gpu_memory_used_bytes=gpu.memory_used_bytes,
        gpu_temperature_celsius=gpu.temperature_celsius,
        gpu_power_watts=gpu.power_watts,
        energy_joules=joules,
    )


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
