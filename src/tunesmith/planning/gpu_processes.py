"""Other processes on a GPU, as its driver reports them; without torch.

Everything here is optional: without a driver, or where it does not tell, the list is empty.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil

from tunesmith.i18n import say
from tunesmith.monitoring.nvml import handle_of_uuid, handles_in_cuda_order


@dataclass(frozen=True)
class GPUProcess:
    """A process that uses memory of the GPU.

    Attributes:
        pid: its number.
        name: its program.
        bytes: what it uses; None where the driver does not say (Windows).
    """

    pid: int
    name: str
    bytes: int | None


@dataclass(frozen=True)
class GPUState:
    """State of a GPU as its driver reports it.

    Attributes:
        name: as sold.
        total_bytes: built in.
        free_bytes: now.
        has_display: whether a screen is attached.
        neighbors: other processes, the largest first.
    """

    name: str
    total_bytes: int
    free_bytes: int
    has_display: bool
    neighbors: tuple[GPUProcess, ...]


def query_gpu(identity: int | str) -> GPUState | None:
    """Ask the driver of a GPU by its number there or its UUID ("GPU-..."); None where there is none."""
    if isinstance(identity, str):
        return _state(lambda nvml: handle_of_uuid(nvml, identity))
    return _state(lambda nvml: nvml.nvmlDeviceGetHandleByIndex(identity))


def query_cuda_gpu(index: int) -> GPUState | None:
    """The same of the GPU that CUDA, and so torch, calls cuda:index; None where it would see none."""
    return _state(lambda nvml: dict(enumerate(handles_in_cuda_order(nvml))).get(index))


def _state(handle_of: Callable[[Any], Any]) -> GPUState | None:
    with _driver() as nvml:
        if nvml is None:
            return None
        try:
            handle = handle_of(nvml)
            if handle is None:
                return None
            memory = nvml.nvmlDeviceGetMemoryInfo(handle)
            name = nvml.nvmlDeviceGetName(handle)
        except nvml.NVMLError:
            return None
        return GPUState(
            name=name if isinstance(name, str) else name.decode(),
            total_bytes=int(memory.total),
            free_bytes=int(memory.free),
            has_display=_has_display(nvml, handle),
            neighbors=tuple(_neighbors(nvml, handle)),
        )


@contextmanager
def _driver():  # type: ignore[no-untyped-def]  # noqa: ANN202  the module, which has no types, or None
    try:
        import pynvml
    except ImportError:
        yield None
        return
    try:
        pynvml.nvmlInit()
    except (pynvml.NVMLError, OSError):
        yield None
        return
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


def _has_display(nvml, handle) -> bool:  # type: ignore[no-untyped-def]  # noqa: ANN001
    try:
        return bool(nvml.nvmlDeviceGetDisplayActive(handle))
    except nvml.NVMLError:
        return False


def _neighbors(nvml, handle) -> Iterator[GPUProcess]:  # type: ignore[no-untyped-def]  # noqa: ANN001
    held: dict[int, int | None] = {}
    for ask in (nvml.nvmlDeviceGetComputeRunningProcesses, nvml.nvmlDeviceGetGraphicsRunningProcesses):
        try:
            held |= {process.pid: process.usedGpuMemory for process in ask(handle)}
        except nvml.NVMLError:
            continue
    held.pop(psutil.Process().pid, None)
    for pid, used in sorted(held.items(), key=lambda item: -(item[1] or 0)):
        try:
            name = psutil.Process(pid).name()
        except psutil.Error:
            name = say("a process of another user")
        yield GPUProcess(pid, name, used)
