"""Facts of the machine, Triton kernels as machine code, and the kinds of attention, against double precision."""

import inspect
import os
import platform
import runpy
import shutil
import sysconfig
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gpu_stages.running import Case, Result, Setting, a_gpu
from gpu_stages.workloads import (
    TINY_VOCABULARY,
    VOCABULARY,
    driver_bytes_in_use,
    memory,
    relative_error,
    seconds_of,
    without_triton,
)
from tunesmith.model import attention, loss
from tunesmith.model.attention import GroupedSDPA, PackedLayout, VarlenAttention
from tunesmith.optim import low_bit_adamw
from tunesmith.optim.state_format import BLOCK, STATE_FORMATS

PACKAGES = ("torch", "triton", "transformers", "tokenizers", "safetensors", "numpy", "cyclopts", "psutil", "rich")
KERNEL_TESTS = Path(__file__).parents[2] / "tests" / "optimizers" / "kernel_against_plain.py"
DOCUMENT_TOKENS = (1, 9, 9, 60, 33, 400, 16, 1024, 1, 2)
HEAD_CHANNELS = (32, 64, 80, 128)
REPEATS = 8
GIGA = 1e9


def versions(_setting: Setting) -> Result:
    """What is installed, and what compilers need."""
    found: dict[str, str] = {}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    include = sysconfig.get_paths()["include"]
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "packages": found,
        "cuda": torch.version.cuda,
        "c_compiler": shutil.which("gcc") or shutil.which("clang") or shutil.which("cc"),
        "python_headers": Path(include, "Python.h").exists(),
    }


def device_facts(setting: Setting) -> Result:
    """What the GPU is."""
    device = setting.torch_device
    properties = torch.cuda.get_device_properties(device)
    return {
        "name": properties.name,
        "capability": list(torch.cuda.get_device_capability(device)),
        "total_bytes": properties.total_memory,
        "multiprocessors": properties.multi_processor_count,
        "l2_bytes": properties.L2_cache_size,
        "architectures": torch.cuda.get_arch_list(),
        "flash_attention_is_built": torch.backends.cuda.is_flash_attention_available(),
    }


def bytes_outside_torch(setting: Setting) -> Result:
    """Bytes that the context, libraries and modules take, after each thing that loads some.

    The plan leaves 0.45 GiB for the driver's context, and a reserve for the rest.
    """
    device = setting.torch_device
    others = driver_bytes_in_use() or 0
    found: dict[str, int] = {"others": others}

    def note(name: str) -> None:
        torch.cuda.synchronize()
        found[name] = memory(device, others)["outside_torch_bytes"]

    x = torch.ones(1, device=device)
    note("context")
    a = torch.randn(4096, 4096, device=device, dtype=torch.bfloat16)
    (a @ a).sum().item()
    note("matrix product")
    q = torch.randn(1, 4, 256, 64, device=device, dtype=torch.bfloat16, requires_grad=True)
    F.scaled_dot_product_attention(q, q, q, is_causal=True).sum().backward()
    note("attention")
    weight = torch.nn.Parameter(x)
    weight.grad = torch.ones_like(x)
    torch.optim.AdamW([weight], fused=True).step()
    note("optimizer")
    logits = torch.zeros(64, 512, device=device)
    targets = torch.zeros(64, dtype=torch.int64, device=device)
    loss.cross_entropy_backward_(logits, targets, 500, out_K=torch.empty(64, device=device))
    note("Triton kernel")
    return {"bytes": found, "reserved_bytes": torch.cuda.memory_reserved(device)}


def peaks(setting: Setting) -> Result:
    """Rates that this machine reaches: a bf16 matrix product, and a copy."""
    device = setting.torch_device
    size = 8192 if setting.is_gpu else 256
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    product_s = seconds_of(lambda: a @ b, device)
    source = torch.zeros(size * size, device=device)
    target = torch.empty_like(source)
    copy_s = seconds_of(lambda: target.copy_(source), device)
    return {
        "bf16_flops_per_s": 2 * size**3 / product_s,
        "copied_bytes_per_s": 2 * source.nbytes / copy_s,
    }


def loss_kernel(setting: Setting, dtype: torch.dtype) -> Result:
    """The loss and its gradient: the kernel, and plain torch, against double precision; then their time."""
    device = setting.torch_device
    vocabulary = VOCABULARY if setting.is_gpu else TINY_VOCABULARY
    padded = -(-vocabulary // 128) * 128
    found: Result = {"errors": {}}
    for rows in (1, 64, 257):
        logits = (torch.randn(rows, padded, device=device) * 3 - 90).to(dtype)
        targets = torch.randint(0, vocabulary, (rows,), device=device)
        targets[-1] = -1
        exact = logits[:, :vocabulary].double().requires_grad_()
        nats = F.cross_entropy(exact, targets, reduction="none", ignore_index=-1)
        (gradient,) = torch.autograd.grad(nats.sum(), exact)
        for name, plain in _paths(setting):
            mine, out = logits.clone(), torch.empty(rows, device=device)
            with _chosen(plain=plain):
                loss.cross_entropy_backward_(mine, targets, vocabulary, out_K=out)
            found["errors"][f"{rows} rows, {name}"] = {
                "nats": float((out.double() - nats.detach()).abs().max()),
                "gradient": float((mine[:, :vocabulary].double() - gradient).abs().max()),
                "padding": float(mine[:, vocabulary:].abs().max()),
            }
    rows = 4096 if setting.is_gpu else 64
    logits = torch.randn(rows, padded, device=device).to(dtype)
    targets, out = torch.randint(0, vocabulary, (rows,), device=device), torch.empty(rows, device=device)
    passed_bytes = 3 * logits.nbytes  # read, read again, written
    found |= _timed(setting, lambda: loss.cross_entropy_backward_(logits, targets, vocabulary, out_K=out), passed_bytes)
    return found


def optimizer_kernel_values(setting: Setting) -> Result:
    """The project's own comparison of the optimizer's kernel with plain torch, its tensors on the GPU."""
    torch.set_default_device(setting.torch_device)
    try:
        runpy.run_path(str(KERNEL_TESTS))
    finally:
        torch.set_default_device("cpu")
    return {"status": "pass", "compared_with": "update_chunked"}


def optimizer_kernel_time(setting: Setting, name: str) -> Result:
    """An update of 8-bit or 4-bit states: its time, and the bytes it moves."""
    plan = STATE_FORMATS[name]  # type: ignore[index]
    numbers = (1 << 26 if setting.is_gpu else 1 << 16) // BLOCK * BLOCK
    found: Result = {"numbers": numbers}
    for side, plain in _paths(setting):
        with _chosen(plain=plain):
            parameter = torch.nn.Parameter(torch.randn(numbers // BLOCK, BLOCK, device=setting.torch_device))
            groups = [{"params": [parameter], "weight_decay": 0.01}]
            optimizer = low_bit_adamw.LowBitAdamW(groups, plan, [parameter], betas=(0.9, 0.999), epsilon=1e-8, seed=0)
            parameter.grad = torch.randn_like(parameter)
            seconds = seconds_of(optimizer.step, setting.torch_device, times=10 if setting.is_gpu else 2)
        kept = [parameter, *(t for key, t in optimizer.state[parameter].items() if key != "step")]
        passed_bytes = parameter.grad.nbytes + 2 * sum(tensor.nbytes for tensor in kept)
        found |= _rates(side, seconds, passed_bytes)
    return found


_IS_PLAIN: list[bool] = []
"""Not empty while the plain paths are measured."""


class _chosen:  # noqa: N801  a context manager that reads like a function
    """Kernels, or the paths in plain torch."""

    def __init__(self, *, plain: bool) -> None:
        self._plain = plain
        self._without = without_triton(loss, low_bit_adamw)

    def __enter__(self) -> None:
        if self._plain:
            self._without.__enter__()
            _IS_PLAIN.append(True)

    def __exit__(self, *error: object) -> None:
        if self._plain:
            _IS_PLAIN.clear()
            self._without.__exit__(*error)


def _paths(setting: Setting) -> tuple[tuple[str, bool], ...]:
    return (("kernel", False), ("plain", True)) if setting.is_gpu else (("plain", True),)


def _timed(setting: Setting, work: Callable[[], object], passed_bytes: int) -> Result:
    found: Result = {}
    for side, plain in _paths(setting):
        with _chosen(plain=plain):
            seconds = seconds_of(work, setting.torch_device, times=10 if setting.is_gpu else 2)
        found |= _rates(side, seconds, passed_bytes)
    return found


def _rates(side: str, seconds: float, passed_bytes: int) -> Result:
    rate = passed_bytes / seconds / GIGA
    return {"passed_bytes": passed_bytes, f"{side}_s": seconds, f"{side}_gigabytes_per_s": rate}


Attends = Callable[[Tensor, Tensor, Tensor, float], Tensor]


def kinds_of_attention(layout: PackedLayout, device: torch.device) -> dict[str, tuple[Attends, torch.dtype]]:
    """The implementations that the package has here, each with the dtype it is compared in."""
    found: dict[str, tuple[Attends, torch.dtype]] = {"sdpa per run, fp32": (GroupedSDPA(layout), torch.float32)}
    if device.type != "cuda":
        return found
    offsets = layout.padded_cu_seqlens().to(device)
    found["sdpa per run, bf16"] = (GroupedSDPA(layout), torch.bfloat16)
    known = {"layout": layout, "device": device, "offsets": offsets, "longest": layout.longest}
    for name, kind in inspect.getmembers(attention, inspect.isclass):
        if kind.__module__ != attention.__name__ or not name.endswith("Attention") or kind is GroupedSDPA:
            continue
        arguments = inspect.signature(kind).parameters
        if not set(arguments) <= set(known):
            continue
        attend = kind(**{argument: known[argument] for argument in arguments})
        is_flash = kind is VarlenAttention
        for dtype in (torch.bfloat16,) if is_flash else (torch.bfloat16, torch.float32):
            found[f"{'flash varlen' if is_flash else name}, {str(dtype).removeprefix('torch.')}"] = (attend, dtype)
    return found


def exact_attention(q_NHD: Tensor, k_NHD: Tensor, v_NHD: Tensor, offsets: tuple[int, ...], scale: float) -> Tensor:
    """Causal attention in each document, written out in double precision."""
    pieces = []
    for start, end in pairwise(offsets):
        q_HTD, k_HTD, v_HTD = (t[start:end].double().transpose(0, 1) for t in (q_NHD, k_NHD, v_NHD))
        scores_HTT = q_HTD @ k_HTD.transpose(1, 2) * scale
        later_TT = torch.ones(end - start, end - start, dtype=torch.bool, device=q_NHD.device).triu(1)
        pieces.append((scores_HTT.masked_fill(later_TT, -torch.inf).softmax(-1) @ v_HTD).transpose(0, 1))
    return torch.cat(pieces)


def attention_of(setting: Setting, channels: int) -> Result:
    """Outputs and gradients of every kind, and whether a repetition has the same bits, deterministic or not."""
    device = setting.torch_device
    lengths = DOCUMENT_TOKENS if setting.is_gpu else DOCUMENT_TOKENS[:5]
    layout = PackedLayout.of((0, *np.cumsum(lengths).tolist()))
    inputs = [torch.randn(sum(lengths), 4, channels, device=device).requires_grad_() for _ in range(3)]
    scale = channels**-0.5
    found: Result = {}
    for name, (attend, dtype) in kinds_of_attention(layout, device).items():
        q, k, v = rounded = [t.detach().to(dtype).requires_grad_() for t in inputs]
        exact_y = exact_attention(q, k, v, layout.offsets, scale)
        exact = [exact_y, *torch.autograd.grad(exact_y.square().sum(), rounded)]

        def once(attend: Attends = attend, rounded: list[Tensor] = rounded) -> list[Tensor]:
            q, k, v = rounded
            y = attend(q, k, v, scale)
            return [y, *torch.autograd.grad(y.double().square().sum(), rounded)]

        try:
            errors = [relative_error(a, e) for a, e in zip(once(), exact, strict=True)]
            found[name] = {"errors": dict(zip(("y", "dq", "dk", "dv"), errors, strict=True))}
            for label, deterministic in (("repeats", False), ("repeats_deterministic", True)):
                torch.use_deterministic_algorithms(deterministic)
                first = once()
                found[name][label] = all(
                    torch.equal(a, b) for _ in range(REPEATS - 1) for a, b in zip(once(), first, strict=True)
                )
        except Exception as error:  # noqa: BLE001  one kind may not support this head
            found[name] = {"error": f"{type(error).__name__}: {error}"[:200]}
        finally:
            torch.use_deterministic_algorithms(False)
    return {"kinds": found}


def attention_time(setting: Setting) -> Result:
    """Milliseconds of a forward and a backward pass: 16 documents of 1,024 tokens, and many of 20."""
    device = setting.torch_device
    found: Result = {}
    for length, count in ((1024, 16), (20, 800)) if setting.is_gpu else ((20, 4),):
        layout = PackedLayout.of(tuple(range(0, length * count + 1, length)))
        for name, (attend, dtype) in kinds_of_attention(layout, device).items():
            q, k, v = (
                torch.randn(length * count, 12, 64, device=device, dtype=dtype, requires_grad=True) for _ in range(3)
            )

            def both(attend: Attends = attend, q: Tensor = q, k: Tensor = k, v: Tensor = v) -> None:
                torch.autograd.grad(attend(q, k, v, 0.125).sum(), (q, k, v))

            found[f"{count} x {length}, {name}"] = seconds_of(both, device, times=5) * 1e3
    return {"milliseconds": found}


FACTS = (
    Case("versions", versions),
    Case("device", device_facts, a_gpu),
    Case("bytes outside torch", bytes_outside_torch, a_gpu),
    Case("peaks", peaks),
)
KERNELS = (
    *(
        Case(f"loss, {str(dtype).removeprefix('torch.')}", partial(loss_kernel, dtype=dtype))
        for dtype in (torch.bfloat16, torch.float32, torch.float16)
    ),
    Case("optimizer, values", optimizer_kernel_values, a_gpu),
    *(
        Case(f"optimizer, {name}", partial(optimizer_kernel_time, name=name))
        for name in ("8bit", "split-8bit", "bf16-8bit", "bf16-4bit")
    ),
)
ATTENTION = (
    *(Case(f"heads of {channels}", partial(attention_of, channels=channels)) for channels in HEAD_CHANNELS),
    Case("time", attention_time),
)
