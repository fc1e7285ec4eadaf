"""What is read of a machine: a driver and counters with the answers of the real ones, some of them missing."""

import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from tunesmith.monitoring.nvml import GPUEnergyCounter, GPUMonitor, GPUReading
from tunesmith.monitoring.system_monitor import CPUEnergyCounter, SystemMonitor, SystemReading


class NVMLError(Exception):
    """As pynvml's."""


def driver(**overrides: Any) -> SimpleNamespace:
    """A module with the functions of pynvml that are asked; an override of None is a question it refuses."""

    def refuses(*_arguments: Any) -> None:
        raise NVMLError

    answers = {
        "nvmlDeviceGetUtilizationRates": lambda _handle: SimpleNamespace(gpu=87, memory=40),
        "nvmlDeviceGetMemoryInfo": lambda _handle: SimpleNamespace(total=12 << 30, used=3 << 30, free=9 << 30),
        "nvmlDeviceGetPowerUsage": lambda _handle: 212_500,  # mW
        "nvmlDeviceGetTotalEnergyConsumption": lambda _handle: 5_000_000,  # mJ
        "nvmlDeviceGetTemperature": lambda _handle, sensor: 71 if sensor == 0 else 0,
        "nvmlDeviceGetHandleByUUID": {"GPU-1": "handle"}.__getitem__,
        **overrides,
    }
    module = SimpleNamespace(NVMLError=NVMLError, NVML_TEMPERATURE_GPU=0, held=0)

    def count(change: int) -> None:
        module.held += change

    module.nvmlInit, module.nvmlShutdown = (lambda: count(1)), (lambda: count(-1))
    for name, answer in answers.items():
        setattr(module, name, answer or refuses)
    return module


def test_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """All five values, in units a person knows, and the driver library is closed."""
    module = driver()
    monkeypatch.setitem(sys.modules, "pynvml", module)
    monitor = GPUMonitor.open("GPU-1")
    assert monitor is not None
    assert monitor.read() == GPUReading(87.0, 3 << 30, 71.0, 212.5, 5000.0)
    monitor.close()
    assert module.held == 0


def test_a_driver_that_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it refuses is None, the rest is there; a GPU that it does not know has no monitor."""
    module = driver(
        nvmlDeviceGetPowerUsage=None, nvmlDeviceGetTotalEnergyConsumption=None, nvmlDeviceGetTemperature=None
    )
    monkeypatch.setitem(sys.modules, "pynvml", module)
    monitor = GPUMonitor.open("GPU-1")
    assert monitor is not None
    assert monitor.read() == GPUReading(87.0, 3 << 30, None, None, None)
    monitor.close()
    monkeypatch.setitem(sys.modules, "pynvml", driver(nvmlDeviceGetHandleByUUID=None))
    assert GPUMonitor.open("GPU-1") is None


def test_energy_of_a_gpu() -> None:
    """By its counter; without one by power times time; unknown without either."""
    counted, summed, unknown = GPUEnergyCounter(), GPUEnergyCounter(), GPUEnergyCounter()
    readings = [(0.0, 1000.0), (2.0, 1400.0), (4.0, 1900.0)]
    assert [counted.add(GPUReading(0, 0, 0, 1.0, joules), at) for at, joules in readings] == [0.0, 400.0, 900.0]
    assert [summed.add(GPUReading(0, 0, 0, 200.0, None), at) for at, _ in readings] == [0.0, 400.0, 800.0]
    assert unknown.add(GPUReading(0, 0, 0, None, None), 1.0) is None


def test_energy_of_cpus(tmp_path: Path) -> None:
    """Two sockets, parts of them not counted again, a counter that began again."""
    counters = {"intel-rapl:0": 1_000_000, "intel-rapl:1": 9_000_000, "intel-rapl:0:0": 500_000}
    for name, microjoules in counters.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text(f"{microjoules}\n")
        (tmp_path / name / "max_energy_range_uj").write_text("10000000\n")
    energy = CPUEnergyCounter(tmp_path)
    assert energy.read_joules() == 0.0
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("3500000\n")
    (tmp_path / "intel-rapl:1" / "energy_uj").write_text("500000\n")  # 1 J to its end, half of one after it
    assert energy.read_joules() == pytest.approx(2.5 + 1.5)
    assert CPUEnergyCounter(tmp_path / "nowhere").read_joules() is None


def latest_of(monitor: SystemMonitor) -> SystemReading:
    """The first reading that comes."""
    for _ in range(2000):
        if latest := monitor.latest():
            return latest
        time.sleep(0.005)
    raise AssertionError("no reading in ten seconds")


def test_the_monitor_samples_next_to_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reading comes by itself, and each is given once; with a GPU it contains its values."""
    with SystemMonitor(interval_s=0.01) as monitor:
        reading = latest_of(monitor)
    assert reading.host_memory_bytes == psutil.virtual_memory().total
    assert 0 < reading.process_memory_bytes < reading.host_memory_bytes
    assert reading.gpu_utilization_percent is None
    monitor.latest()
    assert monitor.latest() is None
    energies = iter(range(0, 10_000_000, 1000))
    monkeypatch.setitem(
        sys.modules, "pynvml", driver(nvmlDeviceGetTotalEnergyConsumption=lambda _handle: next(energies))
    )
    with SystemMonitor("GPU-1", interval_s=0.01) as monitor:
        reading = latest_of(monitor)
    assert (reading.gpu_utilization_percent, reading.gpu_power_watts) == (87.0, 212.5)
    assert reading.energy_joules is not None
    assert reading.energy_joules >= 1.0


def test_a_machine_that_does_not_tell_ends_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The monitor ends, and nothing is raised."""

    def refuses() -> None:
        raise psutil.AccessDenied

    monkeypatch.setattr(psutil, "virtual_memory", refuses)
    with SystemMonitor(interval_s=0.001) as monitor:
        time.sleep(0.02)
    assert monitor.latest() is None
