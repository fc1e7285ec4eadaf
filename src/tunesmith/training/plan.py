"""From what was asked to what will happen: every value decided, each choice with its reason.

`TrainPlan` is what `train` prints before the first step, executes, and keeps in `run.json`. It holds no None
and no "auto". One function makes it from the configuration, the model's shape, the corpus and the machine.
"""

from dataclasses import dataclass, replace

import psutil
import torch

from tunesmith.config import Recompute, StatePlanName, TrainConfig
from tunesmith.data.corpus import Corpus
from tunesmith.data.dealing import shape_of_micro_batches
from tunesmith.data.effective_batch import choose_tokens_per_step
from tunesmith.data.mixture import Mixture
from tunesmith.data.windows import windows_of
from tunesmith.errors import UserError
from tunesmith.machine import Choice, choose_device, choose_dtype, device_name
from tunesmith.model.compiled import can_compile
from tunesmith.model.context import chosen_context_tokens
from tunesmith.model.freezing import Frozen, refuse_impossible_freezing
from tunesmith.model.lora import PROJECTIONS, LoRA
from tunesmith.model.shape import GPT2Config

GUIDE_LEARNING_RATE = 5e-5
GUIDE_WIDTH = 768
"""The guide's learning rate, and the width of the smallest GPT-2 it is meant for."""
LORA_RATE_FACTOR = 10
"""Schulman et al. 2025, "LoRA Without Regret"."""
WIDTH_EXPONENT = 1.5
"""How fast the best learning rate grows as models get narrower (measured, `docs/decisions.md`)."""

MOST_TOKENS_PER_MICRO_BATCH = {"cpu": 2048, "cuda": 32_768}
LOG_EVERY_STEPS = {"cpu": 1, "cuda": 10}
"""Reading a loss makes a card wait for the host; on the CPU it is free."""

FLOPS_PER_PARAMETER = 6
"""Of one token, forward and backward (Kaplan et al. 2020, "Scaling Laws for Neural Language Models")."""
CARD_FLOPS_PER_S = 4e13
"""What training reaches on a consumer card, roughly; only `_compiled` asks."""
COMPILING_PAYS_AFTER_MINUTES = 2
"""It takes half a minute there and is taken to save a third (not measured yet)."""

BYTES_PER_ACTIVATION = 40
"""Activations kept for the backward pass, in bytes per token, layer and channel at 2 bytes a number."""
SHARE_FOR_ACTIVATIONS = 0.25
"""Of the memory that is free before the model is loaded; weights, gradients and moments need the rest."""


@dataclass(frozen=True)
class TrainPlan:
    """What a training run will do."""

    device: str
    device_name: str
    precision: str
    context_tokens: int
    tokens_per_step: int
    tokens_per_micro_batch: int
    micro_batches_per_step: int
    tokens_per_evaluation_batch: int
    constant_size: bool
    compiled: bool
    states: StatePlanName
    recompute: Recompute
    frozen: Frozen
    lora_rank: int
    lora_alpha: float
    lora_dropout: float
    lora_targets: tuple[str, ...]
    steps_per_epoch: int
    steps: int
    epochs: float
    learning_rate: float
    warmup_steps: int
    weight_decay: float
    max_grad_norm: float
    dropout: float
    eval_every_steps: int
    save_every_steps: int
    log_every_steps: int
    seed: int
    train_samples: int
    train_tokens: int
    validation_samples: int
    validation_tokens: int
    reasons: dict[str, str]

    @property
    def lora(self) -> LoRA | None:
        """The adapters, if that is what is learned."""
        if not self.lora_rank:
            return None
        return LoRA(self.lora_rank, self.lora_alpha, self.lora_dropout, tuple(self.lora_targets))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the arithmetic."""
        dtype: torch.dtype = getattr(torch, self.precision)
        return dtype


def refuse_impossible(config: TrainConfig) -> None:
    """Check what can be checked before anything is loaded, and name every problem at once.

    Raises:
        UserError: with all problems on one line.
    """

    def at_least(flag: str, value: float | str | None, least: float) -> str | None:
        wrong = isinstance(value, int | float) and not least <= value < float("inf")
        return f"{flag} {value} is not a number from {least:g}" if wrong else None

    def between(flag: str, value: float, low: float, high: float) -> str | None:
        return None if low <= value < high else f"{flag} {value} is not in [{low:g}, {high:g})"

    problems = [
        None if 0 < config.epochs < float("inf") else f"--epochs {config.epochs} is not above 0",
        at_least("--max-steps", config.max_steps, 1),
        None
        if config.learning_rate == "auto" or 0 < config.learning_rate < 1
        else f"--learning-rate {config.learning_rate} is not between 0 and 1",
        at_least("--weight-decay", config.weight_decay, 0),
        between("--warmup-fraction", config.warmup_fraction, 0, 1),
        None if config.max_grad_norm > 0 else f"--max-grad-norm {config.max_grad_norm} is not above 0",
        at_least("--tokens-per-step", config.tokens_per_step, 1),
        at_least("--eval-every-steps", config.eval_every_steps, 1),
        at_least("--save-every-steps", config.save_every_steps, 1),
        at_least("--keep-gb", config.keep_gb, 0),
        None
        if config.max_hours is None or 0 < config.max_hours < float("inf")
        else f"--max-hours {config.max_hours} is not above 0",
        between("--dropout", config.dropout, 0, 1),
        at_least("--lora-rank", config.lora_rank, 0),
        None
        if config.lora_alpha == "auto" or 0 < config.lora_alpha < float("inf")
        else f"--lora-alpha {config.lora_alpha} is not above 0",
        between("--lora-dropout", config.lora_dropout, 0, 1),
        *(
            f"--lora-targets {target} is none of {', '.join(PROJECTIONS)}"
            for target in config.lora_targets
            if target not in PROJECTIONS
        ),
        "--lora-rank and --freeze exclude each other" if config.lora_rank and config.freeze != "nothing" else None,
        None
        if 0 < config.val_fraction < 1
        else f"--val-fraction {config.val_fraction} is not between 0 and 1 (something must be kept apart)",
        None if 0 <= config.seed < 1 << 63 else f"--seed {config.seed} is not from 0 to 2^63 - 1",
    ]
    found = [problem for problem in problems if problem]
    if found:
        raise UserError("; ".join(found), hint="see tunesmith train --help")


def make_plan(config: TrainConfig, model: GPT2Config, corpus: Corpus) -> TrainPlan:
    """Decide everything.

    Raises:
        UserError: if the machine or the model cannot do what was asked.
    """
    refuse_impossible_freezing(config.freeze, model)
    device = choose_device(config.device)
    dtype = choose_dtype(config.precision, device.value)
    context = chosen_context_tokens(config.context_tokens, model.n_positions)
    windows = windows_of(corpus.train.stretches, context.value)
    mixture = Mixture(windows, corpus.train.weights, seed=config.seed)
    step = (
        choose_tokens_per_step(mixture.n_tokens, config.epochs)
        if config.tokens_per_step == "auto"
        else Choice(config.tokens_per_step, "asked for")
    )
    most = _most_tokens_per_micro_batch(model, device.value, dtype.value, context.value)
    shape = shape_of_micro_batches(
        windows.lengths[mixture.order(0)],
        epoch_tokens=mixture.n_tokens,
        tokens_per_step=step.value,
        most_tokens=most.value,
    )
    per_epoch = shape.steps_per_epoch
    full = mixture.n_tokens / (per_epoch * shape.per_step * shape.tokens)
    steps = Choice(max(round(per_epoch * config.epochs), 1), f"{config.epochs:g} epochs of {per_epoch} steps")
    if config.max_steps is not None and config.max_steps < steps.value:
        steps = Choice(config.max_steps, "--max-steps")
    rate = _learning_rate(config, model)
    evaluation = _interval(config.eval_every_steps, min(per_epoch, steps.value), "once an epoch")
    saving = _interval(config.save_every_steps, evaluation.value, "at every evaluation")
    work = FLOPS_PER_PARAMETER * model.matrix_parameters * mixture.n_tokens * steps.value / per_epoch
    compiled = _compiled(config, device.value, work)
    choices: dict[str, Choice[int] | Choice[float] | Choice[bool]] = {
        "context_tokens": context,
        "tokens_per_step": step,
        "tokens_per_micro_batch": Choice(shape.tokens, f"{full:.1%} full; at most {most.value:,}: {most.reason}"),
        "compiled": compiled,
        "steps": steps,
        "learning_rate": rate,
        "eval_every_steps": evaluation,
        "save_every_steps": saving,
    }
    return TrainPlan(
        device=str(device.value),
        device_name=device_name(device.value),
        precision=str(dtype.value).removeprefix("torch."),
        context_tokens=context.value,
        tokens_per_step=step.value,
        tokens_per_micro_batch=shape.tokens,
        micro_batches_per_step=shape.per_step,
        tokens_per_evaluation_batch=most.value,
        constant_size=compiled.value or device.value.type == "cuda",
        compiled=compiled.value,
        states="fp32" if config.states == "auto" else config.states,
        recompute="nothing" if config.recompute == "auto" else config.recompute,
        frozen=config.freeze,
        lora_rank=config.lora_rank,
        lora_alpha=2.0 * config.lora_rank if config.lora_alpha == "auto" else config.lora_alpha,
        lora_dropout=config.lora_dropout,
        lora_targets=(config.lora_targets or PROJECTIONS) if config.lora_rank else (),
        steps_per_epoch=per_epoch,
        steps=steps.value,
        epochs=steps.value / per_epoch,
        learning_rate=rate.value,
        warmup_steps=round(steps.value * config.warmup_fraction),
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        dropout=config.dropout,
        eval_every_steps=evaluation.value,
        save_every_steps=saving.value,
        log_every_steps=LOG_EVERY_STEPS[device.value.type],
        seed=config.seed,
        train_samples=corpus.train.n_samples,
        train_tokens=corpus.train.n_tokens,
        validation_samples=corpus.validation.n_samples,
        validation_tokens=corpus.validation.n_tokens,
        reasons={
            "device": device.reason,
            "precision": dtype.reason,
            **{name: choice.reason for name, choice in choices.items()},
        },
    )


def _most_tokens_per_micro_batch(
    model: GPT2Config, device: torch.device, dtype: torch.dtype, context_tokens: int
) -> Choice[int]:
    free_bytes = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    bytes_per_token = BYTES_PER_ACTIVATION * model.n_layer * model.n_embd * dtype.itemsize // 2
    fitting = int(free_bytes * SHARE_FOR_ACTIVATIONS / bytes_per_token)
    most = MOST_TOKENS_PER_MICRO_BATCH[device.type]
    if fitting < most:
        tokens = max(fitting // 128 * 128, context_tokens)
        return Choice(tokens, f"activations take a quarter of the {free_bytes / 2**30:.1f} GiB that are free")
    return Choice(max(most, context_tokens), "larger ones would not be faster")


def _compiled(config: TrainConfig, device: torch.device, work_flops: float) -> Choice[bool]:
    """Whether compiling saves more time than it takes."""
    possible = can_compile(device)
    if config.compile == "no":
        return Choice(False, "asked for")
    if config.compile == "yes":
        if not possible.value:
            raise UserError(f"--compile yes: {possible.reason}", hint="install it, or leave the flag out")
        return Choice(True, "asked for")
    if not possible.value:
        return possible
    if device.type == "cpu":
        return Choice(False, "on a CPU it was measured to save next to nothing")
    minutes = work_flops / CARD_FLOPS_PER_S / 60
    if minutes < COMPILING_PAYS_AFTER_MINUTES:
        return Choice(
            False, f"the run takes about {minutes:.1f} minutes; compiling pays from {COMPILING_PAYS_AFTER_MINUTES} on"
        )
    return Choice(True, f"pays in a run of about {minutes:,.0f} minutes")


def _learning_rate(config: TrainConfig, model: GPT2Config) -> Choice[float]:
    if config.learning_rate != "auto":
        return Choice(config.learning_rate, "asked for")
    if config.lora_rank:
        whole = _learning_rate(replace(config, lora_rank=0), model)
        return Choice(
            float(f"{whole.value * LORA_RATE_FACTOR:.2g}"), f"adapters learn best at about ten times {whole.value:g}"
        )
    if model.n_embd >= GUIDE_WIDTH:
        return Choice(GUIDE_LEARNING_RATE, "the usual rate for fine-tuning GPT-2")
    factor = (GUIDE_WIDTH / model.n_embd) ** WIDTH_EXPONENT
    return Choice(
        float(f"{GUIDE_LEARNING_RATE * factor:.2g}"),
        f"5e-5 is for models 768 wide; at {model.n_embd} {factor:.1f} times as much learns better",
    )


def _interval(asked: int | str, automatic: int, reason: str) -> Choice[int]:
    return Choice(automatic, reason) if isinstance(asked, str) else Choice(asked, "asked for")
