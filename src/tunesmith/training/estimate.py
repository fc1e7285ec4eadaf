"""The `plan` command: memory and time of a run, without downloading, loading or writing anything.

Neither a GPU nor torch is needed with `--vram` or `--gpu`. Where the model's tokenizer is not on this machine, the
packaged one counts the text's tokens, of which usual English text has half as many more.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.config import PlanConfig
from tunesmith.data.corpus import Corpus, Split, prepare_corpus
from tunesmith.data.readers import reading_options
from tunesmith.data.source_files import resolve_sources
from tunesmith.data.spans import TokenSpans
from tunesmith.data.tokenizer import load_tokenizer
from tunesmith.errors import DoesNotFitError, UserError
from tunesmith.i18n import say
from tunesmith.model.gpt2_config import GPT2Config
from tunesmith.model.hf_config import parse_hf_config, read_hf_config
from tunesmith.model.hub import SIZES, TINY, folder_here, local_folder, preset_shape
from tunesmith.optim.state_format import STATE_FORMATS
from tunesmith.planning.calibration_cache import CalibrationCache
from tunesmith.planning.fit import FitCandidate, fastest_fit, fits, requested_formats, state_candidates
from tunesmith.planning.hardware import (
    Hardware,
    detect_hardware,
    hardware_for_gpu,
    hardware_from_driver,
    with_precision,
)
from tunesmith.planning.scaling_law import time_limit_warning
from tunesmith.training.epoch import lora_of, request_of
from tunesmith.training.from_scratch import display_name, is_custom_shape, materialize_scratch_model, scratch_shape
from tunesmith.training.plan import TrainPlan, make_plan, scaling_estimate
from tunesmith.training.sharding_choice import Processes, choose_sharding, share_of_hardware
from tunesmith.training.validation import validate_config

SHOWN_SIZES = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
GPT2_TOKENS_PER_TINY_TOKEN = 0.69
"""Measured on English prose, titles, verse and answers: 0.61 to 0.75 (Japanese: 0.94)."""
WINDOWS_WITHOUT_TEXT = 1000
LORA_RANK_SHOWN = 8
IN_PARTS = "in-parts"
"""The chosen method where no line of a whole model is."""
EVALUATION_SHARE = 1 / 3
"""Of the time of a training step: the same tokens without a backward pass."""


@dataclass(frozen=True)
class Method:
    """One way to train a model size: one row of the table.

    Attributes:
        method: a state plan, or adapters.
        peak_memory_bytes: the minimum, where it does not fit.
        host_memory_bytes: of the host, in addition.
        tokens_per_s: roughly; None where the GPU's speed is not known.
        duration_s: of all steps, likewise.
        is_chosen: whether `train` would use it.
    """

    model: str
    method: str
    activation_checkpointing: str
    peak_memory_bytes: int
    host_memory_bytes: int
    fits: bool
    tokens_per_s: float | None
    duration_s: float | None
    is_chosen: bool


@dataclass(frozen=True)
class TrainEstimate:
    """The estimate of a run, and of its alternatives.

    Attributes:
        plan: of `train`; None where nothing fits.
        refusal: why nothing does; empty where something does.
        hardware: that it was planned for.
        notes: assumptions.
    """

    model: str
    plan: TrainPlan | None
    refusal: str
    hardware: Hardware
    notes: tuple[str, ...]
    methods: tuple[Method, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the keys of `tunesmith plan --json`."""
        common = {
            "model": self.model,
            "fits": self.plan is not None,
            "budget_bytes": self.hardware.budget.value,
            "speed_of": self.hardware.speed_of or None,
            "notes": list(self.notes),
            "methods": [asdict(method) for method in self.methods],
        }
        if self.plan is None:
            return {**common, "refusal": self.refusal}
        plan = asdict(self.plan)
        return {**plan, "duration_s": duration_s(self.plan), **common}


def duration_s(plan: TrainPlan) -> float | None:
    """Return the time of steps and evaluations, roughly; None where the GPU's speed is not known."""
    if plan.step_s is None:
        return None
    evaluations = plan.steps / plan.eval_steps + 1
    per_token_s = plan.step_s / (plan.tokens_per_micro_batch * plan.micro_batches_per_step)
    return plan.steps * plan.step_s + evaluations * plan.val_tokens * per_token_s * EVALUATION_SHARE


def estimate(config: PlanConfig) -> TrainEstimate:
    """Plan a run without starting it.

    Raises:
        UserError: for impossible settings, unreadable text, or a model whose shape is not known here.
    """
    validate_config(config)
    hardware = _hardware(config)
    folder: Path | None = None
    if is_custom_shape(config) and not (config.sources or config.tokenizer):
        shape = scratch_shape(config, _folder_here)
    else:
        config = materialize_scratch_model(config, _folder_here)
        shape, folder = _shape(config.model)
    name = display_name(config)
    notes: list[str] = []
    corpus = _corpus(config, shape, folder, notes)
    experience = CalibrationCache.kept()
    refusal = ""
    plan = None
    try:
        plan, _ = make_plan(config, shape, corpus, hardware, experience, Processes(config.devices, config.devices))
    except DoesNotFitError as error:
        refusal = error.message
    shapes = {name: preset_shape(name) for name in SHOWN_SIZES}
    if shape not in shapes.values():
        shapes = {name: shape, **shapes}
    if plan is not None and config.from_scratch:
        warnings = (scaling_estimate(plan, shape).warning, time_limit_warning(duration_s(plan), config.max_hours))
        notes += [warning for warning in warnings if warning]
    methods = tuple(
        method
        for size, size_shape in shapes.items()
        if size_shape is not None
        for method in _methods(replace(config, model=size), size_shape, corpus, hardware, experience)
    )
    return TrainEstimate(name, plan, refusal, hardware, tuple(notes), methods)


def _folder_here(model: str) -> Path:
    folder = folder_here(model)
    if folder is None:
        raise UserError(
            "{model} is not on this machine, and plan downloads nothing",
            hint="name a local folder, or leave --tokenizer out: then one is trained on the text",
            model=model,
        )
    return folder


def _hardware(config: PlanConfig) -> Hardware:
    if config.gpu is not None or config.vram is not None:
        return with_precision(hardware_for_gpu(config.gpu, config.vram), config.precision)
    driver = hardware_from_driver(config.device)
    return with_precision(driver, config.precision) if driver else detect_hardware(config.device, config.precision)


def shape_of(model: str) -> GPT2Config:
    """Return the model's shape, where it is known without a download.

    Raises:
        UserError: if it is not.
    """
    return _shape(model)[0]


def _shape(model: str) -> tuple[GPT2Config, Path | None]:
    """Return the model's shape, and its folder if it is on this machine."""
    folder = folder_here(model)
    if folder is not None:
        return parse_hf_config(read_hf_config(folder), origin=str(folder)), folder
    shape = preset_shape(model)
    if shape is None:
        raise UserError(
            "the shape of {model} is not known here, and plan downloads nothing",
            hint="name a preset ({names}), a local folder, or train it once so that it is in the cache",
            model=model,
            names=", ".join(SIZES),
        )
    return shape, None


def _corpus(config: PlanConfig, shape: GPT2Config, folder: Path | None, notes: list[str]) -> Corpus:
    if not config.sources:
        notes.append(say("no text was named: {n_windows:,} full windows are taken", n_windows=WINDOWS_WITHOUT_TEXT))
        context = shape.n_positions if config.context_length == "auto" else config.context_length
        return _synthetic_corpus(np.full(WINDOWS_WITHOUT_TEXT, context))
    is_complete = folder is not None and any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json"))
    counting = folder if is_complete and folder is not None else local_folder(TINY)
    tokenizer = load_tokenizer(counting, read_hf_config(counting))
    with resolve_sources(config.sources) as found:
        corpus = prepare_corpus(
            found, tokenizer, reading_options(config), val_fraction=config.val_fraction, seed=config.seed
        )
    if is_complete:
        return corpus
    notes.append(
        say(
            "the tokenizer of {model} is not here: tokens are estimated, within a seventh for English "
            "(tokens and time, not memory)",
            model=config.model,
        )
    )
    parts = [_scaled(split, GPT2_TOKENS_PER_TINY_TOKEN) for split in (corpus.train, corpus.validation)]
    return Corpus(corpus.folder, corpus.manifest, *parts)


def _scaled(split: Split, factor: float) -> Split:
    old = split.spans
    lengths = np.maximum(np.rint(old.lengths * factor).astype(np.int64), 1)
    prompts = np.minimum(np.rint(old.prompt_tokens * factor).astype(np.int64), lengths - 1)
    return Split(split.tokens, TokenSpans(old.starts, lengths, prompts, old.sources), split.text_bytes, split.weights)


def _synthetic_corpus(lengths: np.ndarray[Any, np.dtype[np.int64]]) -> Corpus:
    none = np.zeros_like(lengths)
    whole = TokenSpans(none + 1, lengths, none, none)
    parts = (whole, whole[slice(len(lengths) // 10)])
    return Corpus(Path(), {}, *(Split(np.zeros(1, np.uint16), part, text_bytes=1) for part in parts))


def _methods(
    config: PlanConfig, shape: GPT2Config, corpus: Corpus, hardware: Hardware, experience: CalibrationCache
) -> Iterator[Method]:
    """Yield every way to train a model size, the chosen one marked."""
    if config.context_length != "auto":
        config = replace(config, context_length=min(shape.n_positions, config.context_length))
    every = replace(
        config, memory_mode="auto", fused_backward="auto", activation_checkpointing="auto", lora_r=0, freeze="none"
    )
    processes = Processes(config.devices, config.devices)
    hardware = share_of_hardware(hardware, processes)
    request, epoch = request_of(every, shape, corpus, hardware, experience, processes=processes.size)
    epochs_steps = max(round(epoch.steps_per_epoch * config.epochs), 1)

    def method(name: str, way: FitCandidate, steps: int, *, is_chosen: bool) -> Method:
        step_s = way.step_s / processes.speedup(hardware.kind)
        return Method(
            model=config.model,
            method=name,
            activation_checkpointing=way.demand.activation_checkpointing,
            peak_memory_bytes=way.memory.peak_bytes,
            host_memory_bytes=way.memory.host,
            fits=fits(way, hardware),
            tokens_per_s=request.step_tokens / step_s if hardware.speed_of else None,
            duration_s=steps * step_s if hardware.speed_of else None,
            is_chosen=is_chosen,
        )

    steps = epochs_steps if config.max_steps is None else config.max_steps
    requested = [states.label for states in requested_formats(config.memory_mode, config.fused_backward)]
    chosen = requested[0] if config.memory_mode != "auto" and len(requested) == 1 else ""
    if processes.size > 1:
        in_parts = replace(request, demand=replace(request.demand, is_sharded=True))
        way = fastest_fit(in_parts, hardware, STATE_FORMATS["fp32"])
        is_sharded = choose_sharding(every, shape, corpus, hardware, experience, processes).value
        yield method(say("fp32 in {n} parts", n=processes.size), way, steps, is_chosen=is_sharded and not config.lora_r)
        chosen = IN_PARTS if is_sharded else chosen
    was_shown: dict[str, bool] = {}
    for states in state_candidates(request, hardware):
        way = fastest_fit(request, hardware, states)
        fitting = fits(way, hardware)
        if states.is_fused and was_shown.get(states.memory_mode) and config.fused_backward != "yes":
            continue  # only useful where the other one does not fit
        was_shown[states.label] = fitting
        if not chosen and fitting and states.label in requested:
            chosen = states.label
        yield method(states.label, way, steps, is_chosen=states.label == chosen and config.lora_r == 0)
    if config.from_scratch:
        return  # adapters need something to adapt
    rank = config.lora_r or LORA_RANK_SHOWN
    adapted = replace(request, demand=replace(request.demand, lora=lora_of(replace(every, lora_r=rank))))
    way = fastest_fit(adapted, hardware, state_candidates(adapted, hardware)[0])
    yield method(say("LoRA, rank {rank}", rank=rank), way, epochs_steps, is_chosen=config.lora_r > 0)
