"""From what was asked to what will happen: every value decided, each choice with its reason.

`TrainPlan` is what `train` prints before the first step, executes, and keeps in `run.json`. It holds no None
and no "auto". One function makes it from the configuration, the model's shape, the corpus and the machine.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tunesmith.config import Recompute, StatePlanName, TrainConfig
from tunesmith.data.corpus import Corpus
from tunesmith.data.dealing import shape_of_micro_batches
from tunesmith.errors import UserError
from tunesmith.machine import Choice
from tunesmith.model.freezing import Frozen, refuse_impossible_freezing
from tunesmith.model.lora import PROJECTIONS, LoRA
from tunesmith.model.shape import GPT2Config
from tunesmith.planning.experience import Experience
from tunesmith.planning.hardware import GIB, Hardware
from tunesmith.planning.memory import Demand, snapshot_bytes
from tunesmith.planning.search import MOST_TOKENS, Request, Way, best_way, candidates, choose_way, way_of
from tunesmith.training.epoch import request_of

if TYPE_CHECKING:
    import torch

GUIDE_LEARNING_RATE = 5e-5
GUIDE_WIDTH = 768
"""The guide's learning rate, and the width of the smallest GPT-2 it is meant for."""
LORA_RATE_FACTOR = 10
"""Schulman et al. 2025, "LoRA Without Regret"."""
WIDTH_EXPONENT = 1.5
"""How fast the best learning rate grows as models get narrower (measured, `docs/decisions.md`)."""

LOG_EVERY_STEPS = {"cpu": 1, "cuda": 10}
"""Reading a loss makes a card wait for the host; on the CPU it is free."""

COMPILING_PAYS_AFTER_MINUTES = 2
"""It takes half a minute there and is taken to save a third (not measured yet)."""

EVALUATION_TOKENS_FACTOR = 8
"""Without a backward pass so many times the tokens of a micro-batch take less memory than it does with one."""


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
    peak_memory_bytes: int
    peak_memory_parts: dict[str, int]
    host_memory_bytes: int
    step_s: float
    reasons: dict[str, str]

    @property
    def lora(self) -> LoRA | None:
        """The adapters, if that is what is learned."""
        if not self.lora_rank:
            return None
        return LoRA(self.lora_rank, self.lora_alpha, self.lora_dropout, tuple(self.lora_targets))

    @property
    def dtype(self) -> "torch.dtype":
        """The dtype of the arithmetic."""
        import torch  # noqa: PLC0415  a plan can be made where it is missing

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
        "--lora-rank and --states exclude each other" if config.lora_rank and config.states != "auto" else None,
        None
        if 0 < config.val_fraction < 1
        else f"--val-fraction {config.val_fraction} is not between 0 and 1 (something must be kept apart)",
        None if 0 <= config.seed < 1 << 63 else f"--seed {config.seed} is not from 0 to 2^63 - 1",
    ]
    found = [problem for problem in problems if problem]
    if found:
        raise UserError("; ".join(found), hint="see tunesmith train --help")


def make_plan(
    config: TrainConfig, model: GPT2Config, corpus: Corpus, hardware: Hardware, experience: Experience
) -> tuple[TrainPlan, Demand]:
    """Decide everything; and what that demands of memory.

    Args:
        config: what was asked.
        model: its shape.
        corpus: what it is to learn.
        hardware: what it may use.
        experience: what earlier runs taught about memory there.

    Raises:
        UserError: if the machine or the model cannot do what was asked.
    """
    refuse_impossible_freezing(config.freeze, model)
    request, epoch = request_of(config, model, corpus, hardware, experience)
    context, step, lengths, lora = epoch.context_tokens, epoch.tokens_per_step, epoch.lengths, request.demand.lora
    way = choose_way(request, hardware)
    shape = shape_of_micro_batches(
        lengths, epoch_tokens=epoch.tokens, tokens_per_step=step.value, most_tokens=way.demand.tokens
    )
    dealt = replace(way.demand, tokens=shape.tokens, micro_batches=shape.per_step)
    way = way_of(dealt, request, hardware)
    per_epoch = shape.steps_per_epoch
    full = epoch.tokens / (per_epoch * shape.per_step * shape.tokens)
    steps = Choice(max(round(per_epoch * config.epochs), 1), f"{config.epochs:g} epochs of {per_epoch} steps")
    if config.max_steps is not None and config.max_steps < steps.value:
        steps = Choice(config.max_steps, "--max-steps")
    rate = _learning_rate(config, model)
    evaluation = _interval(config.eval_every_steps, min(per_epoch, steps.value), "once an epoch")
    saving = _interval(config.save_every_steps, evaluation.value, "at every evaluation")
    compiled = _compiled(config, hardware, way.step_s * steps.value)
    choices: dict[str, Choice[int] | Choice[float] | Choice[bool] | Choice[str]] = {
        "context_tokens": context,
        "tokens_per_step": step,
        "tokens_per_micro_batch": Choice(shape.tokens, f"{full:.1%} full; {_why_so_many(way, hardware)}"),
        "states": _why_states(way, request, hardware),
        "recompute": _why_recompute(way, request),
        "peak_memory_bytes": Choice(way.memory.peak_bytes, hardware.budget.reason),
        "compiled": compiled,
        "steps": steps,
        "learning_rate": rate,
        "eval_every_steps": evaluation,
        "save_every_steps": saving,
    }
    parts = way.memory.parts
    if hardware.kind == "cpu":
        parts = {**parts, "host states": way.memory.host, "checkpoint": snapshot_bytes(way.demand)}
    plan = TrainPlan(
        device=hardware.device,
        device_name=hardware.name,
        precision=hardware.precision,
        context_tokens=context.value,
        tokens_per_step=step.value,
        tokens_per_micro_batch=shape.tokens,
        micro_batches_per_step=shape.per_step,
        tokens_per_evaluation_batch=min(MOST_TOKENS[hardware.kind], EVALUATION_TOKENS_FACTOR * shape.tokens),
        constant_size=compiled.value or hardware.kind == "cuda",
        compiled=compiled.value,
        states=way.demand.states.name,
        recompute=way.demand.recompute,
        frozen=config.freeze,
        lora_rank=config.lora_rank,
        lora_alpha=lora.alpha if lora else 0.0,
        lora_dropout=config.lora_dropout,
        lora_targets=lora.targets if lora else (),
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
        log_every_steps=LOG_EVERY_STEPS[hardware.kind],
        seed=config.seed,
        train_samples=corpus.train.n_samples,
        train_tokens=corpus.train.n_tokens,
        validation_samples=corpus.validation.n_samples,
        validation_tokens=corpus.validation.n_tokens,
        peak_memory_bytes=sum(parts.values()),
        peak_memory_parts=parts,
        host_memory_bytes=way.memory.host,
        step_s=way.step_s,
        reasons={**hardware.reasons, **{name: choice.reason for name, choice in choices.items()}},
    )
    return plan, way.demand


def _why_so_many(way: Way, hardware: Hardware) -> str:
    if way.demand.micro_batches == 1:
        return "the whole step at once"
    if way.demand.tokens >= MOST_TOKENS[hardware.kind] * 0.9:
        return "larger ones would not be faster"
    return f"what fits {hardware.budget.value / GIB:.1f} GiB"


def _why_states(way: Way, request: Request, hardware: Hardware) -> Choice[str]:
    states = way.demand.states
    if request.states != "auto":
        return Choice(states.name, f"asked for: {states.says}")
    passed = candidates(request, hardware)
    passed = passed[: passed.index(states)]
    if not passed:
        return Choice(states.name, f"{states.says}: the reference, and it fits")
    least = best_way(request, hardware, passed[-1]).memory.peak_bytes
    return Choice(states.name, f"{states.says}; {passed[-1].name}, more faithful, takes {least / GIB:.1f} GiB at least")


def _why_recompute(way: Way, request: Request) -> Choice[str]:
    what = way.demand.recompute
    if request.recompute != "auto":
        return Choice(what, "asked for")
    says = {
        "nothing": "everything fits",
        "light": "norms and activations are computed again: nearly for free, and a third less is kept",
        "blocks": "whole blocks are computed again: a third more arithmetic, the least memory",
        "offload": "whole blocks are computed again from what the host keeps",
    }
    return Choice(what, says[what])


def _compiled(config: TrainConfig, hardware: Hardware, run_s: float) -> Choice[bool]:
    """Whether compiling saves more time than it takes."""
    possible = hardware.can_compile
    if config.compile == "no":
        return Choice(False, "asked for")
    if config.compile == "yes":
        if not possible.value:
            raise UserError(f"--compile yes: {possible.reason}", hint="install it, or leave the flag out")
        return Choice(True, "asked for")
    if not possible.value:
        return possible
    if hardware.kind == "cpu":
        return Choice(False, "on a CPU it was measured to save next to nothing")
    minutes = run_s / 60
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
