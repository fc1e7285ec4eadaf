"""The verb `train`: from a configuration to a running loop, or to one clear error with nothing written."""

import enum
import math
import secrets
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tunesmith.allocator import pinned_bytes, pinned_empty
from tunesmith.config import TrainConfig
from tunesmith.data.corpus import Corpus, cached_corpus, prepare_corpus
from tunesmith.data.origins import Origins
from tunesmith.data.source_files import FoundSources, found_sources
from tunesmith.data.sources import reading_options
from tunesmith.data.standard_input import STANDARD_INPUT
from tunesmith.data.tokenizer import TextTokenizer, load_tokenizer
from tunesmith.distributed.consistency import check_same_inputs, weights_sha256
from tunesmith.distributed.world import SINGLE_PROCESS, World
from tunesmith.errors import UsageError, UserError
from tunesmith.gauges.watch import MachineWatch
from tunesmith.machine import (
    choose_device,
    choose_dtype,
    deterministic,
    environment,
    gpu_uuid,
    reset_peak_memory,
)
from tunesmith.messages.catalogue import say
from tunesmith.messages.system_errors import said_by_system
from tunesmith.model.compiled import compute_in
from tunesmith.model.config_file import read_hf_config
from tunesmith.model.gpt2 import GPT2
from tunesmith.model.hf_config import gpt2_config
from tunesmith.model.hub import local_folder
from tunesmith.model.recomputation import recompute
from tunesmith.model.shape import GPT2Config
from tunesmith.optimizers.state_plan import HOST_STAGING_BYTES, STATE_PLANS
from tunesmith.planning.hardware import GIB, is_wsl
from tunesmith.preparation.lint import length_histogram
from tunesmith.training.blueprint import shown_model, with_blueprint
from tunesmith.training.chance import Chance
from tunesmith.training.changed_plan import changed_plan
from tunesmith.training.checkpoint import CheckpointWriter, FoundCheckpoint, find_checkpoint, set_aside
from tunesmith.training.deadline import first_deadline
from tunesmith.training.disk_space import refuse_too_little
from tunesmith.training.events import (
    CheckpointDamaged,
    Ended,
    Event,
    MachineRead,
    Planned,
    ResumeVerified,
    Sampled,
    Stepped,
    metrics_of,
)
from tunesmith.training.learner import Start, load_model, make_learner, plan_for_world, planned_learner, put_back
from tunesmith.training.loop import ASKED_TO, TrainingLoop
from tunesmith.training.plan import TrainPlan, prospect_of
from tunesmith.training.progress import Progress
from tunesmith.training.prospect import beyond_the_hours
from tunesmith.training.publish import Publisher
from tunesmith.training.refuse_impossible import refuse_impossible
from tunesmith.training.resuming import (
    asked_before,
    asked_now,
    plan_before,
    refuse_changed_model,
    refuse_changed_text,
    with_absolute_paths,
)
from tunesmith.training.run import BEFORE_THE_BEGINNING, RunFolder, as_json, checkpoint_step
from tunesmith.training.run_files import CHECKPOINTS, METRICS, SAMPLES
from tunesmith.training.run_sync import (
    adapt_plan_to_world_size,
    broadcast_config,
    broadcast_parameters,
    broadcast_plan,
    check_single_process_options,
    load_checkpoint_all_ranks,
    make_strategy,
)
from tunesmith.training.samples import Samples
from tunesmith.training.saving import Saving
from tunesmith.training.snapshot import state_bytes
from tunesmith.training.spill import memory_limit
from tunesmith.training.verify_resume import verify_resume
from tunesmith.training.wishes import SAVE, STOP, Wishes

DEFAULT_SAMPLES = 3
CONFIG = "config.json"


class Wish(enum.IntEnum):
    """That a run saves or ends; the stronger one counts."""

    NONE = 0
    SAVE = 1
    DEADLINE = 2
    ASKED = 3


@dataclass
class Agreed:
    """What all processes of a run are to do behind the step that is being made."""

    wish: Wish = Wish.NONE

    def saves(self) -> bool:
        """Whether somebody wants a checkpoint now."""
        return self.wish is Wish.SAVE


def train_model(
    config: TrainConfig, *, stop: Callable[[], bool], world: World = SINGLE_PROCESS
) -> Generator[Event, None, None]:
    """Train, yielding what happens; the last event is `Ended`.

    Args:
        config: what was asked.
        stop: asked after every step; the run saves and ends when it says so, in any of its processes.
        world: processes that train together; the first one alone reads and writes the run folder.

    Raises:
        UserError: before anything is written, if it cannot be done; later, if the loss is no number any more.
    """
    deadline = first_deadline(config.max_hours, config.stop_at, now=datetime.now().astimezone())

    run = RunFolder(Path(config.out))
    wishes, agreed = Wishes(run.path / CHECKPOINTS), Agreed()

    def why_stop() -> str:
        wish = Wish.SAVE if world.is_main_process and wishes.take(SAVE) else Wish.NONE
        wish = Wish.DEADLINE if deadline and deadline.has_passed() else wish
        wish = Wish.ASKED if stop() or (world.is_main_process and wishes.take(STOP)) else wish
        agreed.wish = Wish(world.all_reduce_max(wish))  # all end, or save, behind the same step
        if agreed.wish is Wish.DEADLINE and deadline:
            return deadline.reason
        return ASKED_TO if agreed.wish > Wish.SAVE else ""

    if not world.is_main_process:
        yield from _followed(config, world, why_stop, agreed)
        return
    before = asked_before(run) if config.resume else None
    if before:
        config = asked_now(config, before, run)
    elif not config.sources:
        raise UsageError("no source was named", hint="name the text to learn: tunesmith train FILE --out DIR")
    device = _refuse_early(config, world)
    if not before:
        run.refuse_if_taken()
    if config.verify_resume and device.type == "cuda":
        config = replace(config, deterministic=True)  # else no two runs on a GPU are the same, broken or not
    with ExitStack() as during:
        during.enter_context(deterministic(device, is_on=config.deterministic))
        during.enter_context(memory_limit(device))
        with world.main_process_first():
            config = config if before else with_blueprint(config, local_folder)
        verified = verify_resume(config, _train) if config.verify_resume else None
        world.broadcast_object(lambda: as_json(config))
        if before:
            during.enter_context(run.locked())
        with _sources(config) as found:
            loop, planned = _set_up(config, run, found, why_stop, agreed, before, world)
        if before:
            wishes.forget()
            run.begin({**run.describe(), **_asked_and_planned(config, loop.plan)})
            is_measured = not math.isnan(loop.progress.base_perplexity)
            run.forget_after(loop.progress.step if is_measured else BEFORE_THE_BEGINNING)
        else:
            during.enter_context(run.locked())
            run.refuse_if_taken()  # by a run that began meanwhile
            run.begin(_description(config, loop.plan, loop.corpus))
        yield from _executed(loop, planned, verified)


def _followed(config: TrainConfig, world: World, why_stop: Callable[[], str], agreed: Agreed) -> Iterator[Event]:
    """The same run in a process that writes nothing and is told what the first one reads."""
    if not config.resume:
        _refuse_early(config, world)
    with world.main_process_first():
        config = config if config.resume else with_blueprint(config, local_folder)
    was_resumed = config.resume
    config = broadcast_config(world, config)
    # of a resumed run only what is typed anew was known before
    device = _refuse_early(config, world) if was_resumed else choose_device(config.device).value
    with deterministic(device, is_on=config.deterministic):
        with _sources(config) as found:
            loop, _ = _set_up(config, RunFolder(Path(config.out)), found, why_stop, agreed, None, world)
        yield from loop.events()


def _train(config: TrainConfig, stop: Callable[[], bool]) -> Iterator[Event]:
    return train_model(config, stop=stop)


def _executed(loop: TrainingLoop, planned: Planned, verified: ResumeVerified | None) -> Iterator[Event]:
    yield planned
    if verified:
        yield verified
    energy_before_joules = loop.progress.energy_joules
    with MachineWatch(gpu_uuid(loop.model.head_VC.device)) as watch:
        for event in loop.events():
            _keep(event, loop.run)
            if isinstance(event, Ended) and loop.lesson and not event.result.interrupted and loop.progress.pieces == 1:
                loop.lesson.after(event.result.peak_memory_bytes)
            yield event
            if isinstance(event, Stepped) and (reading := watch.news()):
                loop.progress.energy_joules = _together(energy_before_joules, reading.energy_joules)
                reading = replace(reading, energy_joules=loop.progress.energy_joules)
                machine = MachineRead(event.step, event.elapsed_s, reading)
                _keep(machine, loop.run)
                yield machine


def _together(before_joules: float | None, now_joules: float | None) -> float | None:
    """Of all sittings, as far as it is known."""
    if before_joules is None or now_joules is None:
        return before_joules if now_joules is None else now_joules
    return before_joules + now_joules


def _refuse_early(config: TrainConfig, world: World) -> torch.device:
    """Find what is wrong before a model is fetched or a long text is read; the device that is to be used."""
    refuse_impossible(config)
    if world.size > 1:
        check_single_process_options(config)
    reading_options(config)
    device = choose_device(config.device).value
    choose_dtype(config.precision, device)
    _sample_prompts(config)
    return device


def _sources(config: TrainConfig) -> AbstractContextManager[FoundSources | None]:
    """What there is to read; None where a resumed run's text came from standard input, which is gone."""
    if config.resume and set(STANDARD_INPUT) & set(config.sources):
        return nullcontext()
    return found_sources(config.sources)


def _keep(event: Event, run: RunFolder) -> None:
    """Leave an event's trace in the run folder before anybody else hears of it."""
    metrics = metrics_of(event)
    if metrics:
        run.append(METRICS, metrics)
    elif isinstance(event, Sampled):
        for text in event.texts:
            run.append(SAMPLES, {"step": event.step, "is_final": event.is_final, **as_json(text)})
    elif isinstance(event, Ended):
        status = "interrupted" if event.result.interrupted else "finished"
        run.end({"status": status, **as_json(event.result)})


def _set_up(
    config: TrainConfig,
    run: RunFolder,
    found: FoundSources | None,
    why_stop: Callable[[], str],
    agreed: Agreed,
    before: TrainConfig | None,
    world: World,
) -> tuple[TrainingLoop, Planned]:
    is_resumed = config.resume and world.is_main_process
    checkpoint = find_checkpoint(run.checkpoints()) if is_resumed else FoundCheckpoint(None, {})
    begins_at = world.broadcast_object(lambda: str(checkpoint.folder or ""))
    is_here = begins_at and (Path(begins_at) / CONFIG).is_file()  # other hosts may have no such folder
    start = Start(Path(begins_at), True) if is_here else Start(local_folder(config.model), False)
    hf_config = read_hf_config(start.weights)
    shape = gpt2_config(hf_config, origin=str(start.weights))
    tokenizer = load_tokenizer(start.weights, hf_config)
    prompts = _sample_prompts(config)
    with world.main_process_first():  # the first process of a host prepares it, the others find it prepared
        corpus = _read_before(run) if found is None else _read(config, found, tokenizer)
    check_same_inputs(world, corpus.fingerprint, None if begins_at else start.weights)
    lesson = None
    if world.size == 1 and not before:
        plan, model, optimizer, lesson = planned_learner(config, shape, corpus, start)
    else:
        decided: TrainPlan | None = None
        if before:
            decided = adapt_plan_to_world_size(_plan_again(config, before, run, corpus, start), config, world.size)
        elif not config.resume:
            decided = plan_for_world(config, shape, corpus, world)
        plan = broadcast_plan(world, decided)
        reset_peak_memory(torch.device(plan.device))
        model, optimizer = make_learner(config, plan, start, world)
    device = torch.device(plan.device)
    scaler = torch.amp.GradScaler(device.type, enabled=plan.dtype == torch.float16)
    chance = Chance(plan.seed, device, draws=plan.dropout > 0 or plan.lora_dropout > 0)
    progress = Progress(recompute=plan.recompute)
    if begins_at:
        stored = load_model(config, plan, start.weights) if plan.shard and world.is_main_process else None
        progress = load_checkpoint_all_ranks(world, model, optimizer, scaler, chance, checkpoint.folder, stored)
        del stored
    elif world.size > 1 and not plan.shard:
        broadcast_parameters(world, model)
    recompute(model, progress.recompute)
    if progress.precision:
        compute_in(model, getattr(torch, progress.precision))
        scaler = torch.amp.GradScaler(device.type, enabled=False)
    _refuse_too_few_steps(run, plan, progress)
    version = str(environment()["tunesmith"])
    strategy = make_strategy(world, model)
    saving = Saving(
        run=run,
        publisher=Publisher(run, config, plan, corpus, tokenizer, hf_config, version),
        checkpoints=CheckpointWriter(hf_config, tokenizer, plan.lora, config.model),
        keep_bytes=None if config.keep_gb is None else config.keep_gb * 1e9,
        model=model,
        optimizer=optimizer,
        chance=chance,
        world=world,
        strategy=strategy,
    )
    loop = TrainingLoop(
        model=model,
        optimizer=optimizer,
        scaler=scaler,
        chance=chance,
        plan=plan,
        corpus=corpus,
        run=run,
        saving=saving,
        progress=progress,
        samples=Samples(prompts, tokenizer, plan.seed),
        origins=Origins(corpus, tokenizer, found),
        reload=partial(_reloaded, config, plan, run, world, chance),
        stop=why_stop,
        save_asked=agreed.saves,
        lesson=lesson,
        world=world,
        strategy=strategy,
    )
    if not config.resume and world.is_main_process:
        weights_bytes, optimizer_bytes = state_bytes(model, optimizer)
        refuse_too_little(run.path, weights_bytes=weights_bytes, optimizer_bytes=optimizer_bytes)
    for folder in checkpoint.damaged:
        set_aside(folder)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return loop, Planned(
        shown_model(config),
        parameters,
        run.path,
        plan,
        progress.step,
        (
            *_notices(run, checkpoint, plan if before else None),
            *_doubts(config, plan, shape),
            *_unpinned(plan, shape),
        ),
    )


def _doubts(config: TrainConfig, plan: TrainPlan, shape: GPT2Config) -> list[str]:
    """What is to be said before a model from scratch is trained."""
    if not config.from_scratch or config.resume:
        return []
    doubts = (prospect_of(plan, shape).warning, beyond_the_hours(plan.duration_s, config.max_hours))
    return [doubt for doubt in doubts if doubt]


def _unpinned(plan: TrainPlan, shape: GPT2Config) -> list[str]:
    """What is to be said where a system does not let the host's memory be pinned that a run sends tensors through."""
    n_bytes = HOST_STAGING_BYTES if STATE_PLANS[plan.states].gradients == "host" else 0
    if plan.recompute == "offload":
        n_bytes += shape.n_layer * pinned_bytes(plan.tokens_per_micro_batch * shape.n_embd * plan.dtype.itemsize)
    if not n_bytes or torch.device(plan.device).type != "cuda" or not is_wsl():
        return []
    is_pinned = pinned_empty((n_bytes,), torch.uint8).is_pinned()
    torch._C._host_emptyCache()  # noqa: SLF001  torch keeps pinned blocks for good
    if is_pinned:
        return []
    return [
        say(
            "this system does not let {needed_gib:.1f} GiB of the host's memory be pinned: what goes to the GPU and "
            "back takes longer",
            needed_gib=n_bytes / GIB,
        )
    ]


def _refuse_too_few_steps(run: RunFolder, plan: TrainPlan, progress: Progress) -> None:
    if progress.step > plan.steps:
        raise UserError(
            "the run in {path} has made {step:,} steps already, and {steps:,} are asked for",
            hint="ask for more --epochs or --max-steps, or leave them out",
            path=run.path,
            step=progress.step,
            steps=plan.steps,
        )


def _reloaded(
    config: TrainConfig,
    plan: TrainPlan,
    run: RunFolder,
    world: World,
    chance: Chance,
    model: GPT2,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
) -> tuple[Progress, list[CheckpointDamaged]]:
    """Everything back at the last good checkpoint, in all processes; newer ones are damaged and set aside."""
    if not world.is_main_process:
        return load_checkpoint_all_ranks(world, model, optimizer, scaler, chance, None, None), []
    found = find_checkpoint(run.checkpoints())
    good = found.folder
    if good is None:
        raise UserError(
            "there is no good state to go back to in {path}",
            hint="make room on the disk, and train again into another --out",
            path=run.path,
        )
    stored = load_model(config, plan, good)
    if not plan.shard:
        put_back(model, optimizer, stored)
    progress = load_checkpoint_all_ranks(world, model, optimizer, scaler, chance, good, stored)
    for folder in found.damaged:
        set_aside(folder)
    return progress, [
        CheckpointDamaged(checkpoint_step(folder), folder, reason) for folder, reason in found.damaged.items()
    ]


def _plan_again(config: TrainConfig, before: TrainConfig, run: RunFolder, corpus: Corpus, start: Start) -> TrainPlan:
    """The plan of a run that is resumed, after checking that it learns the same."""
    refuse_changed_text(run, corpus)
    plan = changed_plan(plan_before(run), before, config)
    if plan.lora is not None or not start.checkpoint:
        refuse_changed_model(run, local_folder(config.model))
    return plan


def _notices(run: RunFolder, checkpoint: FoundCheckpoint, resumed: TrainPlan | None) -> tuple[str, ...]:
    """What is to be said before a run goes on."""
    notices = [
        say("the checkpoint {folder} is damaged ({reason}) and set aside", folder=folder, reason=reason)
        for folder, reason in checkpoint.damaged.items()
    ]
    if resumed and resumed.steps != plan_before(run).steps:
        notices.append(
            say(
                "the run was planned for {before:,} steps and now makes {now:,}: from here on the learning rate falls "
                "towards the new end",
                before=plan_before(run).steps,
                now=resumed.steps,
            )
        )
    return tuple(notices)


def _read(config: TrainConfig, found: FoundSources, tokenizer: TextTokenizer) -> Corpus:
    return prepare_corpus(
        found,
        tokenizer,
        reading_options(config),
        val_fraction=config.val_fraction,
        seed=config.seed,
    )


def _read_before(run: RunFolder) -> Corpus:
    """The text of a run that read standard input."""
    corpus = cached_corpus(run.describe()["data"]["fingerprint"])
    if corpus is None:
        raise UserError(
            "the run in {path} read standard input, and its text is not in the cache any more",
            hint="save the text as a file and start anew in another --out",
            path=run.path,
        )
    return corpus


def _description(config: TrainConfig, plan: TrainPlan, corpus: Corpus) -> dict[str, Any]:
    return {
        **_asked_and_planned(config, plan),
        "run_id": secrets.token_hex(8),
        "environment": environment(),
        "data": corpus.manifest,
        "lengths": [asdict(part) for part in length_histogram(corpus.sample_token_counts())],
        "model": {"weights_sha256": weights_sha256(local_folder(config.model))},
    }


def _asked_and_planned(config: TrainConfig, plan: TrainPlan) -> dict[str, Any]:
    return {"asked": as_json(with_absolute_paths(config)), "plan": as_json(plan)}


def _sample_prompts(config: TrainConfig) -> list[str]:
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
            error=said_by_system(error),
        ) from None
    if not prompts:
        raise UserError("--sample-prompts {path} holds no prompt", hint="write one prompt a line", path=path)
    return prompts
