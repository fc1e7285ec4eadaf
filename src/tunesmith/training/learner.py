"""The model that learns and its optimizer, by a plan; and the plan itself where it is made from what they need."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from tunesmith.config import TrainConfig
from tunesmith.data.corpus import Corpus
from tunesmith.distributed.team import ALONE, Team
from tunesmith.messages.catalogue import say
from tunesmith.model.activation_checkpointing import apply_activation_checkpointing
from tunesmith.model.compile import apply_compile, can_compile
from tunesmith.model.gpt2 import GPT2
from tunesmith.model.gpt2_config import GPT2Config
from tunesmith.model.hf_checkpoint import init_gpt2, load_gpt2
from tunesmith.model.hub import local_folder
from tunesmith.model.lora import apply_lora, freeze, load_adapter
from tunesmith.optim.in_backward_adamw import InBackwardAdamW
from tunesmith.optim.quantization import split_fp32
from tunesmith.optim.state_format import STATE_FORMATS
from tunesmith.planning.calibration_cache import CalibrationCache
from tunesmith.planning.hardware import detect_hardware
from tunesmith.training.checkpoint import ADAPTER
from tunesmith.training.memory_lesson import MemoryLesson
from tunesmith.training.optimizer import make_optimizer
from tunesmith.training.plan import TrainPlan, make_plan
from tunesmith.training.sharding_choice import Processes
from tunesmith.utils.device import Decision, peak_memory_bytes, reset_peak_memory, use_device
from tunesmith.utils.oom import free_memory

EQUAL_ROOM = 0.95
"""Of the memory that one process finds free: what another one finds a moment later may be so much less."""


@dataclass(frozen=True)
class Start:
    """Where the weights come from: the base model, or a checkpoint of this run."""

    weights: Path
    checkpoint: bool


def planned_learner(
    config: TrainConfig, shape: GPT2Config, corpus: Corpus, start: Start
) -> tuple[TrainPlan, GPT2, torch.optim.Optimizer, MemoryLesson]:
    """A plan and what it needs; where memory is tight, planned again after two short real steps."""
    hardware, experience = detect_hardware(config.device, config.precision), CalibrationCache.kept()
    plan, demand = make_plan(config, shape, corpus, hardware, experience)
    device = torch.device(plan.device)
    reset_peak_memory(device)
    lesson = MemoryLesson(demand, hardware, experience, peak_memory_bytes(device))
    model, optimizer = make_learner(config, plan, start)
    learned = lesson.before(model, optimizer, plan.peak_memory_bytes)
    if learned is experience:
        return plan, model, optimizer, lesson
    before = plan.states
    plan, demand = make_plan(config, shape, corpus, hardware, learned)
    if plan.states != before:
        del model, optimizer
        free_memory()
        model, optimizer = make_learner(config, plan, start)
    return plan, model, optimizer, replace(lesson, demand=demand, experience=learned)


def plan_of_team(config: TrainConfig, shape: GPT2Config, corpus: Corpus, team: Team) -> TrainPlan | None:
    """A plan for the process with the least room; only the first one makes it."""
    hardware = detect_hardware(config.device, config.precision)
    rooms = team.gather([hardware.kind, hardware.budget.value])
    if not team.leads:
        return None
    least_bytes = min(budget for _, budget in rooms)
    if least_bytes < EQUAL_ROOM * hardware.budget.value:
        rank = [budget for _, budget in rooms].index(least_bytes)
        reason = say("rank {rank} may take no more", rank=rank)
        hardware = replace(hardware, budget=Decision(least_bytes, reason))
    plan, _ = make_plan(config, shape, corpus, hardware, CalibrationCache.kept(), Processes(team.size, team.local_size))
    return plan


def make_learner(
    config: TrainConfig, plan: TrainPlan, start: Start, team: Team = ALONE
) -> tuple[GPT2, torch.optim.Optimizer]:
    """The model on its device, or this process's part of it, and its optimizer."""
    device = torch.device(plan.device)
    use_device(device)
    model = load_model(config, plan, start.weights if start.checkpoint else None)
    if plan.shard:
        from tunesmith.distributed.sharding import shard

        shard(model, team, device)
    model = model.to(device).train()
    model.compute_dtype = plan.dtype  # a checkpoint may know better
    if plan.compiled and can_compile(device).value:  # a run may be resumed on a machine that cannot
        apply_compile(model)
    apply_activation_checkpointing(model, plan.recompute)
    return model, make_optimizer(
        model,
        weight_decay=plan.weight_decay,
        plan=STATE_FORMATS[plan.states],
        seed=plan.seed,
        beta2=plan.beta2,
        muon=plan.optimizer == "muon",
    )


@torch.no_grad()
def put_back(model: GPT2, optimizer: torch.optim.Optimizer, stored: GPT2) -> None:
    """Overwrite weights that went bad, in the form that the optimizer keeps them in."""
    for parameter, whole in zip(model.parameters(), stored.parameters(), strict=True):
        is_split = "remainder" in optimizer.state.get(parameter, {})
        parameter.copy_(split_fp32(whole)[0] if is_split else whole)
    if isinstance(optimizer, InBackwardAdamW):
        optimizer.norm_before = None  # unless the checkpoint knows it


def load_model(config: TrainConfig, plan: TrainPlan, checkpoint: Path | None) -> GPT2:
    """The weights to begin or to go on with, and which of them are learned."""
    if plan.lora is not None:
        model = load_gpt2(local_folder(config.model), dropout=plan.dropout)
        apply_lora(model, plan.lora, seed=plan.seed)
        if checkpoint is not None:
            load_adapter(model, checkpoint / ADAPTER)
        return model
    if checkpoint is not None:
        model = load_gpt2(checkpoint, dropout=plan.dropout)
    elif config.from_scratch:
        model = init_gpt2(local_folder(config.model), dropout=plan.dropout, seed=plan.seed)
    else:
        model = load_gpt2(local_folder(config.model), dropout=plan.dropout)
    freeze(model, plan.frozen)
    return model
