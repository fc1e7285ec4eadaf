"""Set up a run: text, plan, model, optimizer and trainer; nothing is written before all of it is ready."""

import secrets
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tunesmith.config import TrainConfig
from tunesmith.data.checks import length_histogram
from tunesmith.data.corpus import Corpus, cached_corpus, prepare_corpus
from tunesmith.data.provenance import SampleLocator
from tunesmith.data.readers import reading_options
from tunesmith.data.source_files import STDIN_NAMES, ResolvedSources, resolve_sources
from tunesmith.data.tokenizer import TextTokenizer, load_tokenizer
from tunesmith.distributed.consistency import check_same_inputs, weights_sha256
from tunesmith.distributed.world import SINGLE_PROCESS, World
from tunesmith.errors import UserError
from tunesmith.i18n import say
from tunesmith.model.activation_checkpointing import apply_activation_checkpointing
from tunesmith.model.compile import apply_compile, can_compile, set_compute_dtype
from tunesmith.model.gpt2 import GPT2
from tunesmith.model.gpt2_config import GPT2Config
from tunesmith.model.hf_checkpoint import init_gpt2, load_gpt2
from tunesmith.model.hf_config import parse_hf_config, read_hf_config
from tunesmith.model.hub import local_folder
from tunesmith.model.lora import apply_lora, freeze, load_adapter
from tunesmith.optim.in_backward_adamw import InBackwardAdamW
from tunesmith.optim.quantization import split_fp32
from tunesmith.optim.state_format import HOST_STAGING_BYTES
from tunesmith.planning.calibration_cache import CalibrationCache
from tunesmith.planning.hardware import GIB, detect_hardware, is_wsl
from tunesmith.planning.scaling_law import time_limit_warning
from tunesmith.run_dir import RunDir, as_json, checkpoint_step
from tunesmith.training.checkpoint import (
    ADAPTER,
    CheckpointSearch,
    CheckpointWriter,
    find_checkpoint,
    quarantine,
)
from tunesmith.training.checkpointer import BestModelWriter, Checkpointer, check_disk_space, state_bytes
from tunesmith.training.events import CheckpointDamaged, RunStarted
from tunesmith.training.from_scratch import display_name
from tunesmith.training.memory_calibration import MemoryCalibrator
from tunesmith.training.optimizer import make_optimizer
from tunesmith.training.plan import TrainPlan, make_plan, scaling_estimate
from tunesmith.training.resume import (
    changed_plan,
    check_same_model,
    check_same_text,
    stored_plan,
    with_absolute_paths,
)
from tunesmith.training.rng import RNGState
from tunesmith.training.run_sync import (
    adapt_plan_to_world_size,
    broadcast_parameters,
    broadcast_plan,
    check_single_process_options,
    load_checkpoint_all_ranks,
    make_strategy,
)
from tunesmith.training.sharding_choice import Processes
from tunesmith.training.state import TrainState
from tunesmith.training.stop import StopController
from tunesmith.training.trainer import Trainer
from tunesmith.training.validation import validate_config
from tunesmith.utils.device import (
    Decision,
    environment,
    peak_memory_bytes,
    pinned_bytes,
    pinned_empty,
    reset_peak_memory,
    resolve_device,
    resolve_dtype,
    use_device,
)
from tunesmith.utils.files import describe_os_error
from tunesmith.utils.oom import free_memory

DEFAULT_SAMPLES = 3
CONFIG = "config.json"
MEMORY_TOLERANCE = 0.95
"""Of the memory that one process finds free: what another one finds a moment later may be this much less."""


@dataclass(frozen=True)
class TrainSetup:
    """A run that is ready to start, and what it says before its first step.

    Attributes:
        calibrator: None where the run follows another one's plan.
    """

    trainer: Trainer
    started: RunStarted
    calibrator: MemoryCalibrator | None


@dataclass(frozen=True)
class InitSource:
    """Where the weights come from: the base model, or a checkpoint of this run."""

    folder: Path
    is_checkpoint: bool


def check_config(config: TrainConfig, world: World) -> torch.device:
    """Find mistakes before a model is downloaded or a long text is read; return the device.

    Raises:
        UserError: for all of them at once, as far as they are of one kind.
    """
    validate_config(config)
    if world.size > 1:
        check_single_process_options(config)
    reading_options(config)
    device = resolve_device(config.device).value
    resolve_dtype(config.precision, device)
    read_sample_prompts(config)
    return device


def open_sources(config: TrainConfig) -> AbstractContextManager[ResolvedSources | None]:
    """Resolve the sources; None where a resumed run's text came from standard input, which is gone."""
    if config.resume and set(STDIN_NAMES) & set(config.sources):
        return nullcontext()
    return resolve_sources(config.sources)


def build_trainer(
    config: TrainConfig, run: RunDir, stop: StopController, previous: TrainConfig | None, world: World
) -> TrainSetup:
    """Load text and model, make or resume the plan, and build the trainer.

    Args:
        config: validated, its scratch model materialized.
        run: where everything is written, and a checkpoint is looked for with `config.resume`.
        stop: of the run.
        previous: the configuration before a resume, in the main process.
        world: processes that train together.
    """
    with open_sources(config) as found:
        return _build(config, run, stop, previous, world, found)


def _build(
    config: TrainConfig,
    run: RunDir,
    stop: StopController,
    previous: TrainConfig | None,
    world: World,
    found: ResolvedSources | None,
) -> TrainSetup:
    is_resuming = config.resume and world.is_main_process
    search = find_checkpoint(run.checkpoints()) if is_resuming else CheckpointSearch(None, {})
    checkpoint = world.broadcast_object(lambda: str(search.folder or ""))
    is_here = checkpoint and (Path(checkpoint) / CONFIG).is_file()  # other hosts may not have the folder
    source = InitSource(Path(checkpoint), True) if is_here else InitSource(local_folder(config.model), False)
    hf_config = read_hf_config(source.folder)
    shape = parse_hf_config(hf_config, origin=str(source.folder))
    tokenizer = load_tokenizer(source.folder, hf_config)
    with world.main_process_first():  # the first process of a host prepares it, the others find it in the cache
        corpus = _load_corpus(config, run, found, tokenizer)
    check_same_inputs(world, corpus.fingerprint, None if checkpoint else source.folder)
    calibrator = None
    if world.size == 1 and not previous:
        plan, model, optimizer, calibrator = plan_and_build(config, shape, corpus, source)
    else:
        decided: TrainPlan | None = None
        if previous:
            decided = adapt_plan_to_world_size(_resume_plan(config, previous, run, corpus, source), config, world.size)
        elif not config.resume:
            decided = plan_for_world(config, shape, corpus, world)
        plan = broadcast_plan(world, decided)
        reset_peak_memory(torch.device(plan.device))
        model, optimizer = build_model_and_optimizer(config, plan, source, world)
    device = torch.device(plan.device)
    scaler = torch.amp.GradScaler(device.type, enabled=plan.dtype == torch.float16)
    rng = RNGState(plan.seed, device, draws=plan.dropout > 0 or plan.lora_dropout > 0)
    state = TrainState(activation_checkpointing=plan.activation_checkpointing)
    if checkpoint:
        stored = load_model(config, plan, source.folder) if plan.shard and world.is_main_process else None
        state = load_checkpoint_all_ranks(world, model, optimizer, scaler, rng, search.folder, stored)
        del stored
    elif world.size > 1 and not plan.shard:
        broadcast_parameters(world, model)
    apply_activation_checkpointing(model, state.activation_checkpointing)
    if state.precision:
        set_compute_dtype(model, getattr(torch, state.precision))
        scaler = torch.amp.GradScaler(device.type, enabled=False)
    _check_steps_left(run, plan, state)
    version = str(environment()["tunesmith"])
    strategy = make_strategy(world, model)
    checkpointer = Checkpointer(
        run=run,
        best_model=BestModelWriter(run, config, plan, corpus, tokenizer, hf_config, version),
        checkpoints=CheckpointWriter(hf_config, tokenizer, plan.lora, config.model),
        keep_bytes=None if config.keep_gb is None else config.keep_gb * 1e9,
        model=model,
        optimizer=optimizer,
        rng=rng,
        world=world,
        strategy=strategy,
    )
    trainer = Trainer(
        model=model,
        optimizer=optimizer,
        scaler=scaler,
        rng=rng,
        plan=plan,
        corpus=corpus,
        run=run,
        checkpointer=checkpointer,
        state=state,
        tokenizer=tokenizer,
        prompts=read_sample_prompts(config),
        origins=SampleLocator(corpus, tokenizer, found),
        restore=partial(_restore_last_good, config, plan, run, world, rng, model, optimizer),
        stop=stop,
        world=world,
        strategy=strategy,
    )
    if not config.resume and world.is_main_process:
        weights_bytes, optimizer_bytes = state_bytes(model, optimizer)
        check_disk_space(run.path, weights_bytes=weights_bytes, optimizer_bytes=optimizer_bytes)
    for folder in search.damaged:
        quarantine(folder)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    notices = (
        *_resume_notices(run, search, plan if previous else None),
        *_scratch_warnings(config, plan, shape),
        *_pinning_notices(plan, shape),
    )
    started = RunStarted(display_name(config), parameters, run.path, plan, state.step, notices)
    return TrainSetup(trainer, started, calibrator)


def describe_run(config: TrainConfig, plan: TrainPlan, corpus: Corpus) -> dict[str, Any]:
    """Return the content of a new run's run.json."""
    return {
        **describe_config(config, plan),
        "run_id": secrets.token_hex(8),
        "environment": environment(),
        "data": corpus.manifest,
        "length_histogram": [asdict(part) for part in length_histogram(corpus.sample_token_counts())],
        "model": {"weights_sha256": weights_sha256(local_folder(config.model))},
    }


def describe_config(config: TrainConfig, plan: TrainPlan) -> dict[str, Any]:
    """Return the part of run.json that a resume may change."""
    return {"config": as_json(with_absolute_paths(config)), "plan": as_json(plan)}


def read_sample_prompts(config: TrainConfig) -> list[str]:
    """Return the prompts of --sample-prompts, or empty ones.

    Raises:
        UserError: if the file cannot be read or is empty.
    """
    if config.sample_prompts is None:
        return [""] * DEFAULT_SAMPLES
    path = Path(config.sample_prompts)
    try:
        prompts = [line for line in path.read_text("utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            "--sample-prompts {path} cannot be read: {error}",
            hint="one prompt a line, UTF-8",
            path=path,
            error=describe_os_error(error),
        ) from None
    if not prompts:
        raise UserError("--sample-prompts {path} contains no prompt", hint="write one prompt a line", path=path)
    return prompts


# --- text and plan


def _load_corpus(config: TrainConfig, run: RunDir, found: ResolvedSources | None, tokenizer: TextTokenizer) -> Corpus:
    if found is not None:
        options = reading_options(config)
        return prepare_corpus(found, tokenizer, options, val_fraction=config.val_fraction, seed=config.seed)
    corpus = cached_corpus(run.read_metadata()["data"]["fingerprint"])
    if corpus is None:
        raise UserError(
            "the run in {path} read standard input, and its text is not in the cache any more",
            hint="save the text as a file and start again in another --out",
            path=run.path,
        )
    return corpus


def plan_and_build(
    config: TrainConfig, shape: GPT2Config, corpus: Corpus, source: InitSource
) -> tuple[TrainPlan, GPT2, torch.optim.Optimizer, MemoryCalibrator]:
    """Make a plan, model and optimizer for one process; where memory is tight, plan again after measured steps."""
    hardware, experience = detect_hardware(config.device, config.precision), CalibrationCache.kept()
    plan, demand = make_plan(config, shape, corpus, hardware, experience)
    device = torch.device(plan.device)
    reset_peak_memory(device)
    calibrator = MemoryCalibrator(demand, hardware, experience, peak_memory_bytes(device))
    model, optimizer = build_model_and_optimizer(config, plan, source)
    measured = calibrator.before_run(model, optimizer, plan.peak_memory_bytes)
    if measured is experience:
        return plan, model, optimizer, calibrator
    states = plan.state_format
    plan, demand = make_plan(config, shape, corpus, hardware, measured)
    if plan.state_format != states:
        del model, optimizer
        free_memory()
        model, optimizer = build_model_and_optimizer(config, plan, source)
    return plan, model, optimizer, replace(calibrator, demand=demand, experience=measured)


def plan_for_world(config: TrainConfig, shape: GPT2Config, corpus: Corpus, world: World) -> TrainPlan | None:
    """Make a plan for the process with the least memory; only the main process makes it."""
    hardware = detect_hardware(config.device, config.precision)
    budgets = [budget for _, budget in world.all_gather_object([hardware.kind, hardware.budget.value])]
    if not world.is_main_process:
        return None
    smallest = min(budgets)
    if smallest < MEMORY_TOLERANCE * hardware.budget.value:
        reason = say("rank {rank} may take no more", rank=budgets.index(smallest))
        hardware = replace(hardware, budget=Decision(smallest, reason))
    plan, _ = make_plan(
        config, shape, corpus, hardware, CalibrationCache.kept(), Processes(world.size, world.local_size)
    )
    return plan


def _resume_plan(
    config: TrainConfig, previous: TrainConfig, run: RunDir, corpus: Corpus, source: InitSource
) -> TrainPlan:
    """Return the plan of a resumed run, after checking that it trains on the same text and model."""
    check_same_text(run, corpus)
    plan = changed_plan(stored_plan(run), previous, config)
    if plan.lora is not None or not source.is_checkpoint:
        check_same_model(run, local_folder(config.model))
    return plan


def _check_steps_left(run: RunDir, plan: TrainPlan, state: TrainState) -> None:
    if state.step > plan.steps:
        raise UserError(
            "the run in {path} has made {step:,} steps already, and {steps:,} are asked for",
            hint="ask for more --epochs or --max-steps, or leave them out",
            path=run.path,
            step=state.step,
            steps=plan.steps,
        )


# --- model and optimizer


def build_model_and_optimizer(
    config: TrainConfig, plan: TrainPlan, source: InitSource, world: World = SINGLE_PROCESS
) -> tuple[GPT2, torch.optim.Optimizer]:
    """Load the model to its device, or this process's part of it, and make its optimizer."""
    device = torch.device(plan.device)
    use_device(device)
    model = load_model(config, plan, source.folder if source.is_checkpoint else None)
    if plan.shard:
        from tunesmith.distributed.fsdp import apply_fsdp

        apply_fsdp(model, world, device)
    model = model.to(device).train()
    model.compute_dtype = plan.dtype  # a checkpoint's state may overrule it
    if plan.compile and can_compile(device).value:  # a run may be resumed on a machine that cannot
        apply_compile(model)
    apply_activation_checkpointing(model, plan.activation_checkpointing)
    return model, make_optimizer(
        model,
        weight_decay=plan.weight_decay,
        plan=plan.state_format,
        seed=plan.seed,
        beta2=plan.adam_beta2,
        muon=plan.optimizer == "muon",
    )


def load_model(config: TrainConfig, plan: TrainPlan, checkpoint: Path | None) -> GPT2:
    """Load the weights to start or to continue with, and freeze what is not trained."""
    if plan.lora is not None:
        model = load_gpt2(local_folder(config.model), dropout=plan.dropout)
        apply_lora(model, plan.lora, seed=plan.seed)
        if checkpoint is not None:
            load_adapter(model, checkpoint / ADAPTER)
        return model
    if checkpoint is None and config.from_scratch:
        model = init_gpt2(local_folder(config.model), dropout=plan.dropout, seed=plan.seed)
    else:
        model = load_gpt2(local_folder(config.model) if checkpoint is None else checkpoint, dropout=plan.dropout)
    freeze(model, plan.freeze)
    return model


@torch.no_grad()
def restore_weights_(model: GPT2, optimizer: torch.optim.Optimizer, stored: GPT2) -> None:
    """Overwrite weights in place, in the form in which the optimizer keeps them."""
    for parameter, weights in zip(model.parameters(), stored.parameters(), strict=True):
        is_split = "remainder" in optimizer.state.get(parameter, {})
        parameter.copy_(split_fp32(weights)[0] if is_split else weights)
    if isinstance(optimizer, InBackwardAdamW):
        optimizer.prev_grad_norm = None  # unless the checkpoint has it


def _restore_last_good(
    config: TrainConfig,
    plan: TrainPlan,
    run: RunDir,
    world: World,
    rng: RNGState,
    model: GPT2,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
) -> tuple[TrainState, list[CheckpointDamaged]]:
    """Load the last good checkpoint in all processes; newer ones are damaged and renamed."""
    if not world.is_main_process:
        return load_checkpoint_all_ranks(world, model, optimizer, scaler, rng, None, None), []
    search = find_checkpoint(run.checkpoints())
    if search.folder is None:
        raise UserError(
            "there is no good state to go back to in {path}",
            hint="free disk space, and train again into another --out",
            path=run.path,
        )
    stored = load_model(config, plan, search.folder)
    if not plan.shard:
        restore_weights_(model, optimizer, stored)
    state = load_checkpoint_all_ranks(world, model, optimizer, scaler, rng, search.folder, stored)
    for folder in search.damaged:
        quarantine(folder)
    return state, [
        CheckpointDamaged(checkpoint_step(folder), folder, reason) for folder, reason in search.damaged.items()
    ]


# --- notices


def _resume_notices(run: RunDir, search: CheckpointSearch, resumed: TrainPlan | None) -> list[str]:
    notices = [
        say("the checkpoint {folder} is damaged ({reason}) and set aside", folder=folder, reason=reason)
        for folder, reason in search.damaged.items()
    ]
    if resumed and resumed.steps != (planned := stored_plan(run).steps):
        notices.append(
            say(
                "the run was planned for {before:,} steps and now makes {now:,}: from here on the learning rate falls "
                "towards the new end",
                before=planned,
                now=resumed.steps,
            )
        )
    return notices


def _scratch_warnings(config: TrainConfig, plan: TrainPlan, shape: GPT2Config) -> list[str]:
    """Return why a model from scratch may disappoint."""
    if not config.from_scratch or config.resume:
        return []
    warnings = (scaling_estimate(plan, shape).warning, time_limit_warning(plan.duration_s, config.max_hours))
    return [warning for warning in warnings if warning]


def _pinning_notices(plan: TrainPlan, shape: GPT2Config) -> list[str]:
    """Return a notice where the system does not pin the host memory that a run transfers through."""
    n_bytes = HOST_STAGING_BYTES if plan.state_format.gradients == "host" else 0
    if plan.activation_checkpointing == "offload":
        n_bytes += shape.n_layer * pinned_bytes(plan.tokens_per_micro_batch * shape.n_embd * plan.dtype.itemsize)
    if not n_bytes or torch.device(plan.device).type != "cuda" or not is_wsl():
        return []
    is_pinned = pinned_empty((n_bytes,), torch.uint8).is_pinned()
    torch._C._host_emptyCache()  # noqa: SLF001  torch keeps pinned blocks for good
    if is_pinned:
        return []
    return [
        say(
            "this system does not let {needed_gib:.1f} GiB of the host's memory be pinned: transfers to the GPU and "
            "back take longer",
            needed_gib=n_bytes / GIB,
        )
    ]
