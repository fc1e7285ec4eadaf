"""The verb `train`: from a configuration to a running loop, or to one clear error with nothing written."""

import math
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from tunesmith.config import TrainConfig
from tunesmith.data.corpus import Corpus, cached_corpus, prepare_corpus
from tunesmith.data.origins import Origins
from tunesmith.data.source_files import FoundSources, found_sources
from tunesmith.data.sources import reading_options
from tunesmith.data.standard_input import STANDARD_INPUT
from tunesmith.data.tokenizer import TextTokenizer, load_tokenizer
from tunesmith.errors import UsageError, UserError
from tunesmith.machine import choose_device, choose_dtype, environment
from tunesmith.model.adapters import attach, load_adapter
from tunesmith.model.compiled import can_compile, compile_in_place
from tunesmith.model.config_file import read_hf_config
from tunesmith.model.freezing import freeze
from tunesmith.model.gpt2 import GPT2
from tunesmith.model.hf_config import gpt2_config
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
from tunesmith.training.changed_plan import changed_plan
from tunesmith.training.checkpoint import ADAPTER, CheckpointWriter, FoundCheckpoint, find_checkpoint, load_checkpoint
from tunesmith.training.deadline import first_deadline
from tunesmith.training.disk_space import refuse_too_little
from tunesmith.training.events import Ended, Event, Planned, ResumeVerified, Sampled, metrics_of
from tunesmith.training.loop import TrainingLoop
from tunesmith.training.memory_lesson import MemoryLesson
from tunesmith.training.optimizer import make_optimizer
from tunesmith.training.plan import TrainPlan, make_plan, refuse_impossible
from tunesmith.training.progress import Progress
from tunesmith.training.publish import Publisher
from tunesmith.training.resuming import (
    asked_before,
    asked_now,
    plan_before,
    refuse_changed_model,
    refuse_changed_text,
    weights_sha256,
    with_absolute_paths,
)
from tunesmith.training.run import BEFORE_THE_BEGINNING, METRICS, SAMPLES, RunFolder, as_json
from tunesmith.training.snapshot import state_bytes
from tunesmith.training.verify_resume import verify_resume

DEFAULT_SAMPLES = 3
ASKED_TO = "the user"


def train_model(config: TrainConfig, *, stop: Callable[[], bool]) -> Generator[Event, None, None]:
    """Train, yielding what happens; the last event is `Ended`.

    Args:
        config: what was asked.
        stop: asked after every step; the run saves and ends when it says so.

    Raises:
        UserError: before anything is written, if it cannot be done; later, if the loss is no number any more.
    """
    deadline = first_deadline(config.max_hours, config.stop_at, now=datetime.now().astimezone())

    def why_stop() -> str:
        if stop():
            return ASKED_TO
        return deadline.reason if deadline and deadline.has_passed() else ""

    run = RunFolder(Path(config.out))
    before = asked_before(run) if config.resume else None
    if before:
        config = asked_now(config, before, run)
    elif not config.sources:
        raise UsageError("no source was named", hint="name the text to learn: tunesmith train FILE --out DIR")
    _refuse_early(config)
    if not before:
        run.refuse_if_taken()
    verified = verify_resume(config, _train) if config.verify_resume else None
    if before:
        with run.locked():
            with _sources(config) as found:
                loop, planned = _set_up(config, run, found, why_stop, before)
            run.begin({**run.describe(), **_asked_and_planned(config, loop.plan)})
            is_measured = not math.isnan(loop.progress.base_perplexity)
            run.forget_after(loop.progress.step if is_measured else BEFORE_THE_BEGINNING)
            yield from _executed(loop, planned, verified)
        return
    with _sources(config) as found:
        loop, planned = _set_up(config, run, found, why_stop, None)
    with run.locked():
        run.refuse_if_taken()  # by a run that began meanwhile
        run.begin(_description(config, loop.plan, loop.corpus))
        yield from _executed(loop, planned, verified)


def _train(config: TrainConfig, stop: Callable[[], bool]) -> Iterator[Event]:
    return train_model(config, stop=stop)


def _executed(loop: TrainingLoop, planned: Planned, verified: ResumeVerified | None) -> Iterator[Event]:
    yield planned
    if verified:
        yield verified
    for event in loop.events():
        _keep(event, loop.run)
        if isinstance(event, Ended) and loop.lesson and not event.result.interrupted and loop.progress.pieces == 1:
            loop.lesson.after(event.result.peak_memory_bytes)
        yield event


def _refuse_early(config: TrainConfig) -> None:
    """Find what is wrong before a model is fetched or a long text is read."""
    refuse_impossible(config)
    reading_options(config)
    choose_dtype(config.precision, choose_device(config.device).value)
    _sample_prompts(config)


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


@dataclass(frozen=True)
class _Start:
    """Where the weights come from: the base model, or a checkpoint of this run."""

    weights: Path
    checkpoint: bool


def _set_up(
    config: TrainConfig,
    run: RunFolder,
    found: FoundSources | None,
    why_stop: Callable[[], str],
    before: TrainConfig | None,
) -> tuple[TrainingLoop, Planned]:
    checkpoint = find_checkpoint(run.checkpoints()) if config.resume else FoundCheckpoint(None, {})
    start = _Start(checkpoint.folder, True) if checkpoint.folder else _Start(local_folder(config.model), False)
    hf_config = read_hf_config(start.weights)
    shape = gpt2_config(hf_config, origin=str(start.weights))
    tokenizer = load_tokenizer(start.weights, hf_config)
    prompts = _sample_prompts(config)
    corpus = _read_before(run) if found is None else _read(config, found, tokenizer)
    lesson = None
    if before:
        plan = _plan_again(config, before, run, corpus, start)
        model, optimizer = _learner(config, plan, start)
    else:
        plan, model, optimizer, lesson = _planned_learner(config, shape, corpus, start)
    device = torch.device(plan.device)
    scaler = torch.amp.GradScaler(device.type, enabled=plan.dtype == torch.float16)
    torch.manual_seed(plan.seed)  # dropout only; the order of the data has its own
    progress = Progress(recompute=plan.recompute)
    if start.checkpoint:
        progress = load_checkpoint(start.weights, model=model, optimizer=optimizer, scaler=scaler)
    recompute(model, progress.recompute)
    if progress.precision:
        model.compute_dtype = getattr(torch, progress.precision)
        scaler = torch.amp.GradScaler(device.type, enabled=False)
    if progress.step > plan.steps:
        raise UserError(
            f"the run in {run.path} has made {progress.step:,} steps already, and {plan.steps:,} are asked for",
            hint="ask for more --epochs or --max-steps, or leave them out",
        )

    def reload(model: GPT2, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler) -> Progress:
        good = find_checkpoint(run.checkpoints()).folder
        if good is None:
            raise UserError(
                f"there is no good state to go back to in {run.path}",
                hint="make room on the disk, and train again into another --out",
            )
        _put_back(model, optimizer, _model(config, plan, good))
        return load_checkpoint(good, model=model, optimizer=optimizer, scaler=scaler)

    version = str(environment()["tunesmith"])
    publisher = Publisher(run, config, plan, corpus, tokenizer, hf_config, version)
    writer = CheckpointWriter(hf_config, tokenizer, plan.lora, config.model)
    loop = TrainingLoop(
        model=model,
        optimizer=optimizer,
        scaler=scaler,
        plan=plan,
        corpus=corpus,
        tokenizer=tokenizer,
        run=run,
        publisher=publisher,
        checkpoints=writer,
        progress=progress,
        prompts=prompts,
        origins=Origins(corpus, tokenizer, found),
        reload=reload,
        keep_bytes=None if config.keep_gb is None else config.keep_gb * 1e9,
        stop=why_stop,
        lesson=lesson,
    )
    if not config.resume:
        weights_bytes, optimizer_bytes = state_bytes(model, optimizer)
        refuse_too_little(run.path, weights_bytes=weights_bytes, optimizer_bytes=optimizer_bytes)
    for folder in checkpoint.damaged:
        run.set_aside(folder)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return loop, Planned(
        config.model, parameters, run.path, plan, progress.step, _notices(run, checkpoint, plan if before else None)
    )


def _planned_learner(
    config: TrainConfig, shape: GPT2Config, corpus: Corpus, start: _Start
) -> tuple[TrainPlan, GPT2, torch.optim.Optimizer, MemoryLesson]:
    """A plan and what it needs; where memory is tight, planned again after two short real steps."""
    hardware, experience = hardware_here(config.device, config.precision), Experience.kept()
    plan, demand = make_plan(config, shape, corpus, hardware, experience)
    model, optimizer = _learner(config, plan, start)
    lesson = MemoryLesson(demand, hardware, experience)
    learned = lesson.before(model, optimizer, plan.peak_memory_bytes)
    if learned is experience:
        return plan, model, optimizer, lesson
    before = plan.states
    plan, demand = make_plan(config, shape, corpus, hardware, learned)
    if plan.states != before:
        del model, optimizer
        free_memory()
        model, optimizer = _learner(config, plan, start)
    return plan, model, optimizer, MemoryLesson(demand, hardware, learned)


def _learner(config: TrainConfig, plan: TrainPlan, start: _Start) -> tuple[GPT2, torch.optim.Optimizer]:
    """The model on its device, and its optimizer."""
    device = torch.device(plan.device)
    model = _model(config, plan, start.weights if start.checkpoint else None).to(device).train()
    model.compute_dtype = plan.dtype  # a checkpoint may know better
    if plan.compiled and can_compile(device).value:  # a run may be resumed on a machine that cannot
        compile_in_place(model)
    recompute(model, plan.recompute)
    states = STATE_PLANS[plan.states]
    return model, make_optimizer(model, weight_decay=plan.weight_decay, plan=states, seed=plan.seed)


@torch.no_grad()
def _put_back(model: GPT2, optimizer: torch.optim.Optimizer, stored: GPT2) -> None:
    """Overwrite weights that went bad, in the form that the optimizer keeps them in."""
    for parameter, whole in zip(model.parameters(), stored.parameters(), strict=True):
        is_split = "remainder" in optimizer.state.get(parameter, {})
        parameter.copy_(split(whole)[0] if is_split else whole)
    if isinstance(optimizer, InBackwardAdamW):
        optimizer.norm_before = None  # unless the checkpoint knows it


def _plan_again(config: TrainConfig, before: TrainConfig, run: RunFolder, corpus: Corpus, start: _Start) -> TrainPlan:
    """The plan of a run that is resumed, after checking that it learns the same."""
    refuse_changed_text(run, corpus)
    plan = changed_plan(plan_before(run), before, config)
    if plan.lora is not None or not start.checkpoint:
        refuse_changed_model(run, local_folder(config.model))
    return plan


def _notices(run: RunFolder, checkpoint: FoundCheckpoint, resumed: TrainPlan | None) -> tuple[str, ...]:
    """What is to be said before a run goes on."""
    notices = [
        f"the checkpoint {folder} is damaged ({reason}) and set aside" for folder, reason in checkpoint.damaged.items()
    ]
    if resumed and resumed.steps != plan_before(run).steps:
        notices.append(
            f"the run was planned for {plan_before(run).steps:,} steps and now makes {resumed.steps:,}: from here on "
            "the learning rate falls towards the new end"
        )
    return tuple(notices)


def _model(config: TrainConfig, plan: TrainPlan, checkpoint: Path | None) -> GPT2:
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
            f"the run in {run.path} read standard input, and its text is not in the cache any more",
            hint="save the text as a file and start anew in another --out",
        )
    return corpus


def _description(config: TrainConfig, plan: TrainPlan, corpus: Corpus) -> dict[str, Any]:
    return {
        **_asked_and_planned(config, plan),
        "environment": environment(),
        "data": corpus.manifest,
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
        raise UserError(f"--sample-prompts {path} cannot be read: {error}", hint="one prompt a line, UTF-8") from None
    if not prompts:
        raise UserError(f"--sample-prompts {path} holds no prompt", hint="write one prompt a line")
    return prompts
