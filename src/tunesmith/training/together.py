"""How the processes of a run come to one plan and one state; only the first of them reads and writes the run folder."""

from dataclasses import replace
from pathlib import Path

import torch

from tunesmith.config import TrainConfig
from tunesmith.data.corpus import Corpus
from tunesmith.data.source_files import STDIN_NAMES
from tunesmith.distributed.agreement import refuse_different, weights_sha256
from tunesmith.distributed.engine import Engine
from tunesmith.distributed.parts import dealt_like, is_part
from tunesmith.distributed.start import send_states, send_weights
from tunesmith.distributed.team import ManyProcesses, Team
from tunesmith.errors import UserError
from tunesmith.messages.catalogue import say
from tunesmith.model.gpt2 import GPT2
from tunesmith.optim.state_format import STATE_FORMATS
from tunesmith.run_dir import as_json, read_settings
from tunesmith.training.checkpoint import load_checkpoint
from tunesmith.training.optimizer import trainable
from tunesmith.training.plan import TrainPlan
from tunesmith.training.rng import RNGState
from tunesmith.training.state import TrainState
from tunesmith.utils.device import environment


def refuse_alone(config: TrainConfig) -> None:
    """Check that nothing is asked for that only a single process can do.

    Raises:
        UserError: naming it.
    """
    only_alone = {
        "--verify-resume": config.verify_resume,
        f"--device {config.device}": config.device.startswith("cuda:"),
        f"--states {config.states}": config.states != "auto" and STATE_FORMATS[config.states].gradients != "held",
        say("standard input (-)"): bool(set(STDIN_NAMES) & set(config.sources)),
    }
    for what, is_asked in only_alone.items():
        if is_asked:
            raise UserError(
                "{what} goes with a single process only",
                hint="leave it out, or train with one process; text from standard input can be saved as a file first",
                what=what,
            )


def told_config(team: Team, own: TrainConfig) -> TrainConfig:
    """What the first process was asked, or asks itself because it resumes; a host may keep its files elsewhere."""
    config = TrainConfig(**read_settings(team.share(dict)))
    if config.resume:
        return config
    return replace(config, sources=own.sources, model=own.model)


def refuse_different_starts(team: Team, corpus: Corpus, base: Path | None) -> None:
    """Check that all processes learn the same text, from the same model, with the same programs.

    Args:
        team: all processes.
        corpus: read by this one.
        base: the model that it begins with; None where the weights are sent to it in any case.

    Raises:
        UserError: naming the process and what differs.
    """
    if team.size == 1:
        return
    is_to_look = base is not None and team.local_rank == 0  # the others of a host read the same file
    versions = environment()
    facts = {
        "versions": f"tunesmith {versions['tunesmith']}, torch {versions['torch']}",
        "text": corpus.fingerprint,
        "model": weights_sha256(base) if base is not None and is_to_look else "",
    }
    refuse_different(team, facts)


def told_plan(team: Team, plan: TrainPlan | None) -> TrainPlan:
    """The first process's plan, for this one's device."""
    if team.size == 1:
        assert plan is not None
        return plan
    told = TrainPlan(**read_settings(team.share(lambda: as_json(plan))))
    return replace(told, device=f"cuda:{team.local_rank}") if told.device.startswith("cuda") else told


def for_processes(plan: TrainPlan, config: TrainConfig, size: int) -> TrainPlan:
    """The plan of a resumed run, for as many processes as there are now.

    Raises:
        UserError: if its states cannot be held in parts, and that is asked for.
    """
    is_sharded = size > 1 and (config.shard == "yes" or (config.shard == "auto" and plan.shard))
    is_whole = plan.states != "fp32" or plan.optimizer != "adamw" or plan.lora is not None or plan.frozen != "nothing"
    if is_sharded and is_whole:
        raise UserError(
            "--shard yes: this run keeps its states as {states}, and only whole models in fp32 can be held in parts",
            hint="leave --shard out",
            states=plan.states,
        )
    if size > 1 and STATE_FORMATS[plan.states].gradients != "held":
        raise UserError(
            "this run uses its gradients up one by one ({states}), which goes with a single process only",
            hint="continue it without --devices and torchrun",
            states=plan.states,
        )
    reasons = {**plan.reasons, "shard": say("asked for") if config.shard != "auto" else say("as this run began")}
    return replace(plan, reasons=reasons, devices=size, shard=is_sharded, compiled=plan.compiled and not is_sharded)


def make_engine(team: Team, model: GPT2) -> Engine:
    """What makes one gradient of all processes' ones."""
    if team.size == 1:
        return Engine(model)
    if _is_in_parts(model):
        from tunesmith.distributed.sharding import ShardedEngine

        return ShardedEngine(model, team)
    from tunesmith.distributed.replication import ReplicatedEngine

    assert isinstance(team, ManyProcesses)
    return ReplicatedEngine(model, team)


def restored(
    team: Team,
    model: GPT2,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    chance: RNGState,
    folder: Path | None,
    stored: GPT2 | None,
) -> TrainState:
    """Bring all processes to the state of a checkpoint that the first one reads.

    Args:
        team: all processes.
        model: to be overwritten; in the first process its weights are right already, unless it is in parts.
        optimizer: to be overwritten.
        scaler: likewise.
        chance: likewise; of several processes each begins anew at every step.
        folder: of the checkpoint; None in the others.
        stored: its model; needed in the first process where the model is in parts.
    """
    if team.size > 1:
        in_parts = (_named(stored) if stored else _shapes(model)) if _is_in_parts(model) else None
        send_weights(team, model, in_parts)
    progress = TrainState()
    if folder is not None:
        progress = load_checkpoint(folder, model=model, optimizer=optimizer, scaler=scaler, rng=chance)
    elif _is_in_parts(model):
        _help_loading(model, optimizer)
    if team.size == 1:
        return progress
    send_states(team, optimizer)
    told = team.share(lambda: {"progress": progress.as_json(), "scaler": scaler.state_dict()})
    scaler.load_state_dict(told["scaler"])
    return TrainState(**told["progress"])


def _is_in_parts(model: GPT2) -> bool:
    return any(is_part(parameter) for parameter in model.parameters())


def _named(model: GPT2) -> dict[str, torch.Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def _shapes(model: GPT2) -> dict[str, torch.Tensor]:
    """What a process gives that receives."""
    return {name: torch.empty(parameter.shape) for name, parameter in model.named_parameters()}


def _help_loading(model: GPT2, optimizer: torch.optim.Optimizer) -> None:
    """Take this process's parts of the state that the first one loads."""
    for _, parameter in trainable(model):
        optimizer.state[parameter] = {
            key: dealt_like(fresh, torch.zeros(fresh.shape)) for key, fresh in optimizer.state[parameter].items()
        }
