"""The way to fit a step into memory: the most faithful first, then the fastest that fits."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from tunesmith.backends import why_incompatible
from tunesmith.config import ACTIVATION_CHECKPOINTING_LEVELS, ActivationCheckpointing, Auto, AutoYesNo, MemoryMode
from tunesmith.data.packing import round_up_tokens
from tunesmith.errors import DoesNotFitError
from tunesmith.i18n import say
from tunesmith.model.gpt2_config import GPT2Config
from tunesmith.optim.state_format import STATE_FORMATS, StateFormat
from tunesmith.planning.hardware import GIB, LINK_BYTES_PER_S, Hardware
from tunesmith.planning.memory_model import Calibration, MemoryEstimate, ParameterCounts, StepSpec, estimate_memory

MAX_TOKENS = {"cpu": 2048, "cuda": 32_768}
"""Larger micro-batches are not faster."""


@dataclass(frozen=True)
class FitCandidate:
    """One way to make a step.

    Attributes:
        demand: what it does.
        memory: what that takes.
        step_s: and how long, roughly.
    """

    demand: StepSpec
    memory: MemoryEstimate
    step_s: float


@dataclass(frozen=True)
class FitRequest:
    """What is to be fitted.

    Attributes:
        demand: model and text; states, recomputation and micro-batch are still open.
        memory_mode: requested, or auto.
        fused_backward: whether weights are updated in the backward pass: requested, or auto.
        activation_checkpointing: asked for, or auto.
        step_tokens: the effective batch, which stays what it is.
        longest_tokens: no micro-batch can be smaller.
        mean_context_tokens: of a document.
        correction_of: what is known of a state plan on this machine.
    """

    demand: StepSpec
    memory_mode: MemoryMode | Auto
    fused_backward: AutoYesNo
    activation_checkpointing: ActivationCheckpointing | Auto
    step_tokens: int
    longest_tokens: int
    mean_context_tokens: float
    correction_of: Callable[[StepSpec], Calibration]


def fit_candidates(request: FitRequest, hardware: Hardware, states: StateFormat) -> Iterator[FitCandidate]:
    """Every recomputation and size of micro-batch with this state plan, whether it fits or not."""
    kinds = (
        ACTIVATION_CHECKPOINTING_LEVELS
        if request.activation_checkpointing == "auto"
        else (request.activation_checkpointing,)
    )
    if request.activation_checkpointing == "auto" and hardware.kind == "cpu":
        kinds = kinds[:-1]  # a CPU has no other memory to send anything to
    for activation_checkpointing in kinds:
        for micro_batches, tokens in _micro_batches(request, hardware):
            demand = replace(
                request.demand,
                states=states,
                activation_checkpointing=activation_checkpointing,
                tokens=tokens,
                micro_batches=micro_batches,
            )
            yield evaluate_fit(demand, request, hardware)


def evaluate_fit(demand: StepSpec, request: FitRequest, hardware: Hardware) -> FitCandidate:
    """Memory and time of one demand."""
    step_s = seconds_per_step(
        demand, hardware, step_tokens=request.step_tokens, context_length=request.mean_context_tokens
    )
    return FitCandidate(demand, estimate_memory(demand, request.correction_of(demand)), step_s)


def fits(way: FitCandidate, hardware: Hardware) -> bool:
    """Whether it fits the memory of the device and of the host."""
    if hardware.kind == "cpu":
        return way.memory.peak_bytes + way.memory.host <= hardware.budget.value
    return way.memory.peak_bytes <= hardware.budget.value and way.memory.host <= hardware.host_bytes


def fastest_fit(request: FitRequest, hardware: Hardware, states: StateFormat) -> FitCandidate:
    """The fastest that fits with this state plan; the smallest where none does."""
    every = list(fit_candidates(request, hardware, states))
    fitting = [way for way in every if fits(way, hardware)]
    if fitting:
        return min(fitting, key=lambda way: way.step_s)
    return min(every, key=lambda way: (way.memory.host > hardware.host_bytes, way.memory.peak_bytes))


def choose_fit(request: FitRequest, hardware: Hardware) -> FitCandidate:
    """The most faithful state plan that fits, in its fastest form.

    Raises:
        DoesNotFitError: if nothing fits, with the numbers.
    """
    best: list[FitCandidate] = []
    for states in state_candidates(request, hardware):
        way = fastest_fit(request, hardware, states)
        if fits(way, hardware):
            return way
        best.append(way)
    nearest = min(best, key=lambda way: (way.memory.host > hardware.host_bytes, way.memory.peak_bytes))
    needed = nearest.memory.peak_bytes + (nearest.memory.host if hardware.kind == "cpu" else 0)
    raise DoesNotFitError(
        "training needs {needed_gib:.1f} GiB at least, and {budget_gib:.1f} GiB may be taken: {reason}",
        hint="close other programs, or take a smaller --model, a shorter --context-length, or --lora-r 8; "
        "tunesmith plan shows what fits",
        needed_gib=needed / GIB,
        budget_gib=hardware.budget.value / GIB,
        reason=hardware.budget.reason,
    )


def state_candidates(request: FitRequest, hardware: Hardware) -> list[StateFormat]:
    """Return the state formats that were requested and can be used, the most faithful first."""
    requested = requested_formats(request.memory_mode, request.fused_backward)
    plans = [plan for plan in requested if why_unusable(plan, request.demand, hardware.precision) is None]
    if request.memory_mode != "auto":
        return plans
    return [plan for plan in plans if plan.gradients != "host" or hardware.kind == "cuda"]


def requested_formats(memory_mode: MemoryMode | Auto, fused_backward: AutoYesNo) -> list[StateFormat]:
    """Return the state formats that two flags allow, the most faithful first."""
    return [
        plan
        for plan in STATE_FORMATS.values()
        if memory_mode in {"auto", plan.memory_mode}
        and (fused_backward == "auto" or plan.is_fused == (fused_backward == "yes"))
    ]


def why_unusable(plan: StateFormat, demand: StepSpec, precision: str) -> str | None:
    """Why a state plan cannot be used with the rest; None where it can."""
    if plan.memory_mode == "fp32":
        return None
    if demand.is_sharded:
        return say("a model in parts keeps everything in fp32")
    if demand.processes > 1 and plan.gradients != "held":
        return say("several processes need all gradients at once, to reduce them")
    return _refusal_alone(plan, demand, precision)


def _refusal_alone(plan: StateFormat, demand: StepSpec, precision: str) -> str | None:
    """The same, of what has nothing to do with other processes."""
    if demand.lora is not None:
        return say("adapters are small: their state is kept in fp32")
    reason = why_incompatible(precision, has_bf16_weights=plan.is_half, holds_gradients=plan.gradients == "held")
    return reason or None


def _micro_batches(request: FitRequest, hardware: Hardware) -> Iterator[tuple[int, int]]:
    """How many micro-batches a step may have, and how many tokens then each."""
    most = max(MAX_TOKENS[hardware.kind], request.longest_tokens)
    number, before = max(-(-request.step_tokens // most), 1), 0
    while True:
        tokens = round_up_tokens(max(-(-request.step_tokens // number), request.longest_tokens))
        if tokens != before:
            yield number, tokens
        if tokens <= round_up_tokens(request.longest_tokens):
            return
        number, before = number + max(number // 4, 1), tokens


REACHED = {"cpu": 0.7, "cuda": 0.55}
"""Of the machine's speed in products: measured on a CPU, not yet on a GPU."""
HALF_SPEED_TOKENS = {"cpu": 64, "cuda": 600}
"""Micro-batches of so few tokens reach half of it."""
RECOMPUTED = {"none": 1.0, "selective": 1.02, "full": 4 / 3, "offload": 1.4}
"""Arithmetic with recomputation over arithmetic without."""
HOST_BYTES_PER_S = 2e10


def flops_per_token(shape: GPT2Config, context_length: float) -> float:
    """Forward and backward: 6 for each matrix parameter, 12 for each layer, channel and token looked at."""
    return 6 * shape.matrix_parameters + 12 * shape.n_layer * shape.n_embd * context_length / 2


def seconds_per_step(demand: StepSpec, hardware: Hardware, *, step_tokens: int, context_length: float) -> float:
    """Of one optimizer step."""
    full = demand.tokens / (demand.tokens + HALF_SPEED_TOKENS[demand.device])
    rate = hardware.flops_per_s * REACHED[demand.device] * full
    flops = flops_per_token(demand.shape, context_length) * RECOMPUTED[demand.activation_checkpointing]
    if demand.lora is not None:  # gradients of the activations only
        flops *= 2 / 3
    learned = ParameterCounts.of(demand.shape, demand.lora, demand.frozen)
    return step_tokens * flops / rate + _update_s(demand.states, learned, hardware, demand.micro_batches)


def _update_s(states: StateFormat, learned: ParameterCounts, hardware: Hardware, micro_batches: int) -> float:
    parameters = learned.matrices + learned.others
    if states.gradients == "host":
        gradients_s = 2 * learned.matrices * micro_batches / LINK_BYTES_PER_S
        return gradients_s + 30 * parameters / HOST_BYTES_PER_S
    touched = {32: 28, 8: 14, 4: 12}[states.moment_bits]
    return (touched + 8 * (micro_batches - 1)) * parameters / hardware.bytes_per_s
