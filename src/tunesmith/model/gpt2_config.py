"""The shape of a GPT-2 and the switches that change its arithmetic: all that can be known of it without torch."""

import math
from dataclasses import dataclass
from typing import Literal

from tunesmith.config import Auto
from tunesmith.errors import UserError
from tunesmith.i18n import say
from tunesmith.utils.device import Decision

VOCABULARY_MULTIPLE = 128
"""The embedding table is padded to a multiple of this many rows: matrix units dislike 50,257 columns."""

SHORT_DOCUMENT_TOKENS = 256
"""Up to this length the CPU's fused attention is faster in fp32 than in bf16, casts included."""
LOSS_CHUNK_ROWS = {"cpu": 512, "cuda": 4096}
"""Rows that the loss projects at a time: large enough for the matrix product, small enough for the memory."""
EVALUATION_CHUNK_ROWS = {"cpu": 512, "cuda": 2048}
"""The same where no gradient is wanted: 200 MB of bf16 logits, and hardly anything else."""
LOSS_HEAD_SLICES = 8
"""In which a CPU computes the gradient of the head: its sum is fp32, and a product is as large again."""
MIN_DOCUMENT_COUNT = 64
ACTIVATION_NAMES = ("gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu", "relu", "silu", "swish", "tanh")
"""What checkpoints call the functions that `tunesmith.model.gpt2` implements."""


def padded_document_count(n_documents: int) -> int:
    """How many documents a kernel is prepared for: the next of few numbers, an eighth apart."""
    step = max(1 << n_documents.bit_length() >> 4, MIN_DOCUMENT_COUNT)
    return -(-n_documents // step) * step


@dataclass(frozen=True)
class GPT2Config:
    """The shape of a GPT-2 and the switches that change its arithmetic, under Hugging Face's names."""

    vocab_size: int
    n_positions: int
    n_embd: int
    n_layer: int
    n_head: int
    n_inner: int
    activation_function: str = "gelu_new"
    layer_norm_epsilon: float = 1e-5
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    reorder_and_upcast_attn: bool = False
    tie_word_embeddings: bool = True

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding table in memory, never in a file."""
        return -(-self.vocab_size // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE

    @property
    def head_dim(self) -> int:
        """Channels of an attention head."""
        return self.n_embd // self.n_head

    @property
    def block_matrix_parameters(self) -> int:
        """How many parameters the four projections of a block have, biases left out."""
        return self.n_embd * (4 * self.n_embd + 2 * self.n_inner)

    @property
    def matrix_parameters(self) -> int:
        """How many parameters take part in matrix products: all but position table, norms and biases."""
        return self.n_layer * self.block_matrix_parameters + self.padded_vocab_size * self.n_embd

    def attention_scale(self, layer: int) -> float:
        """What a layer's query-key products are multiplied with before the softmax."""
        scale = 1.0
        if self.scale_attn_weights:
            scale /= math.sqrt(self.head_dim)
        if self.scale_attn_by_inverse_layer_idx:
            scale /= layer + 1
        return scale


PROJECTIONS = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
"""Of a block."""


@dataclass(frozen=True)
class LoRA:
    """What is asked of adapters.

    Attributes:
        rank: R.
        alpha: the difference is multiplied with alpha / R.
        dropout: on what goes into A.
        targets: which projections, of `PROJECTIONS`.
    """

    rank: int
    alpha: float
    dropout: float
    targets: tuple[str, ...]


Frozen = Literal["none", "embeddings"] | int
"""Nothing, everything outside of the blocks (embeddings, final norm, head), or the first N blocks."""


def check_freeze(frozen: Frozen, config: GPT2Config) -> None:
    """Check against the model's shape.

    Raises:
        UserError: if the model has fewer blocks.
    """
    if isinstance(frozen, int) and not 0 <= frozen <= config.n_layer:
        raise UserError(
            "--freeze {frozen}: the model has {n_layer} blocks",
            hint="write how many of the first blocks stay what they are, or embeddings",
            frozen=frozen,
            n_layer=config.n_layer,
        )


def resolve_context_length(asked: int | Auto, n_positions: int) -> Decision[int]:
    """Resolve `--context-length` against the positions a model has.

    Raises:
        UserError: if the model has fewer.
    """
    if asked == "auto":
        return Decision(n_positions, say("all positions the model has"))
    if not 1 <= asked <= n_positions:
        raise UserError(
            "--context-length {asked} does not fit the model, which has {n_positions} positions",
            hint="write a number from 1 to {n_positions}, or leave it out",
            asked=asked,
            n_positions=n_positions,
        )
    return Decision(asked, say("asked for"))


def resolve_stride(asked: int | Auto, context_length: int) -> Decision[int]:
    """Resolve `--stride` against the context.

    Raises:
        UserError: if tokens would be left out between windows.
    """
    if asked == "auto":
        return Decision(max(context_length // 2, 1), say("half the context"))
    if not 1 <= asked <= context_length:
        raise UserError(
            "--stride {asked} does not fit a context of {context_length} tokens",
            hint="write a number from 1 to {context_length}, or leave it out",
            asked=asked,
            context_length=context_length,
        )
    return Decision(asked, say("asked for"))
