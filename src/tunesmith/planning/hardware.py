"""Hardware that a run may use, here or named only, and how much of its memory.

Torch is asked only where a run is to happen here.
"""

import platform
import re
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import psutil

from tunesmith.backends import Device as DeviceFacts
from tunesmith.backends import Kernels, assume_triton, detect_device, probe_triton, resolve_compilation, resolve_kernels
from tunesmith.errors import UserError
from tunesmith.i18n import LazyString, say
from tunesmith.planning.gpu_processes import GPUProcess, GPUState, query_cuda_gpu, query_gpu
from tunesmith.planning.gpus import REFERENCE, GPUSpec, GPUSpeed, find_gpu, lookup_gpu, memory_in_name, memory_sizes
from tunesmith.planning.memory_model import Device
from tunesmith.utils.device import (
    NATIVE_FP16_CAPABILITY,
    Decision,
    device_name,
    gpu_uuid,
    native_dtype,
    resolve_device,
    resolve_dtype,
)
from tunesmith.utils.oom import free_memory

if TYPE_CHECKING:
    import torch

GIB = 1 << 30
CONTEXT_BYTES = int(0.45 * GIB)
"""What the driver and its libraries take of a GPU before the first tensor."""
RESERVE_BYTES, RESERVE_SHARE = GIB // 4, 0.02
"""Left free on a GPU: fragments, and what grows during a run."""
DISPLAY_BYTES = GIB // 2
"""Left free in addition where a screen is attached, or on Windows and WSL, whose driver swaps before it fails."""
HOST_SHARE = 0.9
"""Of the memory that is free on the host."""
CPU_FLOPS_PER_CORE = {"bfloat16": 1.5e11, "float32": 7e10}
"""Roughly, of a current core."""
CPU_BYTES_PER_S = 2e10
FP32_RATE = 0.5
"""Relative to a GPU's speed in 16-bit products: what makers state for consumer GPUs since Ampere."""
LINK_BYTES_PER_S = 1.2e10
"""Between host and GPU, of PCIe 4 that others use too."""
NO_SPEED = LazyString("its speed is not known, so no time is estimated")
SHOWN_NEIGHBORS = 3


@dataclass(frozen=True)
class Hardware:
    """What a run may use.

    Attributes:
        device: as torch calls it.
        kind: cpu or cuda.
        name: for people.
        precision: torch's name of the dtype of the arithmetic.
        budget: bytes a run may take, and why no more.
        host_bytes: free on the host.
        flops_per_s: of matrix products.
        bytes_per_s: of the memory.
        reasons: of device and precision.
        can_compile: whether there is what compiling needs.
        speed_of: whose speed that is; empty where it is not known: then `flops_per_s` and `bytes_per_s` are those of
            `REFERENCE`, good for comparing ways to make a step and for nothing that is shown.
        facts: what `tunesmith.backends` decides from.
        kernels: of loss and optimizer.
    """

    device: str
    kind: Device
    name: str
    precision: str
    budget: Decision[int]
    host_bytes: int
    flops_per_s: float
    bytes_per_s: float
    reasons: dict[str, str]
    can_compile: Decision[bool]
    speed_of: str
    facts: DeviceFacts
    kernels: Decision[Kernels]

    @property
    def number_bytes(self) -> int:
        """Of what is computed with."""
        return 4 if self.precision == "float32" else 2


def detect_hardware(device: str, precision: str) -> Hardware:
    """The machine at hand, as `--device` and `--precision` ask.

    Raises:
        UserError: if it has no such device or arithmetic.
    """
    from tunesmith.model.compile import can_compile

    chosen = resolve_device(device)
    dtype = resolve_dtype(precision, chosen.value)
    named = str(dtype.value).removeprefix("torch.")
    reasons = {"device": chosen.reason, "precision": dtype.reason}
    host = psutil.virtual_memory().available
    compiles, facts = can_compile(chosen.value), detect_device(chosen.value)
    if chosen.value.type == "cpu":
        rate = CPU_FLOPS_PER_CORE[named] * (psutil.cpu_count(logical=False) or 1)
        budget = Decision(
            int(host * HOST_SHARE) + psutil.Process().memory_info().rss,
            say("{share:.0%} of the {free_gib:.1f} GiB that are free", share=HOST_SHARE, free_gib=host / GIB),
        )
        kernels = resolve_kernels(facts, compiles)
        return Hardware(
            device="cpu",
            kind="cpu",
            name=device_name(chosen.value),
            precision=named,
            budget=budget,
            host_bytes=host,
            flops_per_s=rate,
            bytes_per_s=CPU_BYTES_PER_S,
            reasons=reasons,
            can_compile=compiles,
            speed_of=device_name(chosen.value),
            facts=facts,
            kernels=kernels,
        )
    state = _state_of(chosen.value)
    speed, speed_of = _speed(lookup_gpu(state.name, state.total_bytes / GIB))
    if not speed_of:
        reasons["device"] = say("{reason}; {unknown}", reason=reasons["device"], unknown=str(NO_SPEED))
    return Hardware(
        device=str(chosen.value),
        kind="cuda",
        name=state.name,
        precision=named,
        budget=memory_budget(state),
        host_bytes=host,
        flops_per_s=_flops_per_s(speed, facts, named),
        bytes_per_s=speed.gigabytes_per_s * 1e9,
        reasons=reasons,
        can_compile=compiles,
        speed_of=speed_of,
        facts=facts,
        kernels=resolve_kernels(facts, probe_triton(chosen.value.index or 0)),
    )


def hardware_for_gpu(gpu: str | None, vram: str | None) -> Hardware:
    """A GPU that need not be here.

    Raises:
        UserError: if the GPU is not known, or the amount is not one.
    """
    asked = parse_memory_size(vram) if vram else int((memory_in_name(gpu or "") or 0) * GIB)
    card = find_gpu(gpu or REFERENCE, asked / GIB if asked else None)
    total = asked or card.memory_gib * GIB
    left = CONTEXT_BYTES + RESERVE_BYTES + int(RESERVE_SHARE * total)
    budget = Decision(
        max(total - left, 0),
        say(
            "{total_gib:.1f} GiB less {driver_gib:.2f} for the driver and {spare_gib:.2f} to spare; "
            "a connected display takes about {screen_gib:.1f} more",
            total_gib=total / GIB,
            driver_gib=CONTEXT_BYTES / GIB,
            spare_gib=(left - CONTEXT_BYTES) / GIB,
            screen_gib=DISPLAY_BYTES / GIB,
        ),
    )
    speed, speed_of = _speed(card)
    if not gpu:
        reason = say("speed as of {gpu}: specify yours with --gpu", gpu=card.name)
    elif total != card.memory_gib * GIB:
        reason = say(
            "as {gpu}, but with {total_gib:g} GiB as asked: it is known with {known} GiB",
            gpu=card.name,
            total_gib=total / GIB,
            known=", ".join(map(str, memory_sizes(card))),
        )
    else:
        reason = say("computed for {gpu}", gpu=card.name)
    if not speed_of:
        reason = say("{reason}; {unknown}", reason=reason, unknown=str(NO_SPEED))
    facts = DeviceFacts("cuda", sys.platform, card.capability, has_flash_attention=sys.platform != "win32")
    triton, precision = assume_triton(sys.platform), native_dtype(card.capability)
    return Hardware(
        device="cuda",
        kind="cuda",
        name=card.name if gpu else say("a GPU with {total_gib:.0f} GiB", total_gib=total / GIB),
        precision=precision.value,
        budget=budget,
        host_bytes=int(psutil.virtual_memory().total * HOST_SHARE),
        flops_per_s=_flops_per_s(speed, facts, precision.value),
        bytes_per_s=speed.gigabytes_per_s * 1e9,
        reasons={"device": reason, "precision": precision.reason},
        can_compile=resolve_compilation(facts, triton, ""),
        speed_of=speed_of,
        facts=facts,
        kernels=resolve_kernels(facts, triton),
    )


def _speed(card: GPUSpec | None) -> tuple[GPUSpeed, str]:
    """Of a GPU, and its name; the reference's speed and no name where it is not known."""
    if card is not None and card.speed is not None:
        return card.speed, card.name
    reference = find_gpu(REFERENCE).speed
    assert reference is not None
    return reference, ""


def _flops_per_s(speed: GPUSpeed, facts: DeviceFacts, precision: str) -> float:
    """Of matrix products in that precision."""
    has_tensor_cores = facts.capability is not None and facts.capability >= NATIVE_FP16_CAPABILITY
    return speed.tflops * 1e12 * (FP32_RATE if precision == "float32" and has_tensor_cores else 1.0)


def with_precision(hardware: Hardware, asked: str) -> Hardware:
    """A GPU that need not be here, with the arithmetic that `--precision` asks for."""
    if asked == "auto":
        return hardware
    named = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}[asked]
    is_slower = named == "float32" and hardware.precision != "float32"
    rate = hardware.flops_per_s * (FP32_RATE if is_slower else 1.0)
    reasons = {**hardware.reasons, "precision": say("asked for")}
    return replace(hardware, precision=named, flops_per_s=rate, reasons=reasons)


def hardware_from_driver(device: str) -> Hardware | None:
    """A GPU of this machine as its driver sees it, without torch; None where there is none, or it is not asked for.

    Args:
        device: as `--device` has it.
    """
    named = re.fullmatch(r"auto|cuda(?::(\d+))?", device)
    if named is None:
        return None
    index = int(named[1] or 0)
    state = query_cuda_gpu(index)
    if state is None:
        return None
    card = lookup_gpu(state.name, state.total_bytes / GIB)
    hardware = hardware_for_gpu((card or find_gpu(REFERENCE)).name, None)
    return replace(
        hardware,
        speed_of=_speed(card)[1],
        device=f"cuda:{index}",
        name=state.name,
        budget=memory_budget(replace(state, free_bytes=max(state.free_bytes - CONTEXT_BYTES, 0))),
        host_bytes=int(psutil.virtual_memory().available * HOST_SHARE),
        reasons={
            "device": say("the driver sees it")
            if card and card.speed
            else say("{reason}; {unknown}", reason=say("the driver sees it"), unknown=str(NO_SPEED)),
            "precision": say("bf16 is taken to be native there") if card is None else hardware.reasons["precision"],
        },
    )


def parse_memory_size(amount: str) -> int:
    """For example "12GB" (as GPUs are sold: GiB), "11.2 GiB", "8192MiB".

    Raises:
        UserError: if it is not an amount of memory.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([gm])(?:i?b)?\s*", amount.lower())
    if not found or not float(found[1]):
        raise UserError(
            "--vram {amount} is not an amount of memory", hint="write it like 12GB or 8192MB", amount=amount
        )
    return int(float(found[1]) * (GIB if found[2] == "g" else GIB >> 10))


def memory_budget(state: GPUState) -> Decision[int]:
    """Memory that a run may take of a GPU that others use too."""
    screens = state.has_display or sys.platform == "win32" or is_wsl()
    spare = RESERVE_BYTES + int(RESERVE_SHARE * state.total_bytes) + (DISPLAY_BYTES if screens else 0)
    reason = say(
        "{free_gib:.1f} of {total_gib:.1f} GiB are free, {spare_gib:.2f} of them stay so (for the screen)"
        if screens
        else "{free_gib:.1f} of {total_gib:.1f} GiB are free, {spare_gib:.2f} of them stay so",
        free_gib=state.free_bytes / GIB,
        total_gib=state.total_bytes / GIB,
        spare_gib=spare / GIB,
    )
    if state.neighbors:
        shown = ", ".join(map(_said, state.neighbors[:SHOWN_NEIGHBORS]))
        reason = say("{reason}; in use by {names}", reason=reason, names=shown)
    return Decision(max(state.free_bytes - spare, 0), reason)


def is_wsl() -> bool:
    """Whether this Linux runs inside of Windows."""
    return "microsoft" in platform.release().lower()


def allocator_fraction(device: "torch.device") -> float:
    """The share of a GPU's memory that torch's allocator may take: of the budget, and what the process has already.

    It may take a little more than the budget, because what the driver's libraries load later lies outside of it.
    """
    import torch

    state = _state_of(device)
    held = torch.cuda.memory_reserved(device)
    return min((held + memory_budget(state).value + CONTEXT_BYTES) / state.total_bytes, 1.0)


def _said(neighbor: GPUProcess) -> str:
    held = "" if neighbor.bytes is None else f" {neighbor.bytes / GIB:.1f} GiB"
    return f"{neighbor.name} (PID {neighbor.pid}){held}"


def _state_of(device: "torch.device") -> GPUState:
    """What torch says is free on the device it calls so, and what the driver says of others on the same GPU.

    What this process has cached and does not use is given back first: an earlier run in the same process leaves it.
    """
    import torch

    free_memory()
    free, total = torch.cuda.mem_get_info(device)
    said = query_gpu(gpu_uuid(device))
    name = torch.cuda.get_device_name(device)
    if said is None:
        return GPUState(name, total, free, has_display=False, neighbors=())
    return GPUState(name, total, free, said.has_display, said.neighbors)
