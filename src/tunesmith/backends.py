"""What a machine can run: the attention kernel, Triton or plain kernels, compiled or not, which dtypes go with what.

Decided here and nowhere else, from facts: `plan` decides for a GPU that is not here, training and generation for the
one that is. Torch is imported inside the functions that look at this machine.

Attention over packed documents has three backends:

    flash_varlen      FlashAttention-2, one kernel a layer; fp16 and bf16, Ampere and newer, not in torch's Windows
                      builds
    efficient_varlen  torch's memory-efficient kernels; fp16, fp32 and (from Ampere on) bf16, every GPU, Windows too
    sdpa              `scaled_dot_product_attention`, a call for every run of documents of one length; the CPU's way,
                      and the last resort elsewhere
"""

import shutil
import sys
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

from tunesmith.i18n import say
from tunesmith.utils.device import Decision

if TYPE_CHECKING:
    import torch

AttentionBackend = Literal["flash_varlen", "efficient_varlen", "sdpa"]
Kernels = Literal["triton", "torch"]
Capability = tuple[int, int]

FLASH_CAPABILITY: Capability = (8, 0)
FLASH_DTYPES = ("float16", "bfloat16")
FLASH_HEAD_DIM_MULTIPLE, FLASH_MAX_HEAD_DIM = 8, 256
"""What FlashAttention-2's variable-length kernels accept (flash_api.cpp)."""
EFFICIENT_CAPABILITY: dict[str, Capability] = {"float16": (5, 0), "float32": (5, 0), "bfloat16": (8, 0)}
"""What torch's memory-efficient kernels are instantiated for (mem_eff_attention/kernels/cutlassF.h)."""
TRITON_CAPABILITY: Capability = (7, 0)
"""The least that torch's compiler and Triton support."""
CPP_COMPILERS = {"win32": ("cl",)}
PROBED_VALUE = 7


@dataclass(frozen=True)
class Device:
    """The facts that a decision depends on.

    Attributes:
        kind: cpu or cuda.
        system: as `sys.platform` calls it.
        capability: CUDA compute capability; None for a CPU.
        has_flash_attention: whether this build of torch contains FlashAttention-2.
    """

    kind: Literal["cpu", "cuda"]
    system: str
    capability: Capability | None = None
    has_flash_attention: bool = False


def resolve_attention(device: Device, dtype: str, head_dim: int) -> Decision[AttentionBackend]:
    """The fastest attention that runs there.

    Args:
        device: what computes.
        dtype: torch's name of the dtype of queries, keys and values, for example "bfloat16".
        head_dim: channels of a head.
    """
    if device.kind == "cpu":
        return Decision("sdpa", say("the CPU's fused kernel, a call for every length of documents"))
    reason = _why_no_flash(device, dtype, head_dim)
    if not reason:
        return Decision("flash_varlen", say("FlashAttention-2: one kernel for all documents of a batch"))
    if _capability(device) >= EFFICIENT_CAPABILITY[dtype]:
        return Decision("efficient_varlen", say("memory-efficient attention, because {reason}", reason=reason))
    return Decision(
        "sdpa",
        say(
            "slow: {reason}, and memory-efficient attention in {dtype} needs compute capability {needed}",
            reason=reason,
            dtype=dtype,
            needed=_shown(EFFICIENT_CAPABILITY[dtype]),
        ),
    )


def _why_no_flash(device: Device, dtype: str, head_dim: int) -> str:
    """Why FlashAttention-2 cannot run; empty where it can."""
    if _capability(device) < FLASH_CAPABILITY:
        return say(
            "FlashAttention-2 needs compute capability {needed}, and this is {shown}",
            needed=_shown(FLASH_CAPABILITY),
            shown=_shown(_capability(device)),
        )
    if dtype not in FLASH_DTYPES:
        return say("FlashAttention-2 does not compute in {dtype}", dtype=dtype)
    if head_dim % FLASH_HEAD_DIM_MULTIPLE or head_dim > FLASH_MAX_HEAD_DIM:
        return say(
            "FlashAttention-2 needs heads of a multiple of {multiple} channels up to {most}, not {head_dim}",
            multiple=FLASH_HEAD_DIM_MULTIPLE,
            most=FLASH_MAX_HEAD_DIM,
            head_dim=head_dim,
        )
    if not device.has_flash_attention:
        if device.system == "win32":
            return say("torch's Windows builds do not contain FlashAttention-2")
        return say("this build of torch does not contain FlashAttention-2")
    return ""


def is_traceable(attention: AttentionBackend, *, one_scale: bool) -> bool:
    """Whether attention can be part of a compiled block without compiling again for every batch or every layer.

    Only FlashAttention takes what differs between batches (offsets) as a tensor of few sizes; the others depend on
    lengths that Python knows. The scale is a constant of the graph, so models with another one in each layer leave
    attention out.
    """
    return attention == "flash_varlen" and one_scale


def resolve_kernels(device: Device, triton: Decision[bool]) -> Decision[Kernels]:
    """Triton kernels for loss and optimizer, or plain torch.

    Args:
        device: what computes.
        triton: whether a Triton kernel can be built and launched there.
    """
    usable = _triton(device, triton)
    return Decision("triton" if usable.value else "torch", usable.reason)


def resolve_compilation(device: Device, triton: Decision[bool], cpp_compiler: str) -> Decision[bool]:
    """Whether blocks can be compiled: Triton for a GPU, a C++ compiler for the CPU.

    Args:
        device: what computes.
        triton: whether a Triton kernel can be built and launched there.
        cpp_compiler: its command; empty where there is none.
    """
    if device.kind == "cuda":
        return _triton(device, triton)
    if not cpp_compiler:
        return Decision(False, say("{compiler} is missing", compiler=_cpp_compilers(device.system)[0]))
    return Decision(True, say("{compiler} is here", compiler=cpp_compiler))


def _triton(device: Device, triton: Decision[bool]) -> Decision[bool]:
    if device.kind == "cpu":
        return Decision(False, say("Triton kernels are for GPUs"))
    if _capability(device) < TRITON_CAPABILITY:
        return Decision(
            False,
            say(
                "Triton needs compute capability {needed}, and this is {shown}",
                needed=_shown(TRITON_CAPABILITY),
                shown=_shown(_capability(device)),
            ),
        )
    return triton


def why_incompatible(dtype: str, *, has_bf16_weights: bool, holds_gradients: bool) -> str:
    """Why a memory mode cannot be used with a dtype of the arithmetic; empty where it can.

    Args:
        dtype: torch's name.
        has_bf16_weights: whether the matrices, and so their gradients, are bf16 on the device.
        holds_gradients: whether all gradients of a step exist before the update.
    """
    if not has_bf16_weights:
        return ""
    if dtype == "float32":
        return say("its bf16 weights are meant for arithmetic in bf16")
    if dtype == "float16" and not holds_gradients:
        return say("fp16 needs all gradients at once, to see whether one overflowed")
    if dtype == "float16":
        return say("its gradients are bf16, which torch's loss scaler for fp16 cannot unscale on a GPU")
    return ""


def assume_triton(system: str) -> Decision[bool]:
    """Of a machine that is not here: torch's Linux builds bring Triton, those for Windows do not."""
    if system == "win32" and find_spec("triton") is None:
        command = "pip install triton-windows"
        return Decision(False, say("torch's Windows builds bring no Triton: {command}", command=command))
    return Decision(True, say("taken to be possible there"))


@cache
def detect_device(device: "torch.device") -> Device:
    """The facts of a device of this machine."""
    import torch

    if device.type == "cpu":
        return Device("cpu", sys.platform)
    return Device(
        "cuda",
        sys.platform,
        torch.cuda.get_device_capability(device),
        torch.backends.cuda.is_flash_attention_available(),  # the operator exists in every build
    )


def cpp_compiler() -> str:
    """The command of a C++ compiler that torch can use; empty where there is none."""
    return next((name for name in _cpp_compilers(sys.platform) if shutil.which(name)), "")


def _cpp_compilers(system: str) -> tuple[str, ...]:
    return CPP_COMPILERS.get(system, ("g++", "clang++", "c++"))


@cache
def probe_triton(index: int) -> Decision[bool]:
    """Whether Triton can build and launch a kernel on a GPU of this machine; found out by doing it, once a process.

    The package alone tells nothing: on first use Triton compiles C code against Python's headers, and neither compiler
    nor headers are part of container images made for running, of a fresh WSL, or of Debian's python3.

    Args:
        index: of the GPU, as torch counts.
    """
    if find_spec("triton") is None:
        return Decision(False, say("Triton is not installed"))
    try:
        _launch_one_kernel(index)
    except Exception as error:  # noqa: BLE001  Triton raises whatever the compiler, the loader or the driver does
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return Decision(False, say("Triton cannot build a kernel here ({error})", error=lines[0][:200]))
    return Decision(True, say("Triton has built and launched a kernel"))


def _launch_one_kernel(index: int) -> None:
    """One line, on the GPU of that index.

    Raises:
        RuntimeError: or whatever else goes wrong with it.
    """
    import torch
    import triton
    import triton.language as tl

    @triton.jit  # type: ignore[untyped-decorator]
    def store(pointer, VALUE: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        tl.store(pointer, VALUE)

    assert triton.runtime.driver.active.get_current_target()  # builds Triton's part in C, without which nothing runs
    with torch.cuda.device(index):
        found = torch.zeros(1, dtype=torch.int32, device=torch.device("cuda", index))
        store[(1,)](found, VALUE=PROBED_VALUE)
    if found.item() != PROBED_VALUE:
        raise RuntimeError("a kernel was launched and did nothing")


def _capability(device: Device) -> Capability:
    assert device.capability is not None
    return device.capability


def _shown(capability: Capability) -> str:
    return f"{capability[0]}.{capability[1]}"
