"""What `doctor` found out about a machine: plain values, gathered in one place and judged in another.

The probes fill these types and judge nothing; the checks judge them and ask the machine nothing. So any machine can be
judged in a test: one that was recorded, or one that nobody has.
"""

from dataclasses import dataclass
from typing import Literal

from tunesmith.planning.gpu_processes import GPUProcess

SystemKind = Literal["linux", "windows", "wsl", "macos"]
Installer = Literal["pip", "uv"]
Purpose = Literal["runs", "text", "hub"]


@dataclass(frozen=True)
class SystemFacts:
    """The operating system and the Python that runs.

    Attributes:
        kind: which family of commands its user types.
        name: as the system calls itself.
        distribution: of a Linux, as in `/etc/os-release` (ID and ID_LIKE); empty elsewhere.
        python: its version, for example "3.12.4".
        python_bits: 64, or 32 for which there is no torch.
        executable: the Python that runs.
        is_isolated: whether packages go into an environment of their own (venv, conda).
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
class CardFacts:
    """A card as the driver sees it.

    Attributes:
        index: its number.
        name: as sold.
        capability: CUDA compute capability; None where the driver does not tell.
        total_bytes: built in.
        free_bytes: now.
        has_display: whether a screen is attached.
        neighbours: processes that hold its memory.
        temperature_c: now.
        power_limit_w: what it may draw now.
        default_power_limit_w: what it was sold with.
        pcie_lanes: it is connected with.
        most_pcie_lanes: it could be.
    """

    index: int
    name: str
    capability: tuple[int, int] | None
    total_bytes: int
    free_bytes: int
    has_display: bool
    neighbours: tuple[GPUProcess, ...] = ()
    temperature_c: int | None = None
    power_limit_w: float | None = None
    default_power_limit_w: float | None = None
    pcie_lanes: int | None = None
    most_pcie_lanes: int | None = None


@dataclass(frozen=True)
class DriverFacts:
    """What NVIDIA's driver says.

    Attributes:
        version: for example "560.35.03"; empty where there is none that answers.
        error: why it does not answer.
        cards: those it sees.
    """

    version: str
    error: str
    cards: tuple[CardFacts, ...]


@dataclass(frozen=True)
class DeviceFacts:
    """The first card as torch sees it.

    Attributes:
        name: as sold.
        capability: CUDA compute capability.
        architectures: what the build has machine code for, for example "sm_86"; "compute_90" can be translated.
        has_flash_attention: whether the build contains FlashAttention-2.
    """

    name: str
    capability: tuple[int, int]
    architectures: tuple[str, ...]
    has_flash_attention: bool = True


@dataclass(frozen=True)
class ProductFacts:
    """A matrix product on the device, compared with the same in 64 bits.

    Attributes:
        dtype: torch's name.
        relative_error: of the whole result; None where it failed.
        error: why it did.
    """

    dtype: str
    relative_error: float | None
    error: str = ""


@dataclass(frozen=True)
class StepFacts:
    """Training steps of the packaged model on the device.

    Attributes:
        before: its loss in nats per token.
        after: that on the same text after them.
        expected: the loss before, computed in fp32 on the CPU.
        error: why there is none.
    """

    before: float | None
    after: float | None
    expected: float | None
    error: str = ""


@dataclass(frozen=True)
class TritonFacts:
    """Whether Triton could build and launch a kernel.

    Attributes:
        works: whether it did.
        found: what came of it, in words.
    """

    works: bool
    found: str


@dataclass(frozen=True)
class TorchFacts:
    """What is installed, and what it did when it was tried in a process of its own.

    Attributes:
        version: for example "2.13.0+cu130"; empty where it is not installed.
        cuda: of the build, for example "13.0"; empty for a CPU-only one.
        is_rocm: whether it is built for AMD's cards.
        was_tried: False where only files were read (`--quick`).
        stage: in which it stopped, of import, cuda, triton, cudnn, matmul, step; empty where it came to the end.
        error: what it stopped with.
        warning: what it said when it looked for cards.
        device: the first card it sees.
        triton: what came of building a kernel; None where it was not tried.
        cudnn: version, for example 91002; None where it has none.
        cudnn_error: what a convolution failed with.
        products: matrix products.
        step: training steps.
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
    """A place where something will be written.

    Attributes:
        purpose: runs, text (prepared text), or hub (downloaded models).
        folder: where.
        free_bytes: there.
        is_writable: whether this user may write there.
        is_of_windows: a drive of Windows seen from WSL, which is ten times as slow.
    """

    purpose: Purpose
    folder: str
    free_bytes: int
    is_writable: bool
    is_of_windows: bool = False


@dataclass(frozen=True)
class HubFacts:
    """Whether models can be downloaded.

    Attributes:
        was_tried: False where nobody asked (`--quick`).
        endpoint: its address.
        is_offline: whether the environment forbids asking.
        error: why it does not answer.
    """

    was_tried: bool
    endpoint: str
    is_offline: bool = False
    error: str = ""


@dataclass(frozen=True)
class PackageFacts:
    """A package that tunesmith asks for.

    Attributes:
        name: on the package index.
        wanted: its versions, for example ">=2.11,<2.14".
        version: installed; empty where it is not.
        fits: whether that is one of them.
    """

    name: str
    wanted: str
    version: str
    fits: bool


@dataclass(frozen=True)
class ModelFacts:
    """What training the named model would take.

    Attributes:
        name: as it was asked for.
        error: why it cannot be known.
        is_here: whether it need not be downloaded.
        weights_bytes: of its file.
        memory_bytes: at the peak; None where nothing fits.
        budget_bytes: what a run may take, on the card or of the memory.
        where: of what memory this is the budget.
        disk_bytes: that its run would take.
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
        system: and Python.
        cards_on_bus: NVIDIA's cards that the system sees, driver or not; None where it cannot be known.
        visible_devices: CUDA_VISIBLE_DEVICES, if it is set.
        driver: NVIDIA's.
        torch: and what it did.
        toolkit: where a CUDA toolkit is; empty where there is none.
        cuda_on_library_path: entries of the library path that hold another CUDA.
        memory_bytes: of the host.
        free_memory_bytes: of it.
        disks: where something will be written.
        compiler: a C++ compiler; empty where there is none.
        triton: version; empty where it is not installed.
        hub: whether models can be downloaded.
        packages: that tunesmith asks for.
        tokenizer_error: what the tokenizer's self-check found; empty where all was right.
        model: the named one; None where none was.
    """

    system: SystemFacts
    cards_on_bus: int | None
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
    hub: HubFacts
    packages: tuple[PackageFacts, ...]
    tokenizer_error: str
    model: ModelFacts | None = None

    @property
    def has_card(self) -> bool:
        """Whether an NVIDIA card is here, usable or not."""
        return bool(self.driver.cards) or bool(self.cards_on_bus)
