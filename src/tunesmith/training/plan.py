"""The training plan: every setting decided, each with its reason.

`TrainPlan` is what `train` prints before the first step, executes, and keeps in `run.json`. It has no "auto", and None
only for the times of a GPU whose speed is not known. `make_plan` makes it from the configuration, the model's shape,
the corpus and the hardware.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tunesmith.backends import resolve_attention
from tunesmith.config import ActivationCheckpointing, MemoryMode, TrainingConfig
from tunesmith.data.corpus import Corpus
from tunesmith.data.packing import plan_micro_batches, round_up_tokens
from tunesmith.errors import UserError
from tunesmith.i18n import LazyString, say
from tunesmith.model.gpt2_config import Frozen, GPT2Config, LoRA, check_freeze
from tunesmith.optim.state_format import STATE_FORMATS, StateFormat, state_format
from tunesmith.planning.calibration_cache import CalibrationCache
from tunesmith.planning.fit import (
    MAX_TOKENS,
    FitCandidate,
    FitRequest,
    choose_fit,
    evaluate_fit,
    fastest_fit,
    fits,
    flops_per_token,
    state_candidates,
)
from tunesmith.planning.hardware import GIB, Hardware
from tunesmith.planning.memory_model import StepSpec, evaluation_bytes, snapshot_bytes
from tunesmith.planning.scaling_law import ScalingEstimate
from tunesmith.training.epoch import request_of
from tunesmith.training.sharding_choice import ONE_PROCESS, Processes, choose_sharding, share_of_hardware
from tunesmith.utils.device import Decision

if TYPE_CHECKING:
    import torch

REFERENCE_LR = 5e-5
REFERENCE_WIDTH = 768
"""The learning rate of the Hugging Face Trainer example, and the width of the smallest GPT-2 it is meant for."""
LORA_RATE_FACTOR = 10
"""Schulman et al. 2025, "LoRA Without Regret"."""
WIDTH_EXPONENT = 1.5
"""How fast the best learning rate grows as models get narrower (measured, `docs/decisions.md`)."""

LOG_EVERY_STEPS = {"cpu": 1, "cuda": 10}
"""Reading a loss makes a GPU wait for the host; on the CPU it is free."""

SCRATCH_LR = 6e-4
MAX_LR = 5e-3
"""From scratch at the reference width (Brown et al. 2020, table 2.1), elsewhere inversely to the width; its maximum."""
WEIGHT_DECAY, SCRATCH_WEIGHT_DECAY = 0.01, 0.1
BETA2, SCRATCH_BETA2 = 0.999, 0.95
"""Brown et al. 2020, appendix B."""

COMPILING_PAYS_AFTER_MINUTES = 5
"""Compilation takes half a minute on a GPU and is estimated to save a tenth, from bytes and launches: GELU, norms and
attention are single kernels without it, too."""

WHY_RECOMPUTED: dict[ActivationCheckpointing, LazyString] = {
    "none": LazyString("everything fits"),
    "selective": LazyString("norms and activations are computed again: nearly for free, and a third less is kept"),
    "full": LazyString("whole blocks are computed again: a third more arithmetic, the least memory"),
    "offload": LazyString("whole blocks are computed again from what the host keeps"),
}

HOST_COPY_SHARE = 0.8
"""Of the host's free memory: a larger copy would displace something else."""

EVALUATION_TOKENS_FACTOR = 8
"""Times the tokens of a micro-batch that need less memory without a backward pass than it does with one."""


@dataclass(frozen=True)
class TrainPlan:
    """What a training run will do."""

    device: str
    device_name: str
    precision: str
    context_length: int
    tokens_per_step: int
    tokens_per_micro_batch: int
    micro_batches_per_step: int
    tokens_per_evaluation_batch: int
    constant_size: bool
    compile: bool
    memory_mode: MemoryMode
    fused_backward: bool
    activation_checkpointing: ActivationCheckpointing
    freeze: Frozen
    lora_r: int
    lora_alpha: float
    lora_dropout: float
    lora_target_modules: tuple[str, ...]
    steps_per_epoch: int
    steps: int
    epochs: float
    learning_rate: float
    warmup_steps: int
    weight_decay: float
    max_grad_norm: float
    dropout: float
    eval_steps: int
    save_steps: int
    log_every_steps: int
    seed: int
    train_samples: int
    train_tokens: int
    val_samples: int
    val_tokens: int
    peak_memory_bytes: int
    peak_memory_parts: dict[str, int]
    host_memory_bytes: int
    step_s: float | None
    flops_per_token: float
    device_flops_per_s: float | None
    reasons: dict[str, str]
    optimizer: str = "adamw"
    adam_beta2: float = 0.999
    """These two had no alternative in runs planned earlier."""
    devices: int = 1
    shard: bool = False
    deterministic: bool = False
    attention: str = ""
    kernels: str = ""
    """Of the machine that planned; another machine that resumes decides again. Empty in runs planned earlier."""

    @property
    def duration_s(self) -> float | None:
        """Of all steps; None where the GPU's speed is not known."""
        return None if self.step_s is None else self.step_s * self.steps

    @property
    def state_format(self) -> StateFormat:
        """How weights, gradients and moments are kept."""
        return state_format(self.memory_mode, fused_backward=self.fused_backward)

    @property
    def lora(self) -> LoRA | None:
        """The adapters; None where all weights are trained."""
        if not self.lora_r:
            return None
        return LoRA(self.lora_r, self.lora_alpha, self.lora_dropout, tuple(self.lora_target_modules))

    @property
    def dtype(self) -> "torch.dtype":
        """The dtype of the computation."""
        import torch

        dtype: torch.dtype = getattr(torch, self.precision)
        return dtype


def make_plan(
    config: TrainingConfig,
    model: GPT2Config,
    corpus: Corpus,
    hardware: Hardware,
    experience: CalibrationCache,
    processes: Processes = ONE_PROCESS,
) -> tuple[TrainPlan, StepSpec]:
    """Decide every setting; return the plan and its memory demand.

    Args:
        config: requested settings.
        model: its shape.
        corpus: to train on.
        hardware: that the run may use.
        experience: measured memory of earlier runs there.
        processes: that train together.

    Raises:
        UserError: if the machine or the model cannot do what was requested.
    """
    check_freeze(config.freeze, model)
    hardware = share_of_hardware(hardware, processes)
    is_sharded = choose_sharding(config, model, corpus, hardware, experience, processes)
    request, epoch = request_of(
        config, model, corpus, hardware, experience, processes=processes.size, is_sharded=is_sharded.value
    )
    context, step, lengths, lora = epoch.context_length, epoch.tokens_per_step, epoch.lengths, request.demand.lora
    optimizer = _optimizer(config, request, hardware, is_sharded=is_sharded.value)
    fitted = request
    if optimizer.value == "muon":
        fitted = replace(request, memory_mode="fp32", fused_backward="no")
    way = choose_fit(fitted, hardware)
    shape = plan_micro_batches(
        lengths,
        epoch_tokens=epoch.tokens,
        tokens_per_step=step.value,
        max_tokens=way.demand.tokens,
        stays_whole=way.demand.states.is_fused,
    )
    shape = replace(shape, tokens=max(shape.tokens, round_up_tokens(request.longest_tokens)))
    dealt = replace(way.demand, tokens=shape.tokens, micro_batches=shape.per_step)
    way = evaluate_fit(dealt, fitted, hardware)
    per_epoch = shape.steps_per_epoch
    full = epoch.tokens / (per_epoch * shape.per_step * shape.tokens)
    steps = Decision(
        max(round(per_epoch * config.epochs), 1),
        say("{epochs:g} epochs of {per_epoch} steps", epochs=config.epochs, per_epoch=per_epoch),
    )
    if config.max_steps is not None and config.max_steps < steps.value:
        steps = Decision(config.max_steps, "--max-steps")
    rate = _learning_rate(config, model)
    evaluation = _interval(config.eval_steps, min(per_epoch, steps.value), say("once an epoch"))
    saving = _interval(config.save_steps, evaluation.value, say("at every evaluation"))
    step_s = way.step_s / processes.speedup(hardware.kind)
    compiled = _compiled(config, hardware, step_s * steps.value)
    if is_sharded.value and compiled.value:
        compiled = Decision(False, say("blocks that gather their weights are not compiled"))
    attention = resolve_attention(hardware.facts, _attention_dtype(hardware, model), model.head_dim)
    choices: dict[str, Decision[Any]] = {
        "context_length": context,
        "tokens_per_step": step,
        "tokens_per_micro_batch": Decision(
            shape.tokens, say("{full:.1%} full; {why}", full=full, why=_why_micro_batch(way, hardware))
        ),
        "memory_mode": _why_states(way, request, hardware),
        "activation_checkpointing": _why_recompute(way, request),
        "peak_memory_bytes": Decision(way.memory.peak_bytes, hardware.budget.reason),
        "attention": attention,
        "kernels": hardware.kernels,
        "compile": compiled,
        "steps": steps,
        "learning_rate": rate,
        "optimizer": optimizer,
        "eval_steps": evaluation,
        "save_steps": saving,
        "shard": is_sharded,
        "deterministic": _deterministic(config, hardware),
    }
    parts = way.memory.parts
    if hardware.kind == "cpu":
        parts = {**parts, "host states": way.memory.host, "checkpoint": snapshot_bytes(way.demand)}
    checkpoint_bytes = _checkpoint_bytes(way, hardware)
    choices["host_memory_bytes"] = checkpoint_bytes
    plan = TrainPlan(
        device=hardware.device,
        device_name=hardware.name,
        precision=hardware.precision,
        context_length=context.value,
        tokens_per_step=step.value,
        tokens_per_micro_batch=shape.tokens,
        micro_batches_per_step=shape.per_step,
        tokens_per_evaluation_batch=_evaluation_tokens(way, hardware, fewest=context.value),
        constant_size=compiled.value or hardware.kind == "cuda",
        compile=compiled.value,
        memory_mode=way.demand.states.memory_mode,
        fused_backward=way.demand.states.is_fused,
        activation_checkpointing=way.demand.activation_checkpointing,
        freeze=config.freeze,
        lora_r=config.lora_r,
        lora_alpha=lora.alpha if lora else 0.0,
        lora_dropout=config.lora_dropout,
        lora_target_modules=lora.targets if lora else (),
        steps_per_epoch=per_epoch,
        steps=steps.value,
        epochs=steps.value / per_epoch,
        learning_rate=rate.value,
        warmup_steps=round(steps.value * config.warmup_ratio),
        weight_decay=_weight_decay(config),
        max_grad_norm=config.max_grad_norm,
        dropout=config.dropout,
        eval_steps=evaluation.value,
        save_steps=saving.value,
        log_every_steps=LOG_EVERY_STEPS[hardware.kind],
        seed=config.seed,
        train_samples=corpus.train.n_samples,
        train_tokens=corpus.train.n_tokens,
        val_samples=corpus.validation.n_samples,
        val_tokens=corpus.validation.n_tokens,
        peak_memory_bytes=sum(parts.values()),
        peak_memory_parts=parts,
        host_memory_bytes=way.memory.host + checkpoint_bytes.value,
        step_s=step_s if hardware.speed_of else None,
        flops_per_token=flops_per_token(model, request.mean_context_tokens),
        device_flops_per_s=hardware.flops_per_s if hardware.speed_of else None,
        reasons={**hardware.reasons, **{name: choice.reason for name, choice in choices.items()}},
        optimizer=optimizer.value,
        adam_beta2=_adam_beta2(config),
        devices=processes.size,
        shard=is_sharded.value,
        deterministic=config.deterministic,
        attention=attention.value,
        kernels=hardware.kernels.value,
    )
    if config.from_scratch:
        plan = replace(plan, reasons={**plan.reasons, "prospect": scaling_estimate(plan, model).text})
    return plan, way.demand


def _attention_dtype(hardware: Hardware, model: GPT2Config) -> str:
    """Return torch's name for the dtype of queries, keys and values."""
    return "float32" if model.reorder_and_upcast_attn else hardware.precision


def scaling_estimate(plan: TrainPlan, model: GPT2Config) -> ScalingEstimate:
    """Return the scaling-law estimate of a plan for a model from scratch."""
    seen = round(plan.train_tokens * plan.epochs)
    return ScalingEstimate(model.matrix_parameters, plan.train_tokens, seen)


def _adam_beta2(config: TrainingConfig) -> float:
    if config.adam_beta2 != "auto":
        return config.adam_beta2
    return SCRATCH_BETA2 if config.from_scratch else BETA2


def _weight_decay(config: TrainingConfig) -> float:
    if config.weight_decay != "auto":
        return config.weight_decay
    return SCRATCH_WEIGHT_DECAY if config.from_scratch else WEIGHT_DECAY


def _evaluation_tokens(way: FitCandidate, hardware: Hardware, *, fewest: int) -> int:
    """Return the tokens of an evaluation batch: more than of a micro-batch, as far as they fit."""
    tokens = min(MAX_TOKENS[hardware.kind], EVALUATION_TOKENS_FACTOR * way.demand.tokens)
    if hardware.kind == "cpu":
        return tokens
    while tokens > fewest and evaluation_bytes(way.demand, way.memory, tokens) > hardware.budget.value:
        tokens = max(tokens // 2, fewest)
    return tokens


def _optimizer(config: TrainingConfig, request: FitRequest, hardware: Hardware, *, is_sharded: bool) -> Decision[str]:
    if config.optimizer != "auto":
        return Decision(config.optimizer, say("asked for"))
    if not config.from_scratch or request.demand.lora is not None:
        return Decision("adamw", say("the usual one for fine-tuning"))
    if is_sharded:
        return Decision("adamw", say("muon needs whole matrices, and each process has a shard"))
    if request.memory_mode not in {"auto", "fp32"}:
        return Decision("adamw", say("the one that can keep its state so"))
    if not fits(fastest_fit(request, hardware, STATE_FORMATS["fp32"]), hardware):
        return Decision("adamw", say("muon needs everything in fp32, which does not fit"))
    return Decision("muon", say("from scratch it reaches a lower loss in the same time"))


def _why_micro_batch(way: FitCandidate, hardware: Hardware) -> str:
    if way.demand.micro_batches == 1:
        return say("the whole step at once")
    if way.demand.tokens >= MAX_TOKENS[hardware.kind] * 0.9:
        return say("larger ones would not be faster")
    return say("what fits {budget_gib:.1f} GiB", budget_gib=hardware.budget.value / GIB)


def _why_states(way: FitCandidate, request: FitRequest, hardware: Hardware) -> Decision[str]:
    states = way.demand.states
    if request.memory_mode != "auto" and not states.is_fused:
        return Decision(states.label, say("asked for: {says}", says=states.says))
    passed = state_candidates(request, hardware)
    passed = passed[: passed.index(states)]
    if not passed and (request.memory_mode != "auto" or request.fused_backward == "yes"):
        return Decision(states.label, say("asked for: {says}", says=states.says))
    if not passed:
        return Decision(states.label, say("{says}: the reference, and it fits", says=states.says))
    least = fastest_fit(request, hardware, passed[-1]).memory.peak_bytes
    if passed[-1].memory_mode == states.memory_mode:
        return Decision(
            states.label,
            say(
                "{says}: all gradients at once take {least_gib:.1f} GiB at least",
                says=states.says,
                least_gib=least / GIB,
            ),
        )
    return Decision(
        states.label,
        say(
            "{says}; {name}, more faithful, takes {least_gib:.1f} GiB at least",
            says=states.says,
            name=passed[-1].label,
            least_gib=least / GIB,
        ),
    )


def _why_recompute(way: FitCandidate, request: FitRequest) -> Decision[str]:
    what = way.demand.activation_checkpointing
    if request.activation_checkpointing != "auto":
        return Decision(what, say("asked for"))
    return Decision(what, str(WHY_RECOMPUTED[what]))


def _compiled(config: TrainingConfig, hardware: Hardware, run_s: float) -> Decision[bool]:
    """Decide whether compiling saves more time than it takes."""
    possible = hardware.can_compile
    if config.compile == "no":
        return Decision(False, say("asked for"))
    if config.compile == "yes":
        if not possible.value:
            raise UserError("--compile yes: {reason}", hint="install it, or leave the flag out", reason=possible.reason)
        return Decision(True, say("asked for"))
    if not possible.value:
        return possible
    if hardware.kind == "cpu":
        why_not = say("on a CPU it was measured to save next to nothing")
    elif config.deterministic:
        why_not = say("--deterministic: what a compiler chooses may differ the next time")
    else:
        return _compiled_by_duration(run_s, hardware)
    return Decision(False, why_not)


def _compiled_by_duration(run_s: float, hardware: Hardware) -> Decision[bool]:
    minutes = run_s / 60
    pays = minutes >= COMPILING_PAYS_AFTER_MINUTES
    if not hardware.speed_of:
        reason = say("decided by the size of the run: this GPU's speed is not known")
    elif pays:
        reason = say("pays in a run of about {minutes:,.0f} minutes", minutes=minutes)
    else:
        reason = say(
            "the run takes about {minutes:.1f} minutes; compiling pays from {least} on",
            minutes=minutes,
            least=COMPILING_PAYS_AFTER_MINUTES,
        )
    return Decision(pays, reason)


def _checkpoint_bytes(way: FitCandidate, hardware: Hardware) -> Decision[int]:
    """Return the host memory for the copy that a checkpoint is written from."""
    if hardware.kind == "cpu":
        return Decision(0, say("part of the memory of the run"))
    copied = snapshot_bytes(way.demand)
    if way.memory.host + copied <= HOST_COPY_SHARE * hardware.host_bytes:
        return Decision(copied, say("checkpoints are copied to the host, and written while training continues"))
    return Decision(0, say("no memory on the host for a copy: training waits while a checkpoint is written"))


def _deterministic(config: TrainingConfig, hardware: Hardware) -> Decision[bool]:
    """Decide whether sums are always added in the same order."""
    if hardware.kind == "cpu":
        return Decision(config.deterministic, say("a CPU adds in the same order each time"))
    if config.deterministic:
        return Decision(True, say("every sum is added in the same order each time"))
    return Decision(False, say("a GPU may add in another order each time; --deterministic fixes it"))


def _learning_rate(config: TrainingConfig, model: GPT2Config) -> Decision[float]:
    if config.learning_rate != "auto":
        return Decision(config.learning_rate, say("asked for"))
    if config.lora_r:
        whole = _learning_rate(replace(config, lora_r=0), model)
        return Decision(
            float(f"{whole.value * LORA_RATE_FACTOR:.2g}"),
            say("adapters train best at about ten times {rate:g}", rate=whole.value),
        )
    if config.from_scratch:
        rate = min(SCRATCH_LR * REFERENCE_WIDTH / model.n_embd, MAX_LR)
        return Decision(
            float(f"{rate:.2g}"),
            say("from scratch: {rate:g} at 768 channels, and inversely to the width", rate=SCRATCH_LR),
        )
    if model.n_embd >= REFERENCE_WIDTH:
        return Decision(REFERENCE_LR, say("the usual rate for fine-tuning GPT-2"))
    factor = (REFERENCE_WIDTH / model.n_embd) ** WIDTH_EXPONENT
    return Decision(
        float(f"{REFERENCE_LR * factor:.2g}"),
        say(
            "5e-5 is for models 768 wide; at {n_embd} {factor:.1f} times as much works better",
            n_embd=model.n_embd,
            factor=factor,
        ),
    )


def _interval(requested: int | str, automatic: int, reason: str) -> Decision[int]:
    return Decision(automatic, reason) if isinstance(requested, str) else Decision(requested, say("asked for"))
