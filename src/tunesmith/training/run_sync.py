"""Brings the processes of a run to one plan and one state; only the main process reads and writes the run directory."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tunesmith.config import TrainConfig
from tunesmith.data.source_files import STDIN_NAMES
from tunesmith.distributed.dtensor import distribute_like, is_dtensor, local_tensor
from tunesmith.distributed.launcher import DONE, INTERRUPTED, killed_hint, launch
from tunesmith.distributed.strategy import ReplicatedStrategy, Strategy
from tunesmith.distributed.world import World
from tunesmith.errors import UserError
from tunesmith.i18n import say
from tunesmith.model.gpt2 import GPT2
from tunesmith.run_dir import RunDir, read_settings
from tunesmith.training.checkpoint import load_checkpoint
from tunesmith.training.optimizer import trainable
from tunesmith.training.plan import TrainPlan
from tunesmith.training.rng import RNGState
from tunesmith.training.state import TrainState

MICRO_BATCH_SPLITS = ".micro-batch-splits"
"""A file next to the checkpoints: into how many parts a resumed run has to split its micro-batches."""


def launch_training(config: TrainConfig) -> int:
    """Train in `config.devices` processes, which print and write everything themselves; return the exit code.

    Raises:
        UserError: if they cannot be started, or one of them was killed.
    """

    def result() -> str:
        try:
            return RunDir(Path(config.out)).status()
        except UserError:  # no run was begun
            return ""

    def hint() -> str:
        if not result():
            return killed_hint()
        return say(
            "continue with: tunesmith train --resume --devices {devices} --out {out} (SIGKILL is often the system's "
            "answer when memory runs out)",
            devices=config.devices,
            out=config.out,
        )

    code = launch(config, hint=hint)
    return DONE if code == INTERRUPTED and result() == "finished" else code


def check_single_process_options(config: TrainConfig) -> None:
    """Check that nothing is requested that only a single process can do.

    Raises:
        UserError: naming it.
    """
    single_process_only = {
        "--verify-resume": config.verify_resume,
        f"--device {config.device}": config.device.startswith("cuda:"),
        "--memory-mode cpu-offload": config.memory_mode == "cpu-offload",
        "--fused-backward yes": config.fused_backward == "yes",
        say("standard input (-)"): bool(set(STDIN_NAMES) & set(config.sources)),
    }
    for what, is_requested in single_process_only.items():
        if is_requested:
            raise UserError(
                "{what} goes with a single process only",
                hint="leave it out, or train with one process; text from standard input can be saved as a file first",
                what=what,
            )


def broadcast_config(world: World, own: TrainConfig) -> TrainConfig:
    """Receive the main process's options, also of a resumed run; a host may keep its files elsewhere."""
    config = TrainConfig(**read_settings(world.broadcast_object(dict)))
    if config.resume:
        return config
    return replace(config, sources=own.sources, model=own.model)


def broadcast_plan(world: World, plan: TrainPlan | None) -> TrainPlan:
    """Return the main process's plan, for this process's device."""
    shared: TrainPlan | None = world.broadcast_object(lambda: plan)
    assert shared is not None
    is_one_of_several_gpus = world.size > 1 and shared.device.startswith("cuda")
    return replace(shared, device=f"cuda:{world.local_rank}") if is_one_of_several_gpus else shared


def adapt_plan_to_world_size(plan: TrainPlan, config: TrainConfig, size: int) -> TrainPlan:
    """Return the plan of a resumed run for the number of processes that it has now.

    Raises:
        UserError: if its states cannot be sharded, and that is requested.
    """
    is_sharded = size > 1 and (config.shard == "yes" or (config.shard == "auto" and plan.shard))
    is_whole = plan.memory_mode != "fp32" or plan.optimizer != "adamw" or plan.lora is not None or plan.freeze != "none"
    if is_sharded and is_whole:
        raise UserError(
            "--shard yes: this run has memory mode {memory_mode}, and only models in fp32 can be sharded",
            hint="leave --shard out",
            memory_mode=plan.memory_mode,
        )
    if size > 1 and plan.state_format.gradients != "held":
        raise UserError(
            "this run uses its gradients up one by one ({memory_mode}), which goes with a single process only",
            hint="continue it without --devices and torchrun",
            memory_mode=plan.state_format.label,
        )
    reasons = {**plan.reasons, "shard": say("asked for") if config.shard != "auto" else say("as this run began")}
    return replace(plan, reasons=reasons, devices=size, shard=is_sharded, compile=plan.compile and not is_sharded)


def make_strategy(world: World, model: GPT2) -> Strategy:
    """Return what combines the gradients of all processes."""
    if world.size == 1:
        return Strategy(model)
    if _is_sharded(model):
        from tunesmith.distributed.fsdp import FSDPStrategy

        return FSDPStrategy(model, world)
    return ReplicatedStrategy(model, world)


def load_checkpoint_all_ranks(
    world: World,
    model: GPT2,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    rng: RNGState,
    folder: Path | None,
    stored: GPT2 | None,
) -> TrainState:
    """Bring all processes to the state of a checkpoint that the main process reads.

    Args:
        world: all processes.
        model: to be overwritten; in the main process its weights are right already, unless it is sharded.
        optimizer: to be overwritten.
        scaler: likewise.
        rng: likewise; with several processes each seeds it again at every step.
        folder: of the checkpoint; None in the other processes.
        stored: its model; needed in the main process if the model is sharded.
    """
    is_sharded = _is_sharded(model)
    if world.size > 1:
        broadcast_parameters(world, model, stored)
    progress = TrainState()
    if folder is not None:
        progress = load_checkpoint(folder, model=model, optimizer=optimizer, scaler=scaler, rng=rng)
        progress.micro_batch_splits = max(progress.micro_batch_splits, _remembered_splits(folder.parent))
    elif is_sharded:  # take part in distributing the states that the main process loads
        for _, parameter in trainable(model):
            optimizer.state[parameter] = {
                key: distribute_like(fresh, torch.zeros(fresh.shape))
                for key, fresh in optimizer.state[parameter].items()
            }
    if world.size == 1:
        return progress
    for tensor in _optimizer_tensors(optimizer):
        if not is_dtensor(tensor):
            world.broadcast_(tensor)
    state: tuple[TrainState, dict[str, Any]] = world.broadcast_object(lambda: (progress, scaler.state_dict()))
    scaler.load_state_dict(state[1])
    return state[0]


@torch.no_grad()
def broadcast_parameters(world: World, model: GPT2, stored: GPT2 | None = None) -> None:
    """Give every process the main process's weights; those of a sharded model are in its unsharded `stored`."""
    weights = dict(stored.named_parameters()) if stored is not None else {}
    for name, parameter in model.named_parameters():
        if is_dtensor(parameter):
            full = weights[name].detach() if weights else torch.empty(parameter.shape)
            local_tensor(parameter).copy_(local_tensor(distribute_like(parameter, full)))
        else:
            world.broadcast_(parameter)


def remember_micro_batch_splits(checkpoints: Path, splits: int) -> None:
    """Let the resumed run start with smaller micro-batches, where this process ends because memory ran out."""
    with suppress(OSError):  # another host may have no such folder
        (checkpoints / MICRO_BATCH_SPLITS).write_text(str(splits), "utf-8")


def _remembered_splits(checkpoints: Path) -> int:
    with suppress(OSError, ValueError):
        return int((checkpoints / MICRO_BATCH_SPLITS).read_text("utf-8"))
    return 1


def _is_sharded(model: GPT2) -> bool:
    return any(is_dtensor(parameter) for parameter in model.parameters())


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    """In the order of the parameters, which is the same everywhere."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state[parameter]
            yield from (state[key] for key in sorted(state) if isinstance(state[key], Tensor))
