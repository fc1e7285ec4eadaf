"""The model that learns and its optimizer, by a plan; and the plan itself where it is made from what they need."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from tunesmith.config import TrainConfig
from tunesmith.data.corpus import Corpus
from tunesmith.distributed.world import SINGLE_PROCESS, World
from tunesmith.machine import Choice, peak_memory_bytes, reset_peak_memory, use_device
from tunesmith.messages.catalogue import say
from tunesmith.model.adapters import attach, load_adapter
from tunesmith.model.compiled import can_compile, compile_in_place
from tunesmith.model.freezing import freeze
from tunesmith.model.gpt2 import GPT2
from tunesmith.model.hub import local_folder
from tunesmith.model.recomputation import recompute
from tunesmith.model.shape import GPT2Config
from tunesmith.model.weights import load_gpt2, new_gpt2
from tunesmith.optimizers.in_backward import InBackwardAdamW
from tunesmith.optimizers.rounding import split
from tunesmith.optimizers.state_plan import STATE_PLANS
from tunesmith.out_of_memory import free_memory
from tunesmith.planning.experience import Experience
from tunesmith.planning.hardware import hardware_here
from tunesmith.training.checkpoint import ADAPTER
from tunesmith.training.memory_lesson import MemoryLesson
from tunesmith.training.optimizer import make_optimizer
from tunesmith.training.plan import TrainPlan, make_plan
from tunesmith.training.sharding_choice import Processes

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
    hardware, experience = hardware_here(config.device, config.precision), Experience.kept()
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


def plan_for_world(config: TrainConfig, shape: GPT2Config, corpus: Corpus, world: World) -> TrainPlan | None:
    """A plan for the process with the least room; only the first one makes it."""
    hardware = hardware_here(config.device, config.precision)
    rooms = world.all_gather_object([hardware.kind, hardware.budget.value])
    if not world.is_main_process:
        return None
    least_bytes = min(budget for _, budget in rooms)
    if least_bytes < EQUAL_ROOM * hardware.budget.value:
        rank = [budget for _, budget in rooms].index(least_bytes)
        reason = say("rank {rank} may take no more", rank=rank)
        hardware = replace(hardware, budget=Choice(least_bytes, reason))
    plan, _ = make_plan(config, shape, corpus, hardware, Experience.kept(), Processes(world.size, world.local_size))
    return plan


def make_learner(
    config: TrainConfig, plan: TrainPlan, start: Start, world: World = SINGLE_PROCESS
) -> tuple[GPT2, torch.optim.Optimizer]:
    """The model on its device, or this process's part of it, and its optimizer."""
    device = torch.device(plan.device)
    use_device(device)
    model = load_model(config, plan, start.weights if start.checkpoint else None)
    if plan.shard:
        from tunesmith.distributed.fsdp import apply_fsdp

        apply_fsdp(model, world, device)
    model = model.to(device).train()
    model.compute_dtype = plan.dtype  # a checkpoint may know better
    if plan.compiled and can_compile(device).value:  # a run may be resumed on a machine that cannot
        compile_in_place(model)
    recompute(model, plan.recompute)
    return model, make_optimizer(
        model,
        weight_decay=plan.weight_decay,
        plan=STATE_PLANS[plan.states],
        seed=plan.seed,
        beta2=plan.beta2,
        muon=plan.optimizer == "muon",
    )


@torch.no_grad()
def put_back(model: GPT2, optimizer: torch.optim.Optimizer, stored: GPT2) -> None:
    """Overwrite weights that went bad, in the form that the optimizer keeps them in."""
    for parameter, whole in zip(model.parameters(), stored.parameters(), strict=True):
        is_split = "remainder" in optimizer.state.get(parameter, {})
        parameter.copy_(split(whole)[0] if is_split else whole)
    if isinstance(optimizer, InBackwardAdamW):
        optimizer.norm_before = None  # unless the checkpoint knows it


def load_model(config: TrainConfig, plan: TrainPlan, checkpoint: Path | None) -> GPT2:
    """The weights to begin or to go on with, and which of them are learned."""
    if plan.lora is not None:
        model = load_gpt2(local_folder(config.model), dropout=plan.dropout)
        attach(model, plan.lora, seed=plan.seed)
        if checkpoint is not None:
            load_adapter(model, checkpoint / ADAPTER)
        return model
    if checkpoint is not None:
        model = load_gpt2(checkpoint, dropout=plan.dropout)
    elif config.from_scratch:
        model = new_gpt2(local_folder(config.model), dropout=plan.dropout, seed=plan.seed)
    else:
        model = load_gpt2(local_folder(config.model), dropout=plan.dropout)
    freeze(model, plan.frozen)
    return model
