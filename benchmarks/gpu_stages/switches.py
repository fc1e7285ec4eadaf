"""Decisions about speed that only a GPU can make: each a switch with two settings, both measured, and their ratio."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from gpu_stages.generation import FILTERED
from gpu_stages.running import Case, Result, Setting, a_gpu, anything
from gpu_stages.workloads import TINY_VOCABULARY, VOCABULARY, Trainee, batches_of, seconds_of, without_triton
from tunesmith.generation import sampling_batched
from tunesmith.generation.sampling_batched import BatchedSamplingParams
from tunesmith.model import loss
from tunesmith.model.loss import token_cross_entropy
from tunesmith.optim import low_bit_adamw
from tunesmith.optim.state_format import STATE_FORMATS

Work = Callable[[], object]


@dataclass(frozen=True)
class Switch:
    """A decision.

    Attributes:
        name: what is decided.
        off: the setting that the ratio is measured against.
        on: the other one.
        prepare: makes both pieces of work, off and on; None for one that this version of the package does not have.
    """

    name: str
    off: str
    on: str
    prepare: Callable[[Setting], tuple[Work | None, Work | None]]


def measured(setting: Setting, switch: Switch) -> Result:
    """Seconds of both settings, and how many times faster `on` is."""
    times, found = 10 if setting.is_gpu else 2, {"off": switch.off, "on": switch.on}
    seconds = [
        None if work is None else seconds_of(work, setting.torch_device, times=times)
        for work in switch.prepare(setting)
    ]
    off_s, on_s = seconds
    if off_s is None or on_s is None:
        return {**found, "status": "skipped", "reason": "one of the settings is not in this version"}
    return {**found, "off_s": off_s, "on_s": on_s, "ratio": off_s / on_s}


def plainly(work: Work, *modules: object) -> Work | None:
    """The same in plain torch; None where the modules have no other way."""
    with without_triton(*modules) as has_another:  # type: ignore[arg-type]
        if not has_another:
            return None

    def run() -> object:
        with without_triton(*modules):  # type: ignore[arg-type]
            return work()

    return run


def sampling(setting: Setting, n_texts: int) -> tuple[Work | None, Work | None]:
    """Top-k and top-p of many rows."""
    device = setting.torch_device
    vocabulary = VOCABULARY if setting.is_gpu else TINY_VOCABULARY
    logits_NV = torch.randn(n_texts, vocabulary, device=device) * 3
    uniform_N = torch.rand(n_texts, device=device, dtype=torch.float64)
    rules = BatchedSamplingParams.of([FILTERED] * n_texts, vocabulary).to(device, sorts=True, penalizes=False)
    work = partial(sampling_batched.sample_tokens, logits_NV, rules, uniform_N)
    return plainly(work, sampling_batched), work


def accumulation(setting: Setting) -> tuple[Work | None, Work | None]:
    """The sum of bf16 gradients, rounded by chance."""
    device = setting.torch_device
    parameter = torch.nn.Parameter(torch.zeros(1 << 24 if setting.is_gpu else 1 << 16, device=device).view(-1, 256))
    optimizer = low_bit_adamw.LowBitAdamW(
        [{"params": [parameter], "weight_decay": 0.0}],
        STATE_FORMATS["bf16-8bit"],
        [parameter],
        betas=(0.9, 0.999),
        epsilon=1e-8,
        seed=0,
    )
    gradient = torch.randn(parameter.shape, device=device).to(parameter.dtype)

    def work() -> Tensor:
        parameter.grad = torch.zeros_like(parameter)
        return optimizer.accumulate(parameter, gradient)

    return plainly(work, low_bit_adamw), work


def evaluation(setting: Setting) -> tuple[Work | None, Work | None]:
    """Losses without gradients."""
    device = setting.torch_device
    rows, channels, vocabulary = (8192, 768, VOCABULARY) if setting.is_gpu else (64, 64, TINY_VOCABULARY)
    head_VC = torch.randn(-(-vocabulary // 128) * 128, channels, device=device)
    hidden_NC = torch.randn(rows, channels, device=device).to(torch.bfloat16)
    targets_N = torch.randint(0, vocabulary, (rows,), device=device)
    work = partial(token_cross_entropy, hidden_NC, head_VC, targets_N, vocabulary)
    return plainly(work, loss, loss), work


def weight_gradient(setting: Setting) -> tuple[Work | None, Work | None]:
    """A weight gradient added to its fp32 sum: product in bf16, cast and addition, or by the product itself."""
    device = setting.torch_device
    rows, channels = (8192, 1280) if setting.is_gpu else (128, 64)
    x_NI = torch.randn(rows, channels, device=device).to(torch.bfloat16)
    grad_NO = torch.randn(rows, 4 * channels, device=device).to(torch.bfloat16)
    sum_IO = torch.zeros(channels, 4 * channels, device=device)

    def cast() -> Tensor:
        return sum_IO.add_((x_NI.t() @ grad_NO).float())

    def by_product() -> Tensor:
        return torch.addmm(sum_IO, x_NI.t(), grad_NO, out_dtype=torch.float32, out=sum_IO)

    return cast, by_product if setting.is_gpu else None


def head(setting: Setting, centered: bool) -> tuple[Work | None, Work | None]:  # noqa: FBT001
    """Logits of few rows: as bf16, or exact to fp32, by a centered copy of the head or by the product's own output."""
    device = setting.torch_device
    rows, channels, vocabulary = (64, 768, 50_304) if setting.is_gpu else (8, 64, 512)
    head_VC = torch.randn(vocabulary, channels, device=device)
    hidden_NC = torch.randn(rows, channels, device=device).to(torch.bfloat16)

    def as_bf16() -> Tensor:
        return F.linear(hidden_NC, head_VC.to(torch.bfloat16)).float()

    def with_copy() -> Tensor:
        copy_VC = torch.sub(head_VC, head_VC.mean(dim=0), out=torch.empty_like(head_VC, dtype=torch.bfloat16))
        return F.linear(hidden_NC, copy_VC).float()

    def in_fp32() -> Tensor:
        return torch.mm(hidden_NC, head_VC.to(torch.bfloat16).t(), out_dtype=torch.float32)

    if centered:
        return as_bf16, with_copy
    return as_bf16, in_fp32 if setting.is_gpu else None


def step(
    setting: Setting, *, deterministic: bool = False, checkpointing: str = "none"
) -> tuple[Work | None, Work | None]:
    """A training step, as it is and otherwise."""
    size, tokens = ("gpt2", 8192) if setting.is_gpu else ("tiny", 512)
    batches = batches_of(size, (64, 1024), tokens, 1)
    plain = Trainee.of(size, setting.torch_device, batches)
    other = Trainee.of(size, setting.torch_device, batches, checkpointing=checkpointing)

    def on() -> object:
        torch.use_deterministic_algorithms(deterministic)
        try:
            return other.step()
        finally:
            torch.use_deterministic_algorithms(False)

    return plain.step, on


def fp8_products(setting: Setting, channels: int, *, compiled: bool) -> tuple[Work | None, Work | None]:
    """The three products of one linear layer, C to 4 C, forward and backward: bf16, or fp8 with a scale per tensor."""
    device = setting.torch_device
    if not setting.is_gpu or torch.cuda.get_device_capability(device) < (8, 9):
        return None, None
    x_NI = torch.randn(8192, channels, device=device).to(torch.bfloat16)
    weight_OI = torch.randn(4 * channels, channels, device=device).to(torch.bfloat16)
    grad_NO = torch.randn(8192, 4 * channels, device=device).to(torch.bfloat16)

    def in_bf16() -> tuple[Tensor, ...]:
        return x_NI @ weight_OI.t(), grad_NO @ weight_OI, grad_NO.t() @ x_NI

    def cast(t: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        scale = torch.finfo(dtype).max / t.abs().amax().float().clamp(min=1e-12)
        return (t.float() * scale).to(dtype), 1 / scale

    def in_fp8() -> tuple[Tensor, ...]:
        x, x_scale = cast(x_NI, torch.float8_e4m3fn)
        weight, weight_scale = cast(weight_OI, torch.float8_e4m3fn)
        grad, grad_scale = cast(grad_NO, torch.float8_e5m2)
        product = partial(torch._scaled_mm, out_dtype=torch.bfloat16)  # noqa: SLF001  torch has no public name for it
        # the second operand is column-major: transposed copies for both backward products
        return (
            product(x, weight.t(), x_scale, weight_scale),
            product(grad, weight.t().contiguous().t(), grad_scale, weight_scale),
            product(grad.t().contiguous(), x.t().contiguous().t(), grad_scale, x_scale),
        )

    return in_bf16, torch.compile(in_fp8) if compiled else in_fp8


SWITCHED = (
    Switch("sampling, 1 text", "sort", "kernel", partial(sampling, n_texts=1)),
    Switch("sampling, 64 texts", "sort", "kernel", partial(sampling, n_texts=64)),
    Switch("stochastic accumulation of bf16 gradients", "torch", "kernel", accumulation),
    Switch("weight gradients summed in fp32", "product, cast, add", "by the product", weight_gradient),
    Switch("loss of an evaluation", "torch", "kernel", evaluation),
    Switch("logits of 64 rows, head centered", "bf16", "centered copy", partial(head, centered=True)),
    Switch("logits of 64 rows, output in fp32", "bf16", "fp32 output", partial(head, centered=False)),
    Switch("deterministic algorithms, a step", "off", "on", partial(step, deterministic=True)),
    Switch("activation checkpointing, a step", "none", "selective", partial(step, checkpointing="selective")),
    Switch("fp8 products, C = 1280", "bf16", "fp8", partial(fp8_products, channels=1280, compiled=False)),
    Switch(
        "fp8 products, C = 1280, casts compiled", "bf16", "fp8", partial(fp8_products, channels=1280, compiled=True)
    ),
    Switch(
        "fp8 products, C = 1600, casts compiled", "bf16", "fp8", partial(fp8_products, channels=1600, compiled=True)
    ),
)
SWITCHES = tuple(
    Case(switch.name, partial(measured, switch=switch), a_gpu if "fp8" in switch.name else anything)
    for switch in SWITCHED
)
"""Whether compiling pays is decided from the training stage: seconds it takes, tokens per second with and without."""
