"""From configuration and text to what must fit into memory."""

from dataclasses import dataclass

from tunesmith.backends import resolve_attention
from tunesmith.config import TrainingConfig
from tunesmith.data.corpus import Corpus
from tunesmith.data.packing import Mixture, resolve_tokens_per_step, steps_per_epoch, windows_of
from tunesmith.data.spans import Int64s
from tunesmith.errors import UserError
from tunesmith.i18n import say
from tunesmith.model.gpt2_config import PROJECTIONS, SHORT_DOCUMENT_TOKENS, GPT2Config, LoRA, resolve_context_length
from tunesmith.optim.state_format import STATE_FORMATS
from tunesmith.planning.calibration_cache import CalibrationCache
from tunesmith.planning.fit import FitRequest, requested_formats, why_unusable
from tunesmith.planning.hardware import Hardware
from tunesmith.planning.memory_model import StepSpec
from tunesmith.utils.device import Decision


@dataclass(frozen=True)
class Epoch:
    """One pass through the text.

    Attributes:
        context_length: longest window.
        lengths: of its windows.
        tokens: on average.
        tokens_per_step: effective batch size.
    """

    context_length: Decision[int]
    lengths: Int64s
    tokens: int
    tokens_per_step: Decision[int]

    @property
    def steps_per_epoch(self) -> int:
        """Roughly: packing the windows may make a few more."""
        return steps_per_epoch(self.tokens, len(self.lengths), self.tokens_per_step.value)


def request_of(
    config: TrainingConfig,
    model: GPT2Config,
    corpus: Corpus,
    hardware: Hardware,
    experience: CalibrationCache,
    *,
    processes: int = 1,
    is_sharded: bool = False,
) -> tuple[FitRequest, Epoch]:
    """Return what must fit into memory, and the epoch that it comes from.

    Args:
        config: requested settings.
        model: its shape.
        corpus: to train on.
        hardware: that the run may use.
        experience: measured memory of earlier runs there.
        processes: that train together.
        is_sharded: whether each of them has only a part of the model.

    Raises:
        UserError: if the requested settings contradict each other.
    """
    context = resolve_context_length(config.context_length, model.n_positions)
    windows = windows_of(corpus.train.spans, context.value)
    mixture = Mixture(windows, corpus.train.weights, seed=config.seed)
    lengths = windows.lengths[mixture.order(0)]
    step = (
        resolve_tokens_per_step(mixture.n_tokens, config.epochs)
        if config.tokens_per_step == "auto"
        else Decision(config.tokens_per_step, say("asked for"))
    )
    demand = StepSpec(
        shape=model,
        states=STATE_FORMATS["fp32"],
        activation_checkpointing="none",
        tokens=0,
        micro_batches=0,
        number_bytes=hardware.number_bytes,
        device=hardware.kind,
        share_of_short=float(lengths[lengths <= SHORT_DOCUMENT_TOKENS].sum() / lengths.sum()),
        lora=lora_of(config),
        frozen=config.freeze,
        dropout=config.dropout > 0,
        processes=processes,
        is_sharded=is_sharded,
        document_tokens=float(lengths.mean()),
        attention=resolve_attention(
            hardware.facts, "float32" if model.reorder_and_upcast_attn else hardware.precision, model.head_dim
        ).value,
    )
    _check_memory_mode(config, demand, hardware)
    request = FitRequest(
        demand=demand,
        memory_mode=config.memory_mode,
        fused_backward=config.fused_backward,
        activation_checkpointing=config.activation_checkpointing,
        step_tokens=min(step.value, int(lengths.sum())),
        longest_tokens=int(windows.lengths.max()),  # a later epoch's mixture may have longer ones than the first
        mean_context_tokens=float((lengths.astype(float) ** 2).sum() / lengths.sum()),
        correction_of=lambda demand: experience.correction(demand, hardware),
    )
    return request, Epoch(context, lengths, mixture.n_tokens, step)


def _check_memory_mode(config: TrainingConfig, demand: StepSpec, hardware: Hardware) -> None:
    if config.memory_mode == "auto" and config.fused_backward != "yes":
        return
    reasons = [
        why_unusable(plan, demand, hardware.precision)
        for plan in requested_formats(config.memory_mode, config.fused_backward)
    ]
    if None in reasons:
        return
    flag = f"--memory-mode {config.memory_mode}" if config.memory_mode != "auto" else "--fused-backward yes"
    raise UserError(
        "{flag}: {refused}", hint="use --memory-mode fp32 or 8bit, or auto", flag=flag, refused=reasons[0] or ""
    )


def lora_of(config: TrainingConfig) -> LoRA | None:
    """Return the requested adapters; None where all weights are trained."""
    if not config.lora_r:
        return None
    alpha = 2.0 * config.lora_r if config.lora_alpha == "auto" else config.lora_alpha
    return LoRA(config.lora_r, alpha, config.lora_dropout, config.lora_target_modules or PROJECTIONS)
