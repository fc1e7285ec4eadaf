"""Ways to keep weights, gradients and Adam's moments, from the most faithful to the smallest.

What is compressed are the matrices of the blocks, nearly all of a large model. Embeddings, norms and biases are
always kept in fp32: 8-bit moments are unstable for embeddings (Dettmers et al. 2021), and GPT-2's serve as its output
too.
"""

from dataclasses import dataclass
from typing import Literal

from tunesmith.config import MemoryMode
from tunesmith.i18n import LazyString

HOST_STAGING_BYTES = 1 << 29
"""Pinned, for gradients that are on their way to the host and weights on their way back; one tensor may be larger."""
BLOCK = 128
"""Numbers that share a scale."""


@dataclass(frozen=True)
class QuantFormat:
    """How numbers are written in few bits (`tunesmith.optim.quantization`).

    Attributes:
        bits: 8 or 4 for each number; two codes of 4 bits share a byte.
        signed: whether numbers may be negative.
    """

    bits: int
    signed: bool

    @property
    def levels(self) -> int:
        """Above zero."""
        return (1 << self.bits - self.signed) - 1

    def bytes_for(self, count: int) -> int:
        """Size of codes and scales of `count` numbers, a multiple of the block."""
        return count * self.bits // 8 + count // BLOCK * 4


@dataclass(frozen=True)
class StateFormat:
    """One way.

    Attributes:
        memory_mode: as the flag has it.
        weights: fp32; split into bf16 and the 16 bits that are missing to fp32; bf16, rounded stochastically; or
            bf16 on the GPU with fp32 on the host.
        moment_bits: of each of Adam's two moments.
        gradients: held until all are there; used up one by one while the backward pass makes them; or sent to the host
            as they are made.
        says: in a few words.
    """

    memory_mode: MemoryMode
    weights: Literal["fp32", "split", "bf16", "host"]
    moment_bits: Literal[32, 8, 4]
    gradients: Literal["held", "in-backward", "host"]
    says: LazyString

    @property
    def is_fused(self) -> bool:
        """Whether each weight is updated during the backward pass, as soon as its gradient is computed."""
        return self.gradients == "in-backward"

    @property
    def label(self) -> str:
        """The name in tables."""
        return f"{self.memory_mode}+fused-backward" if self.is_fused else self.memory_mode

    @property
    def is_half(self) -> bool:
        """Whether the model computes with bf16 weights."""
        return self.weights != "fp32"

    @property
    def moments(self) -> tuple[QuantFormat, QuantFormat]:
        """How the first and the second moment are written, where they are compressed."""
        return QuantFormat(self.moment_bits, signed=True), QuantFormat(self.moment_bits, signed=False)


STATE_FORMATS: dict[str, StateFormat] = {
    plan.label: plan
    for plan in (
        StateFormat("fp32", "fp32", 32, "held", LazyString("everything in fp32")),
        StateFormat("8bit", "fp32", 8, "held", LazyString("fp32 weights, moments in 8 bits")),
        StateFormat(
            "split-8bit",
            "split",
            8,
            "held",
            LazyString("fp32 weights as bf16 and a remainder, moments in 8 bits"),
        ),
        StateFormat(
            "split-8bit",
            "split",
            8,
            "in-backward",
            LazyString(
                "fp32 weights as bf16 and a remainder, moments in 8 bits, "
                "each weight updated as soon as its gradient is made"
            ),
        ),
        StateFormat(
            "bf16-8bit", "bf16", 8, "held", LazyString("bf16 weights rounded stochastically, moments in 8 bits")
        ),
        StateFormat(
            "bf16-8bit",
            "bf16",
            8,
            "in-backward",
            LazyString(
                "bf16 weights rounded stochastically, moments in 8 bits, "
                "each weight updated as soon as its gradient is made"
            ),
        ),
        StateFormat(
            "bf16-4bit", "bf16", 4, "held", LazyString("bf16 weights rounded stochastically, moments in 4 bits")
        ),
        StateFormat(
            "bf16-4bit",
            "bf16",
            4,
            "in-backward",
            LazyString(
                "bf16 weights rounded stochastically, moments in 4 bits, "
                "each weight updated as soon as its gradient is made"
            ),
        ),
        StateFormat(
            "cpu-offload",
            "host",
            32,
            "host",
            LazyString("bf16 weights here; fp32 weights, gradients and moments on the host"),
        ),
    )
}
"""The most faithful first; the last is as faithful as the first and slower than any."""


def state_format(memory_mode: MemoryMode, *, fused_backward: bool) -> StateFormat:
    """Return the format of a memory mode, with or without the update in the backward pass."""
    return next(
        plan for plan in STATE_FORMATS.values() if (plan.memory_mode, plan.is_fused) == (memory_mode, fused_backward)
    )


def is_compressible(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a parameter of this name is kept compressed: the matrices of the blocks."""
    columns = shape[-1] if len(shape) == 2 else 1
    return name.startswith("transformer.h.") and columns > 1 and shape[0] * columns % BLOCK == 0 and "lora_" not in name
