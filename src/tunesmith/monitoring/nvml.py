"""GPUs through NVIDIA's driver library (NVML), without torch: their order, utilization, and energy.

NVML numbers by place on the PCI bus. CUDA puts the fastest first, unless CUDA_DEVICE_ORDER says PCI_BUS_ID, and shows a
process only what CUDA_VISIBLE_DEVICES names: numbers in CUDA's order, beginnings of UUIDs, or MIG instances.

Reference: CUDA C++ Programming Guide, "CUDA Environment Variables".
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

VISIBLE = "CUDA_VISIBLE_DEVICES"
ORDER = "CUDA_DEVICE_ORDER"
BY_BUS = "PCI_BUS_ID"
UUID_KINDS = ("GPU-", "MIG-")


def handle_of_uuid(nvml: Any, uuid: str) -> Any:  # noqa: ANN401  the driver's module has no types
    """The handle of a GPU, or of a MIG instance: torch identifies both by a UUID of the same form.

    Args:
        nvml: the initialized module.
        uuid: "GPU-...", as NVML writes it.

    Raises:
        NVMLError: if the driver knows no such device.
    """
    bare = uuid.removeprefix(UUID_KINDS[0])
    try:
        return nvml.nvmlDeviceGetHandleByUUID(UUID_KINDS[0] + bare)
    except nvml.NVMLError:
        return nvml.nvmlDeviceGetHandleByUUID(UUID_KINDS[1] + bare)


def handles_in_cuda_order(nvml: Any, environment: Mapping[str, str] = os.environ) -> list[Any]:  # noqa: ANN401
    """The handles of the devices that CUDA shows a process, at the indices that it gives them.

    Which GPU CUDA ranks as the fastest it does not tell before it is started: computed here from cores and clock.

    Args:
        nvml: the initialized module.
        environment: of the process.
    """
    handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
    if environment.get(ORDER) != BY_BUS and len(handles) > 1:
        handles.sort(key=lambda handle: -_operations_per_s(nvml, handle))
    named = environment.get(VISIBLE)
    if named is None:
        return [_first_instance(nvml, handle) for handle in handles]
    visible: list[Any] = []
    seen: set[str] = set()
    for entry in map(str.strip, named.split(",")):
        handle = _named(nvml, handles, entry)
        if handle is None:
            break  # what comes after an entry that names nothing is hidden, too
        uuid = _uuid(nvml, handle)
        if uuid in seen:
            return []  # CUDA refuses to start
        seen.add(uuid)
        visible.append(_first_instance(nvml, handle))
    return visible


def _named(nvml: Any, handles: list[Any], entry: str) -> Any:  # noqa: ANN401
    """The device of one entry of CUDA_VISIBLE_DEVICES; None where there is none."""
    if entry.isdecimal():
        return handles[int(entry)] if int(entry) < len(handles) else None
    if entry.startswith(UUID_KINDS[1]):
        try:
            return nvml.nvmlDeviceGetHandleByUUID(entry)
        except nvml.NVMLError:
            return None
    fitting = [handle for handle in handles if _uuid(nvml, handle).lower().startswith(entry.lower())]
    return fitting[0] if entry.startswith(UUID_KINDS[0]) and len(fitting) == 1 else None


def _uuid(nvml: Any, handle: Any) -> str:  # noqa: ANN401
    uuid = nvml.nvmlDeviceGetUUID(handle)
    return uuid if isinstance(uuid, str) else str(uuid.decode())


def _first_instance(nvml: Any, handle: Any) -> Any:  # noqa: ANN401
    """The instance of a divided GPU (MIG) that CUDA uses; else the GPU itself."""
    try:
        is_divided, _ = nvml.nvmlDeviceGetMigMode(handle)
        return nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, 0) if is_divided else handle
    except nvml.NVMLError:
        return handle


def _operations_per_s(nvml: Any, handle: Any) -> int:  # noqa: ANN401
    """Cores times clock, in MHz; 0 where the driver does not tell."""
    try:
        cores = nvml.nvmlDeviceGetNumGpuCores(handle)
        return int(cores * nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM))
    except nvml.NVMLError:
        return 0


@dataclass(frozen=True)
class GPUReading:
    """One sample of a GPU; None is what the driver does not tell.

    Attributes:
        memory_used_bytes: by all programs.
        energy_joules: since the driver was loaded.
    """

    utilization_percent: float | None = None
    memory_used_bytes: int | None = None
    temperature_celsius: float | None = None
    power_watts: float | None = None
    energy_joules: float | None = None


class GPUMonitor:
    """Samples one GPU, as long as the driver library is open."""

    def __init__(self, nvml: Any, handle: Any) -> None:  # noqa: ANN401  the driver's module has no types
        self._nvml, self._handle = nvml, handle

    @classmethod
    def open(cls, uuid: str) -> Self | None:
        """The monitor of a GPU by its UUID ("GPU-..."); None where no driver knows it."""
        try:
            import pynvml
        except ImportError:
            return None
        try:
            pynvml.nvmlInit()
        except (pynvml.NVMLError, OSError):
            return None
        try:
            return cls(pynvml, handle_of_uuid(pynvml, uuid))
        except pynvml.NVMLError:
            pynvml.nvmlShutdown()
            return None

    def read(self) -> GPUReading:
        """Sample it."""
        nvml = self._nvml
        utilization = self._query(nvml.nvmlDeviceGetUtilizationRates)
        memory = self._query(nvml.nvmlDeviceGetMemoryInfo)
        milliwatts = self._query(nvml.nvmlDeviceGetPowerUsage)
        millijoules = self._query(nvml.nvmlDeviceGetTotalEnergyConsumption)
        celsius = self._query(nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU)
        return GPUReading(
            utilization_percent=None if utilization is None else float(utilization.gpu),
            memory_used_bytes=None if memory is None else int(memory.used),
            temperature_celsius=None if celsius is None else float(celsius),
            power_watts=None if milliwatts is None else milliwatts / 1e3,
            energy_joules=None if millijoules is None else millijoules / 1e3,
        )

    def close(self) -> None:
        """Close the driver library."""
        self._nvml.nvmlShutdown()

    def _query(self, function: Any, *arguments: Any) -> Any:  # noqa: ANN401
        try:
            return function(self._handle, *arguments)
        except self._nvml.NVMLError:
            return None


class GPUEnergyCounter:
    """Energy of a GPU by the driver's own counter; where it has none (before Volta), by power times time."""

    def __init__(self) -> None:
        self._first_joules: float | None = None
        self._summed_joules = 0.0
        self._last_s: float | None = None

    def add(self, gpu: GPUReading, now_s: float) -> float | None:
        """Joules from the first sample to this one; None where the driver does not tell."""
        passed_s = 0.0 if self._last_s is None else now_s - self._last_s
        self._last_s = now_s
        if gpu.energy_joules is not None:
            if self._first_joules is None:
                self._first_joules = gpu.energy_joules
            return gpu.energy_joules - self._first_joules
        if gpu.power_watts is None:
            return None
        self._summed_joules += gpu.power_watts * passed_s
        return self._summed_joules
