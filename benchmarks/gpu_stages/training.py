"""Training as written and compiled, six plans in the memory of a 12 GB GPU, and recovery when memory runs out."""

import time
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from gpu_stages.running import Case, Result, Setting, a_compiler, a_gpu, anything
from gpu_stages.workloads import (
    Trainee,
    batches_of,
    config_of,
    driver_bytes_in_use,
    flops_per_token,
    launches_and_syncs,
    memory,
    memory_limit,
    new_split,
    peak_flops_per_s,
    wait,
)
from tunesmith.data.dataloader import TrainBatchSampler
from tunesmith.data.packing import plan_micro_batches, windows_of
from tunesmith.data.prefetch import prefetch
from tunesmith.model.attention import PackedLayout, forward_packed, to_model_device
from tunesmith.model.compile import inference_mode
from tunesmith.model.loss import token_cross_entropy
from tunesmith.optim.state_format import STATE_FORMATS
from tunesmith.planning.calibration_cache import CalibrationCache
from tunesmith.planning.fit import FitRequest, fastest_fit
from tunesmith.planning.hardware import GIB, hardware_for_gpu
from tunesmith.planning.memory_model import StepSpec
from tunesmith.training.train_step import train_step
from tunesmith.utils.oom import in_pieces

WARM_UP_STEPS, TIMED_STEPS = 4, 12
PLAN_STEPS, TIMED_FROM = 5, 2
LIMIT_OF_RECOVERY_BYTES = 5 * GIB


def training(setting: Setting, *, lengths: tuple[int, int], compiled: bool, tokens: int, micro_batches: int) -> Result:
    """Tokens per second of the package's own step, its batches made ahead as in a run.

    Args:
        setting: where.
        lengths: bounds of the documents' lengths.
        compiled: whether blocks are compiled.
        tokens: of a micro-batch, on a GPU.
        micro_batches: of a step.
    """
    from torch._dynamo.utils import counters

    device = setting.torch_device
    size, tokens = ("gpt2", tokens) if setting.is_gpu else ("tiny", 1024)
    warm_up, timed = (WARM_UP_STEPS, TIMED_STEPS) if setting.is_gpu else (1, 2)
    step_tokens = tokens * micro_batches
    split = new_split(lengths, (warm_up + timed + 2) * step_tokens, config_of(size).vocab_size)
    windows = windows_of(split.spans, 1024)
    shape = plan_micro_batches(
        windows.lengths, epoch_tokens=split.n_tokens, tokens_per_step=step_tokens, max_tokens=tokens
    )
    order = TrainBatchSampler(split, context_length=1024, layout=shape, constant_size=True, seed=0)
    counters.clear()
    trainee = Trainee.of(size, device, [], compiled=compiled)
    began_s = time.perf_counter()
    warm_up_s, graphs, predicted = 0.0, 0, 0
    for number, batches in enumerate(prefetch(map(order.batches, range(warm_up + timed)))):
        if number == warm_up:
            wait(device)
            warm_up_s = time.perf_counter() - began_s
            graphs, predicted, began_s = counters["stats"]["unique_graphs"], 0, time.perf_counter()
        trainee.batches = list(batches)
        trainee.step()
        predicted += trainee.step_tokens
    wait(device)
    rate = predicted / (time.perf_counter() - began_s)
    mean_context = float((windows.lengths**2).sum() / windows.lengths.sum())
    flops_per_s = rate * flops_per_token(trainee.model.config, mean_context)
    peak = peak_flops_per_s(device)
    return {
        "tokens_per_s": rate,
        "micro_batches": f"{shape.per_step} x {shape.tokens:,}",
        "flops_per_s": flops_per_s,
        "mfu": flops_per_s / peak if peak else None,
        "warm_up_s": warm_up_s,
        "graphs_warming_up": graphs,
        "graphs_measuring": counters["stats"]["unique_graphs"] - graphs,
        **memory(device),
        **launches_and_syncs(trainee.step, device),
    }


@dataclass(frozen=True)
class Plan:
    """What is fine-tuned in 12 GB.

    Attributes:
        size: of the model.
        memory_mode: how weights, gradients and moments are kept.
        step_tokens: the effective batch.
        document_tokens: length of every document.
        compiled: whether blocks are compiled.
    """

    size: str
    memory_mode: str
    step_tokens: int
    document_tokens: int = 1024
    compiled: bool = False

    @property
    def name(self) -> str:
        """Of its case."""
        short = f", documents of {self.document_tokens}" if self.document_tokens != 1024 else ""
        return f"{self.size}, {self.memory_mode}, {self.step_tokens:,}{short}{', compiled' if self.compiled else ''}"


PLANS = (
    Plan("gpt2", "fp32", 32_768),
    Plan("gpt2-medium", "fp32", 4096),
    Plan("gpt2-large", "8bit", 4096),
    Plan("gpt2-xl", "split-8bit+fused-backward", 4096),
    Plan("gpt2-xl", "bf16-8bit", 32_768),
    Plan("gpt2", "fp32", 32_768, document_tokens=20),
)
"""The fifth one is offload: its activations wait in the host's memory."""
PLANS_OF_GPUS = (*PLANS[1:3], PLANS[5])
"""With the tiny model of a dry run they are hardly different from others."""
PLANS_COMPILED = (replace(PLANS[1], compiled=True), replace(PLANS[4], compiled=True))


def in_12_gb(setting: Setting, plan: Plan) -> Result:
    """As planned for a 12 GB GPU, in that plan's budget: bytes planned, allocated and reserved, and a falling loss."""
    device = setting.torch_device
    others = (driver_bytes_in_use() or 0) if setting.is_gpu else 0
    size = plan.size if setting.is_gpu else "tiny"
    hardware = replace(hardware_for_gpu("RTX 4070 Ti", "12GB"), kind=device.type)  # type: ignore[arg-type]
    experience = CalibrationCache({})
    states = STATE_FORMATS[plan.memory_mode]  # type: ignore[index]
    request = FitRequest(
        demand=StepSpec(config_of(size), states, "none", 0, 0, 2, hardware.kind),
        memory_mode="auto",
        fused_backward="auto",
        activation_checkpointing="auto",
        step_tokens=plan.step_tokens if setting.is_gpu else 1024,
        longest_tokens=plan.document_tokens,
        mean_context_tokens=float(plan.document_tokens),
        correction_of=lambda demand: experience.correction(demand, hardware),
    )
    way = fastest_fit(request, hardware, states)
    batches = batches_of(size, (plan.document_tokens,) * 2, way.demand.tokens, way.demand.micro_batches)
    with memory_limit(device, hardware.budget.value):
        trainee = Trainee.of(
            size,
            device,
            batches,
            memory_mode=plan.memory_mode,
            checkpointing=way.demand.activation_checkpointing,
            compiled=plan.compiled,
        )
        losses, began_s = [], 0.0
        for number in range(PLAN_STEPS):
            if number == TIMED_FROM:
                wait(device)
                began_s = time.perf_counter()
            result = trainee.step()
            losses.append(result.nats / result.tokens)
        wait(device)
        rate = result.tokens * (PLAN_STEPS - TIMED_FROM) / (time.perf_counter() - began_s)
        trained = memory(device, others)
        if setting.is_gpu:
            torch.cuda.reset_peak_memory_stats(device)
        evaluated = evaluate(trainee, way.demand.tokens)
        evaluation = memory(device, others)
    flops_per_s = rate * flops_per_token(config_of(size), plan.document_tokens)
    peak = peak_flops_per_s(device)
    return {
        "memory_mode": plan.memory_mode,
        "checkpointing": way.demand.activation_checkpointing,
        "micro_batches": f"{way.demand.micro_batches} x {way.demand.tokens:,}",
        "loss_first": float(losses[0]),
        "loss_last": float(losses[-1]),
        "evaluated_nats": evaluated,
        "tokens_per_s": rate,
        "mfu": flops_per_s / peak if peak else None,
        "budget_bytes": hardware.budget.value,
        "planned_bytes": way.memory.peak_bytes,
        **trained,
        "evaluation_allocated_peak_bytes": evaluation.get("allocated_peak_bytes"),
        "evaluation_reserved_peak_bytes": evaluation.get("reserved_peak_bytes"),
    }


def evaluate(trainee: Trainee, tokens: int) -> float:
    """Mean nats of the first micro-batch, by the way that evaluation takes."""
    model, batch = trainee.model, trainee.batches[0]
    layout = PackedLayout(batch.cu_seqlens, batch.max_seqlen)
    with inference_mode(model):
        hidden_NC = forward_packed(model, batch.tokens, batch.positions, layout)[:tokens]
        targets_N = np.zeros(len(hidden_NC), np.int64)
        targets_N[: len(batch.targets)] = batch.targets[:tokens]
        nats_N = token_cross_entropy(
            hidden_NC, model.head_VC, to_model_device(model, targets_N), model.config.vocab_size
        )
        return float(nats_N.mean())


def out_of_memory(setting: Setting) -> Result:
    """A step that does not fit is done in smaller pieces, and a failed attempt leaves nothing behind."""
    device = setting.torch_device
    trainee = Trainee.of("gpt2", device, [])
    step_tokens = 32_768
    before = torch.cuda.memory_allocated(device)
    left: list[int] = []

    def work(pieces: int) -> float:
        trainee.optimizer.zero_grad(set_to_none=True)
        left.append(torch.cuda.memory_allocated(device) - before)
        batches = batches_of("gpt2", (1024, 1024), step_tokens // pieces, pieces)
        result = train_step(
            trainee.model, trainee.optimizer, batches, learning_rate=1e-4, max_grad_norm=1.0, scaler=trainee.scaler
        )
        return float(result.nats / result.tokens)

    with memory_limit(device, LIMIT_OF_RECOVERY_BYTES):
        nats, pieces = in_pieces(work, pieces=1, most=32, what="a window", hint="")
    recovered = pieces > 1 and max(left) < GIB // 64
    return {
        "status": "pass" if recovered else "fail",
        "pieces": pieces,
        "bytes_left_at_each_attempt": left,
        "nats_per_token": nats,
        **memory(device),
    }


TRAINING = (
    Case(
        "1,024 tokens, as written",
        partial(training, lengths=(1024, 1024), compiled=False, tokens=16_384, micro_batches=1),
    ),
    Case(
        "1,024 tokens, compiled",
        partial(training, lengths=(1024, 1024), compiled=True, tokens=16_384, micro_batches=1),
        a_compiler,
    ),
)
IN_12_GB = tuple(
    Case(plan.name, partial(in_12_gb, plan=plan), a_gpu if plan in PLANS_OF_GPUS else anything) for plan in PLANS
)
IN_12_GB_COMPILED = tuple(Case(plan.name, partial(in_12_gb, plan=plan), a_gpu) for plan in PLANS_COMPILED)
OUT_OF_MEMORY = (Case("5 GiB for a step of 32,768 tokens", out_of_memory, a_gpu),)
