"""How much memory a training step takes, in closed form: we wrote the network, so we know what it keeps.

Shapes: N tokens of a micro-batch, C channels, I channels inside of an MLP, L layers, V rows of the vocabulary as
    padded.

A step's memory rises and falls; the peak is the largest of a few moments, each a sum of the same parts. Activations
are what the backward pass of each operation keeps; `tunesmith.model.activation_checkpointing` lists the ways to keep
less.

Reference: Korthikanti et al. 2022, "Reducing Activation Recomputation in Large Transformer Models".
"""

from dataclasses import dataclass, replace
from typing import Literal

from tunesmith.backends import AttentionBackend
from tunesmith.config import ActivationCheckpointing
from tunesmith.model.gpt2_config import (
    EVALUATION_CHUNK_ROWS,
    LOSS_CHUNK_ROWS,
    LOSS_HEAD_SLICES,
    GPT2Config,
    LoRA,
    padded_document_count,
)
from tunesmith.optim.state_format import HOST_STAGING_BYTES, StateFormat
from tunesmith.utils.device import pinned_bytes

FP32_BYTES, HALF_BYTES = 4, 2
FLASH_ROWS, FLASH_COLUMNS = 128, 32
"""FlashAttention-2's backward pass pads each document by this many rows, and the channels of a head to a multiple."""
GATHERED_BLOCKS = 2
"""Of a model in parts: the one that computes, and the one that is fetched meanwhile."""
Device = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class ParameterCounts:
    """How many parameters there are of each kind.

    Attributes:
        matrices: of blocks, learned; what state plans compress.
        others: learned: embeddings, head, norms, biases, adapters.
        frozen: neither.
        in_block: all of one block's matrices, learned or not.
        head: of the output projection, with its padded rows.
        learns_head: whether it is among what is learned.
    """

    matrices: int
    others: int
    frozen: int
    in_block: int
    head: int
    learns_head: bool

    @classmethod
    def of(cls, shape: GPT2Config, lora: LoRA | None, frozen: str | int) -> "ParameterCounts":
        """Count them."""
        in_block = shape.block_matrix_parameters
        small_in_block = 9 * shape.n_embd + shape.n_inner
        head = shape.padded_vocab_size * shape.n_embd
        embeddings = head * (1 if shape.tie_word_embeddings else 2) + shape.n_positions * shape.n_embd
        outside = embeddings + 2 * shape.n_embd
        all_of_them = shape.n_layer * (in_block + small_in_block) + outside
        if lora is not None:
            adapters = shape.n_layer * lora.rank * sum(sum(sides_of(shape)[target]) for target in lora.targets)
            return cls(0, adapters, all_of_them, in_block, head, learns_head=False)
        if frozen == "embeddings":
            matrices, others = shape.n_layer * in_block, shape.n_layer * small_in_block
        else:
            layers = shape.n_layer - (frozen if isinstance(frozen, int) else 0)
            matrices, others = layers * in_block, layers * small_in_block + outside
        return cls(matrices, others, all_of_them - matrices - others, in_block, head, frozen != "embeddings")


def sides_of(shape: GPT2Config) -> dict[str, tuple[int, int]]:
    """Channels in and out of each projection."""
    wide, inner = shape.n_embd, shape.n_inner
    return {
        "attn.c_attn": (wide, 3 * wide),
        "attn.c_proj": (wide, wide),
        "mlp.c_fc": (wide, inner),
        "mlp.c_proj": (inner, wide),
    }


@dataclass(frozen=True)
class StepSpec:
    """What a step is to do.

    Attributes:
        shape: of the model.
        states: how weights, gradients and moments are kept.
        activation_checkpointing: what is computed once more.
        tokens: of a micro-batch.
        micro_batches: of a step.
        number_bytes: of what is computed with, 2 or 4.
        device: where.
        share_of_short: of the tokens, in documents which a CPU attends in fp32.
        lora: adapters, if that is what is learned.
        frozen: parts that are not.
        dropout: whether there is any.
        processes: that learn together, each with a memory of its own.
        is_sharded: whether each of them has only its part of weights, gradients and moments.
        document_tokens: of a document, on average: attention on a GPU takes memory for each document.
        attention: what computes it on a GPU.
    """

    shape: GPT2Config
    states: StateFormat
    activation_checkpointing: ActivationCheckpointing
    tokens: int
    micro_batches: int
    number_bytes: int
    device: Device
    share_of_short: float = 0.0
    lora: LoRA | None = None
    frozen: str | int = "none"
    dropout: bool = False
    processes: int = 1
    is_sharded: bool = False
    document_tokens: float = 1024.0
    attention: AttentionBackend = "flash_varlen"


@dataclass(frozen=True)
class MemoryEstimate:
    """The moment of a step that takes most, in bytes.

    Attributes:
        weights: and, where they are split, their remainders.
        moments: of Adam, on the device.
        gradients: that exist at that moment.
        activations: kept for the backward pass, and what it is working on.
        loss: logits of a chunk, the head's product and gradient.
        casts: of fp32 weights to what is computed with.
        workspace: everything else that the process or the GPU's libraries take.
        host: what lies in the host's memory meanwhile; no part of the sum.
    """

    weights: int
    moments: int
    gradients: int
    activations: int
    loss: int
    casts: int
    workspace: int
    host: int

    @property
    def peak_bytes(self) -> int:
        """All parts together."""
        return sum(self.parts.values())

    @property
    def parts(self) -> dict[str, int]:
        """The parts and their names."""
        return {name: value for name, value in vars(self).items() if name != "host"}


@dataclass(frozen=True)
class Calibration:
    """What two real steps taught about a machine.

    Attributes:
        activations: measured over computed bytes per token.
        workspace_bytes: of everything that is not in the closed form.
    """

    activations: float = 1.0
    workspace_bytes: int = 0


def estimate_memory(demand: StepSpec, correction: Calibration) -> MemoryEstimate:
    """The largest of a step's moments."""
    moments = peak_candidates(demand, correction.activations)
    largest = max(moments, key=lambda memory: memory.peak_bytes)
    return replace(largest, workspace=correction.workspace_bytes)


def evaluation_bytes(demand: StepSpec, memory: MemoryEstimate, tokens: int) -> int:
    """What an evaluation between two steps takes: everything that is kept through it, and its largest moment.

    Args:
        demand: what the steps do.
        memory: of a step.
        tokens: that the evaluation computes at once.
    """
    shape, number = demand.shape, demand.number_bytes
    head = shape.padded_vocab_size * shape.n_embd
    stream = tokens * shape.n_embd * number
    cast = 0 if demand.states.is_half or number == FP32_BYTES else shape.n_embd * shape.n_inner * number
    block = 3 * stream + 2 * tokens * shape.n_inner * number + cast  # before the block, after attention, returned
    rows = min(EVALUATION_CHUNK_ROWS[demand.device], tokens)
    head_copy = head * number if number != FP32_BYTES else 0
    loss = 2 * stream + head_copy + rows * shape.padded_vocab_size * number
    return memory.weights + memory.moments + memory.workspace + max(block, loss)


def snapshot_bytes(demand: StepSpec) -> int:
    """What a checkpoint that is being written keeps on the host in addition to the run: fp32 weights and all states."""
    learned = ParameterCounts.of(demand.shape, demand.lora, demand.frozen)
    adam, host = _adam_bytes(demand.states, learned)
    return FP32_BYTES * (learned.matrices + learned.others + learned.frozen) + adam + host


def kept_bytes_per_token(demand: StepSpec, *, is_frozen: bool) -> float:
    """What a block keeps for its backward pass, of every token; without the inputs of matrices that are frozen."""
    shape, number = demand.shape, demand.number_bytes
    wide, inner = shape.n_embd, shape.n_inner
    attention = _attention_bytes_per_token(demand)
    norms_in = 2 * wide * number + 4 * FP32_BYTES
    norms_out = 2 * wide * number
    activation_in, activation_out = inner * number, inner * number
    if is_frozen:
        adapted = set(demand.lora.targets) if demand.lora else set()
        norms_out = wide * number * len({"attn.c_attn", "mlp.c_fc"} & adapted)
        activation_out = inner * number if "mlp.c_proj" in adapted else 0
    masks = 2 * wide if demand.dropout else 0
    if demand.activation_checkpointing == "selective":
        return attention + norms_in + activation_in + masks
    return attention + norms_in + norms_out + activation_in + activation_out + masks


def _attention_bytes_per_token(demand: StepSpec) -> float:
    """Of that, what attention itself keeps."""
    shape, number = demand.shape, demand.number_bytes
    wide = shape.n_embd
    attention_number = FP32_BYTES if shape.reorder_and_upcast_attn else number
    attention: float = 4 * wide * attention_number  # queries, keys, values, output
    if demand.device == "cpu" and attention_number == HALF_BYTES:
        attention += demand.share_of_short * (4 * wide * (FP32_BYTES - HALF_BYTES) + wide * HALF_BYTES)
    elif attention_number != number:
        attention += wide * number
    return attention + FP32_BYTES * shape.n_head  # the softmax's normalizers


def peak_candidates(demand: StepSpec, activation_factor: float) -> list[MemoryEstimate]:
    """The moments of a step that can be its peak."""
    shape, states, number = demand.shape, demand.states, demand.number_bytes
    learned = ParameterCounts.of(shape, demand.lora, demand.frozen)
    half = states.is_half
    matrix_bytes = HALF_BYTES if half else FP32_BYTES
    whole_bytes = FP32_BYTES if states.weights == "split" else matrix_bytes
    weights = learned.matrices * whole_bytes + (learned.others + learned.frozen) * FP32_BYTES
    gradients = learned.matrices * matrix_bytes + learned.others * FP32_BYTES
    adam, host = _adam_bytes(states, learned)
    held = gradients if demand.micro_batches > 1 and states.gradients != "host" else 0
    if demand.processes > 1 and not demand.is_sharded:
        held = gradients  # in the buckets that are reduced, from the beginning to the end
    one_by_one = states.gradients == "host" or (states.gradients == "in-backward" and demand.micro_batches == 1)
    head_gradient = learned.head * FP32_BYTES if learned.learns_head else 0
    if demand.is_sharded:
        # What is outside of blocks stays gathered through a step; of blocks one works while the next one arrives.
        block = (learned.matrices + learned.frozen) // shape.n_layer * FP32_BYTES
        outside = (learned.others - shape.n_layer * (9 * shape.n_embd + shape.n_inner)) * FP32_BYTES
        weights = weights // demand.processes + outside + GATHERED_BLOCKS * block
        held = gradients // demand.processes
        gradients = held + GATHERED_BLOCKS * block
        adam //= demand.processes

    n_frozen = demand.frozen if isinstance(demand.frozen, int) else 0
    learned_layer, frozen_layer = (
        kept_bytes_per_token(demand, is_frozen=is_frozen) * activation_factor * demand.tokens
        for is_frozen in (demand.lora is not None, True)
    )
    in_layer = ((shape.n_layer - n_frozen) * learned_layer + n_frozen * frozen_layer) / shape.n_layer
    stream = demand.tokens * shape.n_embd * number
    kept_per_layer = {"full": stream, "offload": 0}.get(demand.activation_checkpointing, in_layer)
    kept = shape.n_layer * kept_per_layer
    again = learned_layer if demand.activation_checkpointing in {"full", "offload"} else 0
    if states.gradients == "host" and demand.device == "cuda":
        host += max(HOST_STAGING_BYTES, head_gradient)
    if demand.activation_checkpointing == "offload" and demand.device == "cuda":
        host += shape.n_layer * pinned_bytes(stream)
    elif demand.activation_checkpointing == "offload":
        kept += shape.n_layer * stream
    casts_of_block = 0 if number == matrix_bytes else learned.in_block * number
    kept_casts = (
        shape.n_layer
        * casts_of_block
        * {"none": 1.0, "selective": _share_of_c_proj(shape)}.get(demand.activation_checkpointing, 0.0)
    )
    working = _working(demand, kept, again, kept_per_layer, learned_layer, activation_factor)
    weight_gradient = _weight_gradient(demand, learned, half=half)

    def moment(*, gradients: float, activations: float, loss: float, casts: float) -> MemoryEstimate:
        return MemoryEstimate(weights, adam, int(gradients), int(activations), int(loss), int(casts), 0, host)

    outside_gradient = 0 if demand.is_sharded else head_gradient
    block_gradients = (gradients - outside_gradient) / shape.n_layer
    before_the_end = 0.0 if one_by_one else gradients - outside_gradient
    if demand.device == "cuda" and not demand.is_sharded:  # the last block's own are not there yet
        at_the_end = 0.0 if one_by_one else before_the_end - block_gradients
    else:
        at_the_end = block_gradients if one_by_one else before_the_end
    moments = [
        moment(
            gradients=held,
            activations=kept + working.streams_at_loss,
            loss=_loss_bytes(demand, learned, head_gradient) + working.of_loss,
            casts=kept_casts,
        ),
        moment(
            gradients=held + weight_gradient,
            activations=working.in_last_block,
            loss=head_gradient,
            casts=kept_casts + (casts_of_block if again else 0),
        ),
        moment(
            gradients=max(held, at_the_end) + weight_gradient,
            activations=working.in_first_block,
            loss=head_gradient,
            casts=casts_of_block,
        ),
        moment(  # the embeddings' gradient is made next to the head's
            gradients=max(held, before_the_end) + head_gradient,
            activations=working.at_embeddings,
            loss=head_gradient,
            casts=0,
        ),
    ]
    if demand.device == "cuda":  # attention's backward pass, after that of the MLP
        mlp_gradients = 0 if one_by_one else 2 * shape.n_embd * shape.n_inner * matrix_bytes * bool(learned.matrices)
        moments += [
            moment(
                gradients=max(held, before + mlp_gradients),
                activations=activations,
                loss=head_gradient,
                casts=casts,
            )
            for before, activations, casts in (
                (0.0, working.in_last_attention, kept_casts + (casts_of_block if again else 0)),
                (at_the_end, working.in_first_attention, casts_of_block),
            )
        ]
    return moments


@dataclass(frozen=True)
class _Working:
    """Activations in the moments of a step, in bytes: what is kept, and what the backward pass works on.

    Attributes:
        of_loss: what the loss makes of its chunk's hidden states.
        streams_at_loss: streams that are there besides what blocks keep.
        in_last_block: while the last block's MLP is gone back through, the first one in a backward pass.
        in_first_block: while the first block's is.
        at_embeddings: at the end.
        in_last_attention: as `in_last_block`, of attention.
        in_first_attention: as `in_first_block`.
    """

    of_loss: int
    streams_at_loss: float
    in_last_block: float
    in_first_block: float
    at_embeddings: float
    in_last_attention: float = 0.0
    in_first_attention: float = 0.0


def _working(
    demand: StepSpec, kept: float, again: float, kept_per_layer: float, learned_layer: float, factor: float
) -> _Working:
    """Which activations there are in each moment.

    A GPU's allocator counts exactly what is alive, operation by operation; on a CPU kernels have buffers of their own.
    """
    shape, number = demand.shape, demand.number_bytes
    stream = demand.tokens * shape.n_embd * number
    inner = demand.tokens * shape.n_inner * number
    if demand.device == "cpu":
        # after the embeddings, before and after the last norm; gradients of what a block widened to
        streams, widened = 3 * stream, 2 * inner + 2 * stream
        return _Working(0, streams, kept + streams + again + widened, kept_per_layer + again + widened, stream)
    # The gradient of the block's output and that of what its MLP widened to, next to the block's own activations;
    # with its activation's output where that is computed again, and a gradient after dropout.
    mlp = (
        stream
        + inner * (2 if demand.activation_checkpointing == "selective" else 1)
        + (stream if demand.dropout else 0)
    )
    # Of attention: gradients of the block's output, of its own, of queries, keys and values.
    saved = (_attention_bytes_per_token(demand) + shape.n_embd * number) * factor * demand.tokens
    if demand.activation_checkpointing != "selective":
        saved += stream  # the norm's output
    attention = saved + 5 * stream + _flash_scratch_bytes(demand)
    # Where blocks are computed again their own input is among what they keep then.
    others = kept - kept_per_layer
    own = learned_layer if again else kept_per_layer
    rows = min(LOSS_CHUNK_ROWS[demand.device], demand.tokens)
    return _Working(
        of_loss=2 * rows * shape.n_embd * number,
        streams_at_loss=2 * stream,  # before and after the last norm; the first block keeps the embeddings' sum
        in_last_block=others + own + mlp,
        in_first_block=own + mlp,
        at_embeddings=stream + demand.tokens * shape.n_embd * FP32_BYTES,
        in_last_attention=others + attention,
        in_first_attention=attention,
    )


def _weight_gradient(demand: StepSpec, learned: ParameterCounts, *, half: bool) -> int:
    """Of the largest matrix of a block, before it is stored."""
    if not learned.matrices:
        return 0
    shape, number = demand.shape, demand.number_bytes
    if demand.device == "cuda":
        return shape.n_embd * shape.n_inner * (number if half else FP32_BYTES)
    return shape.n_embd * shape.n_inner * (number + (0 if half else FP32_BYTES))


def _flash_scratch_bytes(demand: StepSpec) -> int:
    """What FlashAttention 2's backward pass takes for itself: fp32 sums of dQ and of dO times O.

    It pads each of the documents that the kernel is prepared for by `FLASH_ROWS` rows, so that short documents take
    many times what their tokens would.
    """
    shape = demand.shape
    if demand.attention != "flash_varlen" or demand.number_bytes != HALF_BYTES or shape.reorder_and_upcast_attn:
        return 0
    head_dim = shape.n_embd // shape.n_head
    columns = -(-head_dim // FLASH_COLUMNS) * FLASH_COLUMNS
    slots = padded_document_count(max(round(demand.tokens / demand.document_tokens), 1))
    return (demand.tokens + FLASH_ROWS * slots) * shape.n_head * (columns + 1) * FP32_BYTES


def _loss_bytes(demand: StepSpec, learned: ParameterCounts, head_gradient: int) -> int:
    """Head in the dtype of the arithmetic, a chunk of logits, the head's product and its sum, the gradient after it."""
    shape, number = demand.shape, demand.number_bytes
    head_cast = learned.head * number if number != FP32_BYTES else 0
    product = 0  # on a GPU the product adds to the fp32 sum itself
    if demand.device == "cpu" and learned.learns_head:
        product = learned.head // LOSS_HEAD_SLICES * number
        if number != FP32_BYTES:  # a CPU adds to fp32 what it has cast first
            product += product * FP32_BYTES // number
    rows = min(LOSS_CHUNK_ROWS[demand.device], demand.tokens)
    chunk = rows * shape.padded_vocab_size * number
    return head_cast + product + chunk + head_gradient + demand.tokens * shape.n_embd * number


def _share_of_c_proj(shape: GPT2Config) -> float:
    """Of a block's matrices: the one whose cast is kept where norms and activations are computed again."""
    return shape.n_embd**2 / shape.block_matrix_parameters


def _adam_bytes(states: StateFormat, learned: ParameterCounts) -> tuple[int, int]:
    """Of Adam's moments on the device, and of all that lies on the host."""
    if states.gradients == "host":  # master, gradient and two moments
        return 0, 4 * FP32_BYTES * (learned.matrices + learned.others)
    if states.moment_bits == 32:
        return 2 * FP32_BYTES * (learned.matrices + learned.others), 0
    codes = sum(code.bytes_for(learned.matrices) for code in states.moments)
    return codes + 2 * FP32_BYTES * learned.others, 0
