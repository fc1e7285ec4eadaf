"""Facts about a machine: plain values, collected in one place and checked in another.

The probes fill these types and judge nothing; the checks judge them and probe nothing. So any machine can be checked in
a test: one that was recorded, or one that does not exist.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, is_dataclass
from itertools import repeat
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from tunesmith.planning.gpu_processes import GPUProcess

SystemKind = Literal["linux", "windows", "wsl", "macos"]
Installer = Literal["pip", "uv"]
Purpose = Literal["runs", "text", "hub"]
T = TypeVar("T")


def from_json(kind: type[T], values: Mapping[str, Any]) -> T:
    """Build a dataclass from `dataclasses.asdict` after its way through JSON; unknown keys are ignored."""
    hints = get_type_hints(kind)
    return kind(**{name: _from_json(hints[name], value) for name, value in values.items() if name in hints})


def _from_json(hint: Any, value: Any) -> Any:  # noqa: ANN401  any type of a field
    if value is None:
        return None
    if get_origin(hint) in {Union, UnionType}:
        hint = next(argument for argument in get_args(hint) if argument is not NoneType)
    if get_origin(hint) is tuple:
        kinds = get_args(hint)
        return tuple(map(_from_json, repeat(kinds[0]) if kinds[-1] is Ellipsis else kinds, value))
    return from_json(hint, value) if isinstance(hint, type) and is_dataclass(hint) else value


@dataclass(frozen=True)
class SystemFacts:
    """The operating system and the Python that runs.

    Attributes:
        distribution: of a Linux, as in `/etc/os-release` (ID and ID_LIKE); empty elsewhere.
        python: its version, for example "3.12.4".
        python_bits: 64, or 32, for which torch has no build.
        is_isolated: whether packages go into an environment (venv, conda).
        installer: what installs packages there.
    """

    kind: SystemKind
    name: str
    distribution: str
    python: str
    python_bits: int
    executable: str
    is_isolated: bool
    installer: Installer


@dataclass(frozen=True)
class GPUFacts:
    """A GPU as the driver sees it; None is what the driver does not tell."""

    index: int
    name: str
    capability: tuple[int, int] | None
    total_bytes: int
    free_bytes: int
    has_display: bool
    processes: tuple[GPUProcess, ...] = ()
    temperature_c: int | None = None
    power_limit_w: float | None = None
    default_power_limit_w: float | None = None
    pcie_lanes: int | None = None
    max_pcie_lanes: int | None = None


@dataclass(frozen=True)
class DriverFacts:
    """What NVIDIA's driver says: its version (empty where it does not answer), or why it does not answer."""

    version: str
    error: str
    gpus: tuple[GPUFacts, ...] = ()


@dataclass(frozen=True)
class DeviceFacts:
    """The first GPU as torch sees it.

    Attributes:
        architectures: what the build has machine code for, for example "sm_86"; "compute_90" can be translated.
    """

    name: str
    capability: tuple[int, int]
    architectures: tuple[str, ...]
    has_flash_attention: bool = True


@dataclass(frozen=True)
class ProductFacts:
    """A matrix product on the device, compared with the same in 64 bits; the error is None where it failed."""

    dtype: str
    relative_error: float | None
    error: str = ""


@dataclass(frozen=True)
class StepFacts:
    """Losses of the packaged model in nats per token, before and after training steps on the device.

    Attributes:
        expected: the loss before, computed in fp32 on the CPU.
    """

    before: float | None = None
    after: float | None = None
    expected: float | None = None
    error: str = ""


@dataclass(frozen=True)
class TritonFacts:
    """Whether Triton could build and launch a kernel, and what came of it in words."""

    works: bool
    result: str


@dataclass(frozen=True)
class TorchFacts:
    """The installed torch, and what it did when it was tried in a process of its own.

    Attributes:
        version: for example "2.13.0+cu130"; empty where it is not installed.
        cuda: of the build, for example "13.0"; empty for a CPU-only one.
        is_rocm: whether it is built for AMD's GPUs.
        was_tried: False where only files were read (`--quick`).
        stage: in which it stopped, of import, cuda, triton, cudnn, matmul, step; empty where it came to the end.
        error: what it stopped with.
        warning: printed when it looked for GPUs.
        triton: None where it was not tried.
        cudnn: version, for example 91002; None where it has none.
        cudnn_error: what a convolution failed with.
    """

    version: str
    cuda: str
    is_rocm: bool = False
    was_tried: bool = False
    stage: str = ""
    error: str = ""
    warning: str = ""
    device: DeviceFacts | None = None
    triton: TritonFacts | None = None
    cudnn: int | None = None
    cudnn_error: str = ""
    products: tuple[ProductFacts, ...] = ()
    step: StepFacts | None = None


@dataclass(frozen=True)
class DiskFacts:
    """A folder for runs, prepared text, or downloaded models.

    Attributes:
        is_of_windows: a drive of Windows seen from WSL, which is ten times as slow.
    """

    purpose: Purpose
    folder: str
    free_bytes: int
    is_writable: bool
    is_of_windows: bool = False


@dataclass(frozen=True)
class HubFacts:
    """Whether models can be downloaded; `is_offline` where the environment forbids it."""

    was_tried: bool = False
    endpoint: str = ""
    is_offline: bool = False
    error: str = ""


@dataclass(frozen=True)
class PackageFacts:
    """A package that tunesmith requires.

    Attributes:
        required: its versions, for example ">=2.11,<2.14".
        version: installed; empty where it is not.
    """

    name: str
    required: str
    version: str
    fits: bool


@dataclass(frozen=True)
class ModelFacts:
    """What training the named model needs.

    Attributes:
        error: why it is unknown.
        is_here: whether it need not be downloaded.
        memory_bytes: at the peak; None where nothing fits.
        budget_bytes: available to a run on `where`, the GPU or the CPU.
        disk_bytes: of a run.
        refusal: why nothing fits.
    """

    name: str
    error: str = ""
    is_here: bool = False
    weights_bytes: int = 0
    memory_bytes: int | None = None
    budget_bytes: int = 0
    where: str = ""
    disk_bytes: int = 0
    refusal: str = ""


@dataclass(frozen=True)
class Facts:
    """A whole machine.

    Attributes:
        gpus_on_bus: NVIDIA's GPUs that the system sees, with or without a driver; None where it does not tell.
        visible_devices: CUDA_VISIBLE_DEVICES, if it is set.
        toolkit: path of a CUDA toolkit; empty where there is none, as with `compiler` and the version `triton`.
        cuda_on_library_path: entries of the library path that contain another CUDA.
        tokenizer_error: of the tokenizer's self-check.
    """

    system: SystemFacts
    gpus_on_bus: int | None
    visible_devices: str | None
    driver: DriverFacts
    torch: TorchFacts
    toolkit: str
    cuda_on_library_path: tuple[str, ...]
    memory_bytes: int
    free_memory_bytes: int
    disks: tuple[DiskFacts, ...]
    compiler: str
    triton: str
    packages: tuple[PackageFacts, ...]
    hub: HubFacts = field(default_factory=HubFacts)
    tokenizer_error: str = ""
    model: ModelFacts | None = None

    @property
    def has_gpu(self) -> bool:
        """Whether the machine has an NVIDIA GPU, usable or not."""
        return bool(self.driver.gpus) or bool(self.gpus_on_bus)
