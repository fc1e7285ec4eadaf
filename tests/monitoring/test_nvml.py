"""GPUs by CUDA's numbers and by NVML's, with a fake of the driver's library."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from tunesmith.monitoring.nvml import handles_in_cuda_order
from tunesmith.planning.gpu_processes import query_gpu
from tunesmith.planning.hardware import GIB, hardware_from_driver


class Nvml:
    """A driver with three GPUs in the order of the bus: an A2000, a 4090, another 4090; the last may be divided."""

    class NVMLError(Exception):
        """What it raises."""

    NVML_CLOCK_SM = 1
    CORES = (3328, 16384, 16384)
    UUIDS = ("GPU-aa11", "GPU-bb22", "GPU-bc33")

    def __init__(self, *, is_divided: bool = False, tells_speed: bool = True) -> None:
        self.is_divided, self.tells_speed = is_divided, tells_speed

    def nvmlInit(self) -> None: ...
    def nvmlShutdown(self) -> None: ...

    def nvmlDeviceGetCount(self) -> int:
        return 3

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetUUID(self, handle: Any) -> bytes:
        return b"MIG-dd44" if handle == "instance" else self.UUIDS[handle].encode()

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Any:
        known: dict[str, Any] = dict(zip(self.UUIDS, range(3), strict=True)) | {"MIG-dd44": "instance"}
        if uuid not in known:
            raise self.NVMLError(uuid)
        return known[uuid]

    def nvmlDeviceGetNumGpuCores(self, handle: int) -> int:
        if not self.tells_speed:
            raise self.NVMLError
        return self.CORES[handle]

    def nvmlDeviceGetMaxClockInfo(self, _handle: int, _kind: int) -> int:
        return 2000

    def nvmlDeviceGetMigMode(self, handle: Any) -> tuple[int, int]:
        if handle == "instance":
            raise self.NVMLError
        return (int(self.is_divided and handle == 2), 0)

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: int, index: int) -> str:
        assert (handle, index) == (2, 0)
        return "instance"

    def nvmlDeviceGetMemoryInfo(self, handle: Any) -> SimpleNamespace:
        total = {0: 6, 1: 24, 2: 25, "instance": 5}[handle] * GIB
        return SimpleNamespace(total=total, free=total)

    def nvmlDeviceGetName(self, handle: Any) -> str:
        return "NVIDIA RTX A2000" if handle == 0 else "NVIDIA GeForce RTX 4090"

    def __getattr__(self, name: str) -> Any:
        def refuse(*_arguments: Any) -> None:
            raise self.NVMLError(name)

        return refuse


BUS = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
ORDERS: list[tuple[dict[str, str], list[Any]]] = [
    ({}, [1, 2, 0]),  # the fastest first, the others as on the bus
    (BUS, [0, 1, 2]),
    ({"CUDA_VISIBLE_DEVICES": "2,0"}, [0, 1]),
    ({**BUS, "CUDA_VISIBLE_DEVICES": "2,0"}, [2, 0]),
    ({**BUS, "CUDA_VISIBLE_DEVICES": " 1 , 7, 0"}, [1]),  # what comes after a wrong one is hidden
    ({**BUS, "CUDA_VISIBLE_DEVICES": ""}, []),
    ({**BUS, "CUDA_VISIBLE_DEVICES": "-1"}, []),
    ({**BUS, "CUDA_VISIBLE_DEVICES": "1,1"}, []),
    ({"CUDA_VISIBLE_DEVICES": "GPU-bc,GPU-AA11"}, [2, 0]),
    ({"CUDA_VISIBLE_DEVICES": "GPU-b"}, []),  # two begin so
    ({"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, []),
]


@pytest.mark.parametrize(("environment", "expected"), ORDERS)
def test_gpus_in_cudas_order(environment: dict[str, str], expected: list[Any]) -> None:
    """By speed or by bus, and only what CUDA_VISIBLE_DEVICES names."""
    assert handles_in_cuda_order(Nvml(), environment) == expected


def test_divided_gpus_and_silent_drivers(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA takes the first MIG instance of a GPU, or the one that is named; without speeds the bus decides."""
    assert handles_in_cuda_order(Nvml(is_divided=True), BUS) == [0, 1, "instance"]
    assert handles_in_cuda_order(Nvml(), {"CUDA_VISIBLE_DEVICES": "MIG-dd44,0"}) == ["instance", 1]
    assert handles_in_cuda_order(Nvml(), {"CUDA_VISIBLE_DEVICES": "MIG-ee55"}) == []
    assert handles_in_cuda_order(Nvml(tells_speed=False), {}) == [0, 1, 2]
    monkeypatch.setitem(sys.modules, "pynvml", Nvml())
    state = query_gpu("GPU-dd44")  # as torch's properties tell it of an instance
    assert state is not None
    assert state.total_bytes == 5 * GIB
    assert query_gpu("GPU-ee55") is None


def test_a_plan_without_torch_asks_about_the_gpu_that_torch_would_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """`--device auto` and `cuda:N` mean the same GPU as in training; a hidden one is not there."""
    monkeypatch.setitem(sys.modules, "pynvml", Nvml())
    for name in ("CUDA_DEVICE_ORDER", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)

    def planned(device: str) -> tuple[str, str, int] | None:
        hardware = hardware_from_driver(device)
        return hardware and (hardware.device, hardware.name, round(hardware.budget.value / GIB))

    assert planned("auto") == ("cuda:0", "NVIDIA GeForce RTX 4090", 23)
    assert planned("cuda") == planned("auto")
    assert planned("cuda:1") == ("cuda:1", "NVIDIA GeForce RTX 4090", 24)
    assert planned("cuda:2") == ("cuda:2", "NVIDIA RTX A2000", 5)
    assert planned("cuda:3") is None
    assert planned("cpu") is None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-aa")
    assert planned("auto") == ("cuda:0", "NVIDIA RTX A2000", 5)
    assert planned("cuda:1") is None
