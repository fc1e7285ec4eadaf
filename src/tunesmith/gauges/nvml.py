"""GPUs as NVIDIA's driver library (NVML) numbers them, and as CUDA does: the two differ.

NVML numbers by place on the PCI bus. CUDA puts the fastest first, unless CUDA_DEVICE_ORDER says PCI_BUS_ID, and shows a
process only what CUDA_VISIBLE_DEVICES names: numbers in CUDA's order, beginnings of UUIDs, or MIG instances.

Reference: CUDA C++ Programming Guide, "CUDA Environment Variables".
"""

import os
from collections.abc import Mapping
from typing import Any

VISIBLE = "CUDA_VISIBLE_DEVICES"
ORDER = "CUDA_DEVICE_ORDER"
BY_BUS = "PCI_BUS_ID"
UUID_KINDS = ("GPU-", "MIG-")


def handle_of_uuid(nvml: Any, uuid: str) -> Any:  # noqa: ANN401  the driver's module has no types
    """The handle of a GPU, or of a MIG instance: torch tells both by a UUID of the same form.

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

    Which of several different GPUs CUDA takes for the fastest is computed here from cores and clock, as CUDA does not
    tell before it is started.

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
    """What one entry of CUDA_VISIBLE_DEVICES names; None where it is nothing."""
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
    """Of a GPU that is divided (MIG), the one instance that CUDA takes; else the GPU itself."""
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
