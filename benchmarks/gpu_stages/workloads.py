"""Models, batches and clocks that the stages share.

Weights and tokens are random: speed and memory do not depend on what is learned.
"""

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tunesmith.data.corpus import Split
from tunesmith.data.dataloader import Batch, pack_batches
from tunesmith.data.packing import windows_of
from tunesmith.data.spans import TokenSpans
from tunesmith.model.activation_checkpointing import apply_activation_checkpointing
from tunesmith.model.compile import apply_compile
from tunesmith.model.gpt2 import GPT2
from tunesmith.model.gpt2_config import GPT2Config
from tunesmith.optim.state_format import STATE_FORMATS
from tunesmith.planning.gpus import lookup_gpu
from tunesmith.training.optimizer import make_optimizer
from tunesmith.training.train_step import StepResult, train_step

SIZES = {
    "tiny": (2, 64, 2),
    "odd heads": (1, 60, 3),
    "gpt2": (12, 768, 12),
    "gpt2-medium": (24, 1024, 16),
    "gpt2-large": (36, 1280, 20),
    "gpt2-xl": (48, 1600, 25),
}
"""Layers, channels and heads."""
VOCABULARY, TINY_VOCABULARY = 50_257, 500
TRITON_TESTS = ("has_triton", "can_launch")
"""Names under which the package may ask whether its Triton kernels can be used."""
LAUNCHES = frozenset({"cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx"})


def config_of(size: str) -> GPT2Config:
    """The shape of a size; the small ones have a small vocabulary."""
    layers, channels, heads = SIZES[size]
    vocabulary = VOCABULARY if size.startswith("gpt2") else TINY_VOCABULARY
    return GPT2Config(vocabulary, 1024, channels, layers, heads, 4 * channels)


def new_model(size: str, device: torch.device, *, dtype: torch.dtype = torch.bfloat16) -> GPT2:
    """Random fp32 weights, made on the device: on a CPU 1.5 billion of them take 15 s.

    Args:
        size: of `SIZES`.
        device: where.
        dtype: of the arithmetic.
    """
    with torch.device(device):
        model = GPT2(config_of(size))
        model.initialize(torch.Generator(device).manual_seed(0))
    model.compute_dtype = dtype
    return model.train()


def new_split(lengths: tuple[int, int], n_tokens: int, vocabulary: int) -> Split:
    """Random documents of lengths between two bounds, at least so many tokens in all."""
    random = np.random.default_rng(0)
    n_documents = max(n_tokens * 2 // sum(lengths) + 1, 8)
    counts = random.integers(lengths[0], lengths[1] + 1, n_documents)
    tokens = random.integers(0, vocabulary, counts.sum() + 1).astype(np.uint16)
    none = np.zeros_like(counts)
    return Split(tokens, TokenSpans(1 + np.cumsum(counts) - counts, counts, none, none), text_bytes=1)


def batches_of(size: str, lengths: tuple[int, int], tokens: int, count: int) -> list[Batch]:
    """Micro-batches of one step.

    Args:
        size: of the model that reads them.
        lengths: bounds of the documents' lengths.
        tokens: of a micro-batch.
        count: of micro-batches.
    """
    split = new_split(lengths, (count + 1) * tokens, config_of(size).vocab_size)
    return list(pack_batches(split, windows_of(split.spans, 1024), tokens))[:count]


def scaler_for(device: torch.device, *, enabled: bool = False) -> torch.amp.GradScaler:
    """A loss scaler, for fp16 only."""
    return torch.amp.GradScaler(device.type, enabled=enabled)


@dataclass
class Trainee:
    """A model with its optimizer, ready to make steps.

    Attributes:
        model: in training mode.
        optimizer: of its parameters.
        batches: micro-batches of every step.
        scaler: of the loss.
    """

    model: GPT2
    optimizer: torch.optim.Optimizer
    batches: list[Batch]
    scaler: torch.amp.GradScaler

    @classmethod
    def of(
        cls,
        size: str,
        device: torch.device,
        batches: list[Batch],
        *,
        memory_mode: str = "fp32",
        checkpointing: str = "none",
        compiled: bool = False,
        dtype: torch.dtype = torch.bfloat16,
    ) -> "Trainee":
        """As the package sets a run up."""
        model = new_model(size, device, dtype=dtype)
        if compiled:
            apply_compile(model)
        apply_activation_checkpointing(model, checkpointing)  # type: ignore[arg-type]
        optimizer = make_optimizer(model, weight_decay=0.01, plan=STATE_FORMATS[memory_mode])  # type: ignore[index]
        return cls(model, optimizer, batches, scaler_for(device, enabled=dtype == torch.float16))

    def step(self) -> StepResult:
        """One optimizer step."""
        return train_step(
            self.model, self.optimizer, self.batches, learning_rate=1e-4, max_grad_norm=1.0, scaler=self.scaler
        )

    @property
    def step_tokens(self) -> int:
        """Predicted in a step."""
        return sum(len(batch.targets) for batch in self.batches)


def wait(device: torch.device) -> None:
    """Until everything asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(work: Callable[[], Any], device: torch.device, *, times: int = 10, warm_ups: int = 2) -> float:
    """Mean seconds of some work, its warm-ups left out."""
    for _ in range(warm_ups):
        work()
    wait(device)
    began_s = time.perf_counter()
    for _ in range(times):
        work()
    wait(device)
    return (time.perf_counter() - began_s) / times


def memory(device: torch.device, others_bytes: int = 0) -> dict[str, int]:
    """Bytes on a GPU: peaks inside of torch, and what its process has outside; nothing for a CPU.

    Args:
        device: the device.
        others_bytes: what was in use before this process began.
    """
    if device.type != "cuda":
        return {}
    free, total = torch.cuda.mem_get_info(device)
    found = {
        "allocated_peak_bytes": torch.cuda.max_memory_allocated(device),
        "reserved_peak_bytes": torch.cuda.max_memory_reserved(device),
        "outside_torch_bytes": total - free - torch.cuda.memory_reserved(device) - others_bytes,
    }
    pinned = getattr(torch.cuda, "host_memory_stats", dict)()
    if "allocated_bytes.peak" in pinned:
        found["pinned_peak_bytes"] = int(pinned["allocated_bytes.peak"])
    return found


def driver_bytes_in_use() -> int | None:
    """On the first GPU as its driver counts them, without starting anything on it; None where it does not say."""
    try:
        import pynvml

        pynvml.nvmlInit()
        return int(pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(0)).used)
    except Exception:  # noqa: BLE001  whatever the driver's library raises, it is a fact less
        return None


@contextmanager
def memory_limit(device: torch.device, limit_bytes: int) -> Iterator[None]:
    """As on a GPU with less memory: torch may reserve so many bytes."""
    if device.type != "cuda":
        yield
        return
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(limit_bytes / total, device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)


def flops_per_token(config: GPT2Config, mean_context: float) -> float:
    """Of a training step, as PaLM and nanoGPT count them, all pairs of tokens of a context included."""
    return 6 * config.matrix_parameters + 12 * config.n_layer * config.n_embd * mean_context


def peak_flops_per_s(device: torch.device) -> float | None:
    """Of the data sheet; None for a GPU that is not known, and for a CPU."""
    known = lookup_gpu(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    teraflops = getattr(getattr(known, "speed", known), "tflops", None)
    return teraflops * 1e12 if teraflops else None


def launches_and_syncs(step: Callable[[], Any], device: torch.device) -> dict[str, int]:
    """Kernels launched, and host syncs, of one step on a GPU; nothing for a CPU."""
    if device.type != "cuda":
        return {}
    wait(device)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    syncs = sum("synchroniz" in str(warning.message).lower() for warning in caught)
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        step()
        wait(device)
    launches = sum(event.count for event in profile.key_averages() if event.key in LAUNCHES)
    return {"launches": launches, "host_syncs": syncs}


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm of what is expected."""
    expected = expected.double()
    return float((actual.double() - expected).norm() / expected.norm())


@contextmanager
def without_triton(*modules: ModuleType) -> Iterator[bool]:
    """Let modules take their paths in plain torch; True where any of them can be told to."""
    replaced = []
    for module in modules:
        for name in TRITON_TESTS:
            if hasattr(module, name):
                replaced.append((module, name, getattr(module, name)))
                setattr(module, name, lambda *_arguments, **_others: False)
    try:
        yield bool(replaced)
    finally:
        for module, name, was in replaced:
            setattr(module, name, was)
