"""What the machine is and which arithmetic it does natively, each fact with its reason.

Imports torch inside functions: the command line must start fast and work when torch is broken.
"""

import ctypes
import os
import platform
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from tunesmith import __version__
from tunesmith.errors import UserError
from tunesmith.i18n import say

if TYPE_CHECKING:
    import torch

NATIVE_BF16_CAPABILITY = (8, 0)
"""CUDA compute capability from which tensor cores multiply bf16 (Ampere; Ada is 8.9, Hopper 9.0)."""
NATIVE_FP16_CAPABILITY = (7, 0)
"""And that from which they multiply fp16 (Volta); before, fp16 is not faster than fp32, and overflows."""


T = TypeVar("T")


@dataclass(frozen=True)
class Decision(Generic[T]):
    """A decision and, in a few words, why."""

    value: T
    reason: str


def resolve_device(asked: str) -> "Decision[torch.device]":
    """Resolve `--device`; a GPU always with its index, so that every thread means the same one.

    Raises:
        UserError: if the asked device is none or not here.
    """
    import torch

    if asked == "auto":
        if torch.cuda.is_available():
            return Decision(torch.device("cuda", 0), say("found {name}", name=torch.cuda.get_device_name(0)))
        return Decision(torch.device("cpu"), say("torch sees no CUDA device"))
    try:
        device = torch.device(asked)
    except RuntimeError:
        raise UserError(
            "--device {asked} is not a device", hint="write auto, cpu, cuda or cuda:N", asked=asked
        ) from None
    if device.type not in {"cpu", "cuda"}:
        raise UserError("--device {asked} is not supported", hint="write auto, cpu, cuda or cuda:N", asked=asked)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            "--device {asked}: torch {version} sees {n_devices} CUDA devices",
            hint="install a CUDA build of torch and check nvidia-smi, or use --device cpu",
            asked=asked,
            version=torch.__version__,
            n_devices=torch.cuda.device_count(),
        )
    if device == torch.device("cuda"):
        device = torch.device("cuda", torch.cuda.current_device())
    return Decision(device, say("asked for"))


def use_device(device: "torch.device") -> None:
    """Make a GPU the current one of this thread; on a CPU nothing happens.

    What names no device goes to the current GPU: kernels that Triton launches, new streams and events, pinned memory.
    Every thread has a current GPU of its own, at first the one with index 0.
    """
    if device.type != "cuda":
        return
    import torch

    torch.cuda.set_device(device)
    configure_gpu_allocator(device)


def resolve_dtype(asked: str, device: "torch.device") -> "Decision[torch.dtype]":
    """Resolve `--precision` to the dtype of the arithmetic; master weights are fp32 in any case.

    Raises:
        UserError: for fp16 on a CPU, which has no fp16 arithmetic to gain from.
    """
    import torch

    if asked == "fp16" and device.type == "cpu":
        raise UserError("--precision fp16 needs a CUDA device", hint="use --precision bf16 or fp32 on a CPU")
    if asked != "auto":
        named = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
        return Decision(named[asked], say("asked for"))
    if device.type == "cuda":
        native = native_dtype(torch.cuda.get_device_capability(device))
        return Decision(getattr(torch, native.value), native.reason)
    if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported():  # noqa: SLF001  no public name
        return Decision(torch.bfloat16, say("this CPU multiplies bf16 natively (AVX512-BF16 or AMX)"))
    return Decision(torch.float32, say("this CPU has no native bf16 arithmetic"))


def gpu_uuid(device: "torch.device") -> str:
    """The UUID by which the driver knows a GPU, "GPU-..."; empty for a CPU."""
    import torch

    return f"GPU-{torch.cuda.get_device_properties(device).uuid}" if device.type == "cuda" else ""


def native_dtype(capability: tuple[int, int]) -> Decision[str]:
    """The dtype that a GPU of this compute capability multiplies fastest with the least risk, under torch's name."""
    shown = f"{capability[0]}.{capability[1]}"
    if capability >= NATIVE_BF16_CAPABILITY:
        return Decision("bfloat16", say("compute capability {shown} multiplies bf16 natively", shown=shown))
    if capability >= NATIVE_FP16_CAPABILITY:
        return Decision(
            "float16", say("compute capability {shown} has no native bf16: fp16 with a loss scaler", shown=shown)
        )
    return Decision(
        "float32", say("compute capability {shown} has no tensor cores: fp16 would not be faster", shown=shown)
    )


def device_name(device: "torch.device") -> str:
    """Name of the GPU, or of the CPU with the number of threads."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_processor_name()} \u00d7 {torch.get_num_threads()}"


def _processor_name() -> str:
    if sys.platform == "linux":
        try:
            with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123
                for line in file:
                    if line.startswith("model name"):
                        return line.split(":", 1)[1].strip()
        except OSError:
            pass  # containers may hide it; the architecture's name still says something
    return platform.processor() or platform.machine()


def peak_memory_bytes(device: "torch.device") -> int:
    """Most memory in use since `reset_peak_memory`, in bytes: of a GPU, or resident in this process.

    On a GPU it is what tensors took at most; where segments cannot grow it is what torch reserved for them, because the
    gaps between tensors are lost to everybody else.
    """
    import torch

    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated if segments_grow() else torch.cuda.max_memory_reserved
        return peak(device)
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def reset_peak_memory(device: "torch.device") -> None:
    """Reset the peak of a GPU or of this process; elsewhere than on Linux that of a process only grows."""
    import torch

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:  # noqa: PTH123
            file.write("5")  # proc(5): the peak of resident memory
    except OSError:
        pass  # another system, or a container that does not let us


def environment() -> dict[str, str | int]:
    """Versions and machine facts for `run.json`; of the package itself also where it runs from a source tree."""
    from importlib.metadata import version

    packages = ("torch", "numpy", "tokenizers", "safetensors")
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": _processor_name(),
        "cores": os.cpu_count() or 1,
        "tunesmith": __version__,
        **{name: version(name) for name in packages},
    }


CUBLAS_SETTING = "CUBLAS_WORKSPACE_CONFIG"
DETERMINISTIC_WORKSPACES = (":4096:8", ":16:8")
"""What torch takes for deterministic; the first one is set where nothing is."""


@contextmanager
def deterministic(device: "torch.device", *, is_on: bool) -> Iterator[None]:
    """While this lasts operations on a GPU add in the same order each time, or fail; afterwards all is as before.

    A CPU does so anyway. Scope is the process, as torch's switch is.

    Raises:
        UserError: if cuBLAS has been used in this process with workspaces that it chose by itself.
    """
    if not is_on or device.type != "cuda":
        yield
        return
    import torch
    from torch._inductor import config as compiler

    _fix_cublas_workspaces()
    filling: Any = torch.utils.deterministic
    was_on = torch.are_deterministic_algorithms_enabled()
    only_warned = torch.is_deterministic_algorithms_warn_only_enabled()
    filled, compiled_so = filling.fill_uninitialized_memory, compiler.deterministic
    torch.use_deterministic_algorithms(True)
    filling.fill_uninitialized_memory = False  # nothing reads it, and filling it takes time
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was_on, warn_only=only_warned)
        filling.fill_uninitialized_memory = filled
        compiler.deterministic = compiled_so


@contextmanager
def allow_nondeterminism() -> Iterator[None]:
    """While this lasts operations may add in any order: for what changes nothing of a run, and has no other form.

    `cumsum` is such an operation, which sampling with top-p needs.
    """
    import torch

    if not torch.are_deterministic_algorithms_enabled():
        yield
        return
    from torch._inductor import config as compiler

    only_warned, compiled_so = torch.is_deterministic_algorithms_warn_only_enabled(), compiler.deterministic
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(True, warn_only=only_warned)
        compiler.deterministic = compiled_so


def _fix_cublas_workspaces() -> None:
    """Set what cuBLAS reads when it is first used; torch looks once, and then fails for the rest of the process."""
    import torch

    if os.environ.get(CUBLAS_SETTING) in DETERMINISTIC_WORKSPACES:
        return
    has_computed = torch.cuda.is_initialized() and any(
        torch.cuda.memory_stats(index).get("allocation.all.allocated", 0) > 0
        for index in range(torch.cuda.device_count())
    )
    if has_computed:
        raise UserError(
            "--deterministic: a GPU was used in this process before, with cuBLAS workspaces of changing size",
            hint="set {name}={value} in the environment before Python starts",
            name=CUBLAS_SETTING,
            value=DETERMINISTIC_WORKSPACES[0],
        )
    os.environ[CUBLAS_SETTING] = DETERMINISTIC_WORKSPACES[0]


M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Of mallopt(3), the GNU C library."""
ALLOC_CONF = "PYTORCH_ALLOC_CONF"
OLD_ALLOC_CONF = "PYTORCH_CUDA_ALLOC_CONF"
GROWING_SEGMENTS = "expandable_segments:True"
FIXED_SEGMENTS = "expandable_segments:False"
EXACT_PINNED_BLOCKS = "pinned_max_round_threshold_mb:1"
"""Above 1 MB pinned host memory is taken as asked for, not rounded up to a power of two."""
TRIAL_BYTES = 1 << 21

CAPTURE_LOCK = threading.RLock()
"""Held while a CUDA graph is captured: two captures at once disturb each other, and so does whatever waits for the
whole GPU or unmaps its memory meanwhile."""


class _GpuAllocator:
    """What torch's allocator for GPUs was told in this process."""

    lock = threading.Lock()
    is_set_up = False
    segments_grow = False


def configure_allocators() -> None:
    """Make the settings, before torch is imported; what the user has set stays."""
    keep_freed_memory()
    if sys.platform == "linux" and OLD_ALLOC_CONF not in os.environ:  # Windows has no segments that grow
        os.environ.setdefault(ALLOC_CONF, GROWING_SEGMENTS)


def configure_gpu_allocator(device: "torch.device") -> None:
    """Let segments grow where they can, and pinned blocks be of exact size; once per process, what the user set stays.

    Some drivers under WSL refuse to map segments that grow (pytorch #192330), so one allocation tries it.

    Args:
        device: a GPU; the trial is made there.
    """
    with _GpuAllocator.lock:
        if _GpuAllocator.is_set_up:
            return
        _GpuAllocator.is_set_up = True
        asked = [os.environ[name] for name in (ALLOC_CONF, OLD_ALLOC_CONF) if name in os.environ]
        if asked and asked != [GROWING_SEGMENTS]:
            _GpuAllocator.segments_grow = any("expandable_segments:true" in setting.lower() for setting in asked)
            return
        _GpuAllocator.segments_grow = (
            sys.platform == "linux" and _accepts_settings(GROWING_SEGMENTS) and _can_allocate(device)
        )
        if not _GpuAllocator.segments_grow:
            _accepts_settings(FIXED_SEGMENTS)


def segments_grow() -> bool:
    """Whether torch's segments on GPUs grow; where they do not, more may be reserved than is ever used at once."""
    return _GpuAllocator.segments_grow


def pinned_empty(shape: "torch.Size | tuple[int, ...]", dtype: "torch.dtype") -> "torch.Tensor":
    """Host memory that a GPU reads and writes by itself; ordinary memory where no more may be pinned, as under WSL."""
    import torch

    try:
        return torch.empty(shape, dtype=dtype, pin_memory=True)
    except RuntimeError:  # whatever the driver says of it: slower transfers are better than none
        return torch.empty(shape, dtype=dtype)


def pinned_bytes(n_bytes: int) -> int:
    """What a pinned block takes; torch before 2.13, and an allocator that the user set up, round to powers of two."""
    asked = [os.environ[name] for name in (ALLOC_CONF, OLD_ALLOC_CONF) if name in os.environ]
    is_ours = not asked or asked == [GROWING_SEGMENTS] or "pinned_max_round_threshold_mb" in asked[0]
    return n_bytes if is_ours and _torch_pins_exactly() else 1 << max(n_bytes - 1, 0).bit_length()


@cache
def _torch_pins_exactly() -> bool:
    try:
        major, minor = version("torch").split(".")[:2]
    except PackageNotFoundError:
        return True  # a plan for another machine
    return (int(major), int(minor)) >= (2, 13)


def _accepts_settings(segments: str) -> bool:
    """Tell torch's allocator, with exact pinned blocks where it knows of them."""
    import torch

    for settings in (f"{segments},{EXACT_PINNED_BLOCKS}", segments):
        try:
            torch._C._accelerator_setAllocatorSettings(settings)  # noqa: SLF001
        except (AttributeError, RuntimeError, ValueError):  # another release of torch, which knows less
            continue
        return True
    return False


def _can_allocate(device: "torch.device") -> bool:
    """Whether a block can be had with the present settings; a full GPU says nothing about them."""
    import torch

    try:
        torch.empty(TRIAL_BYTES, dtype=torch.uint8, device=device)
    except torch.OutOfMemoryError:
        return True
    except RuntimeError:
        return False
    return True


def keep_freed_memory() -> bool:
    """Let freed blocks of any size be used again by this process; True where the C library can do that."""
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl has none
        return False
    never = -1
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, never))
