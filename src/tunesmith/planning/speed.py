"""How long a step takes, roughly: products at the speed of the machine, and the memory that the optimizer reads.

References: Chowdhery et al. 2022, "PaLM" (how operations are counted); Williams et al. 2009, "Roofline".
"""

from tunesmith.model.shape import GPT2Config
from tunesmith.optimizers.state_plan import StatePlan
from tunesmith.planning.hardware import LINK_BYTES_PER_S, Hardware
from tunesmith.planning.memory import Demand, Learned

REACHED = {"cpu": 0.7, "cuda": 0.55}
"""Of the machine's speed in products: measured on a CPU, not yet on a card."""
HALF_SPEED_TOKENS = {"cpu": 64, "cuda": 600}
"""Micro-batches of so few tokens reach half of it."""
RECOMPUTED = {"nothing": 1.0, "light": 1.02, "blocks": 4 / 3, "offload": 1.4}
"""Arithmetic with recomputation over arithmetic without."""
HOST_BYTES_PER_S = 2e10


def flops_per_token(shape: GPT2Config, context_tokens: float) -> float:
    """Forward and backward: 6 for each matrix parameter, 12 for each layer, channel and token looked at."""
    return 6 * shape.matrix_parameters + 12 * shape.n_layer * shape.n_embd * context_tokens / 2


def seconds_per_step(demand: Demand, hardware: Hardware, *, step_tokens: int, context_tokens: float) -> float:
    """Of one optimizer step."""
    full = demand.tokens / (demand.tokens + HALF_SPEED_TOKENS[demand.device])
    rate = hardware.flops_per_s * REACHED[demand.device] * full
    flops = flops_per_token(demand.shape, context_tokens) * RECOMPUTED[demand.recompute]
    if demand.lora is not None:  # gradients of the activations only
        flops *= 2 / 3
    learned = Learned.of(demand.shape, demand.lora, demand.frozen)
    return step_tokens * flops / rate + _update_s(demand.states, learned, hardware, demand.micro_batches)


def _update_s(states: StatePlan, learned: Learned, hardware: Hardware, micro_batches: int) -> float:
    parameters = learned.matrices + learned.others
    if states.gradients == "host":
        gradients_s = 2 * learned.matrices * micro_batches / LINK_BYTES_PER_S
        return gradients_s + 30 * parameters / HOST_BYTES_PER_S
    touched = {32: 28, 8: 14, 4: 12}[states.moment_bits]
    return (touched + 8 * (micro_batches - 1)) * parameters / hardware.bytes_per_s
