"""CPU inference: linear layers with prepacked weights, and a model's forward pass as one loop over them.

A decoding step reads all weights once and computes little. Three kinds of layers, by what is read of a weight: its
dtype as oneDNN packs it, fp16 (16 bits), or an 8-bit integer. Plain `F.linear` packs weights again at every call,
which takes longer than the product.

Rows of a product do not depend on the other rows, to the last bit, so that a sequence does not depend on its batch.

Shapes: N tokens in the stream, I channels in, O channels out, C channels, H heads, D channels of a head, V vocabulary.
Reference: Dettmers et al. 2022, "LLM.int8()" (a scale for each row of the input and each row of the weights).
"""

from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tunesmith.errors import UserError
from tunesmith.model.gpt2 import ACTIVATIONS, GPT2, MLP, Attend, Block, Linear
from tunesmith.model.loss import centered_head

Quantize = Literal["none", "int8"]
Product = Callable[[Tensor], Tensor]
Norm = tuple[Tensor, Tensor, float]
"""Weight, bias, and what is added to the variance."""

MAX_INT8 = 127
MAX_INT8_WITHOUT_VNNI = 64
"""Weights of at most this size: (127 + 128) * 64 * 2 fits the signed 16 bits in which such a CPU adds two products."""
ROWS_TRIED = 4
FBGEMM_BLOCK_ROWS = 120
"""FBGEMM splits a product into blocks of this many rows, and the rows of a block among kernels of six or more."""


class PackedLinear(nn.Module):
    """A linear layer whose weights are packed by oneDNN; it computes in their dtype.

    oneDNN has another kernel for a single row than for several; where that gives other bits (tried when the matrix is
    packed) a single row is computed twice.

    Args:
        weight_OI: the weights.
        bias_O: added, if there is one.
        with_gelu: whether the tanh form of GELU is applied while the result is still in registers.
    """

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None, *, with_gelu: bool = False) -> None:
        super().__init__()
        self._epilogue = ("gelu", "tanh") if with_gelu else ("none", "")
        self._dtype = weight_OI.dtype
        self._bias_O = bias_O
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight_OI, 1)  # noqa: SLF001  no public name
        x_NI = torch.sin(torch.arange(ROWS_TRIED * weight_OI.shape[1])).view(ROWS_TRIED, -1).to(self._dtype)
        self._single_rows_differ = not torch.equal(self._linear(x_NI[:1]), self._linear(x_NI)[:1])

    def forward(self, x_NI: Tensor) -> Tensor:
        """[N, O] in the weights' dtype."""
        x_NI = x_NI.to(self._dtype)
        if len(x_NI) == 1 and self._single_rows_differ:
            return self._linear(x_NI.expand(2, -1).contiguous())[:1]
        return self._linear(x_NI)

    def _linear(self, x_NI: Tensor) -> Tensor:
        operation, algorithm = self._epilogue
        y_NO: Tensor = torch.ops.mkldnn._linear_pointwise(  # noqa: SLF001
            x_NI, self._packed, self._bias_O, operation, [], algorithm
        )
        return y_NO


class FP16WeightLinear(nn.Module):
    """A linear layer with weights in fp16 and arithmetic in fp32, by FBGEMM.

    Half the bytes of fp32 are read and nothing else is rounded: it is closer to fp32 than bf16 arithmetic is, and AVX2
    is enough for it. bf16 weights keep their values, down to 6e-8.

    With AVX2, FBGEMM's kernels of one and two rows sum in another order than the larger ones, so that a row's bits
    would depend on how many rows are computed. These counts are padded by one or two rows (`padded_row_counts`).
    Weights must be in the range of fp16 (`fits_fp16`).
    """

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None) -> None:
        super().__init__()
        bias_O = None if bias_O is None else bias_O.float()
        self._packed = torch.ops.quantized.linear_prepack_fp16(weight_OI.float(), bias_O)

    def forward(self, x_NI: Tensor) -> Tensor:
        """fp32 [N, O]."""
        n_rows = len(x_NI)
        n_remaining = n_rows % FBGEMM_BLOCK_ROWS
        n_padding = _fp16_row_counts()[n_remaining] - n_remaining
        if n_padding:
            x_NI = F.pad(x_NI, (0, 0, 0, n_padding))
        y_NO: Tensor = torch.ops.quantized.linear_dynamic_fp16(x_NI, self._packed)
        return y_NO[:n_rows] if n_padding else y_NO


def padded_row_counts(product: Callable[[Tensor], Tensor], n_in: int) -> tuple[int, ...]:
    """Return how many rows to compute for n rows, n from 0 to a block, so that a row's bits do not depend on n.

    Args:
        product: rows [N, I] to [N, O], each row a function of that row and, perhaps, of N and of its index.
        n_in: I.

    Returns:
        For each n the smallest number of rows, n or more, whose results equal those of a whole block; empty where
        even the rows of a whole block depend on their index.
    """
    x_NI = torch.sin(torch.arange(n_in, dtype=torch.float32)).expand(FBGEMM_BLOCK_ROWS, -1).contiguous()
    expected_O = product(x_NI)[0]
    same_bits = [
        n_rows
        for n_rows in range(FBGEMM_BLOCK_ROWS + 1)
        if torch.equal(product(x_NI[:n_rows]), expected_O.expand(n_rows, -1))
    ]
    if FBGEMM_BLOCK_ROWS not in same_bits:
        return ()
    return tuple(min(count for count in same_bits if count >= n_rows) for n_rows in range(FBGEMM_BLOCK_ROWS + 1))


@cache
def _fp16_row_counts() -> tuple[int, ...]:
    """Return `padded_row_counts` of FBGEMM on this CPU, by trial: it does not tell which kernels it has."""
    n_in, n_out = 192, 64
    weight_OI = torch.cos(torch.arange(n_out * n_in, dtype=torch.float32)).view(n_out, n_in)
    packed = torch.ops.quantized.linear_prepack_fp16(weight_OI, None)
    return padded_row_counts(lambda x_NI: torch.ops.quantized.linear_dynamic_fp16(x_NI, packed), n_in)


def fits_fp16(weight_OI: Tensor) -> bool:
    """Return whether none of the weights is too large for fp16."""
    smallest, largest = torch.aminmax(weight_OI.detach())  # one pass and no copy
    return bool(torch.maximum(-smallest, largest) <= torch.finfo(torch.float16).max)


def has_fp16_kernels() -> bool:
    """Return whether torch was built with FBGEMM for this CPU, and its rows can be made independent of each other."""
    return torch.backends.quantized.engine in {"x86", "fbgemm"} and bool(_fp16_row_counts())


def has_packed_kernels(dtype: torch.dtype) -> bool:
    """Return whether torch was built with oneDNN and the CPU computes in this dtype."""
    if not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 or (
        dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # noqa: SLF001
    )


class Int8Linear(nn.Module):
    """A linear layer in 8-bit integers: exact sums of products of rounded inputs and rounded weights.

    Half the bytes of bf16 are read, at the price of rounding: inputs by a scale for each token, weights by one for
    each output channel. A CPU without VNNI instructions gets weights of seven bits, because there the sum of two
    products is kept in 16 bits, and saturates where it does not fit.
    """

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None) -> None:
        super().__init__()
        weight_OI = weight_OI.float()
        largest_O1 = weight_OI.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        self._scale_O = largest_O1[:, 0] / _max_int8_weight()
        self._rounded_IO = (weight_OI / self._scale_O[:, None]).round_().to(torch.int8).t()
        self._bias_O = torch.zeros_like(self._scale_O) if bias_O is None else bias_O.float()

    def forward(self, x_NI: Tensor) -> Tensor:
        """fp32 [N, O]."""
        scale_N1 = x_NI.abs().amax(dim=1, keepdim=True).clamp_min_(torch.finfo(torch.float32).tiny) / MAX_INT8
        sums_NO = torch._int_mm((x_NI / scale_N1).round_().to(torch.int8), self._rounded_IO)  # noqa: SLF001
        y_NO = sums_NO * scale_N1
        return torch.addcmul(self._bias_O, y_NO, self._scale_O, out=y_NO)


@cache
def _max_int8_weight() -> int:
    """Return the largest 8-bit weight whose sums of products are exact on this CPU, by trial.

    Raises:
        UserError: if there is none.
    """
    for largest in (MAX_INT8, MAX_INT8_WITHOUT_VNNI):
        if sums_are_exact(torch._int_mm, largest):  # noqa: SLF001  torch has no public name for it
            return largest
    raise UserError("this CPU does not multiply 8-bit integers exactly", hint="leave --quantize int8 out")


def sums_are_exact(product: Callable[[Tensor, Tensor], Tensor], largest: int) -> bool:
    """Return whether int8 [N, I] times int8 [I, O] is exact for inputs up to 127 and weights up to `largest`."""
    n_in = 192
    one_I = torch.ones(n_in, dtype=torch.int64)
    pairs_I = torch.where(torch.arange(n_in) % 4 < 2, 1, -1)  # neighbors of one sign: they overflow before they cancel
    signs_SI = torch.stack([one_I, -one_I, pairs_I, -pairs_I])
    x_NI, weight_OI = signs_SI * MAX_INT8, signs_SI.repeat(12, 1) * largest
    sums_NO = product(x_NI.to(torch.int8), weight_OI.to(torch.int8).t())
    return torch.equal(sums_NO.double(), x_NI.double() @ weight_OI.double().t())


def prepare_for_inference(model: GPT2, quantize: Quantize, *, may_round: bool = False) -> Callable[[Tensor], Tensor]:
    """Pack a model's weights for inference, in place; it cannot be trained afterwards.

    On a CPU the arithmetic is fp32 then, unless there is no kernel for 16-bit weights.

    Args:
        model: on its device, in the dtype it computes in.
        quantize: whether its matrices become 8-bit integers.
        may_round: whether fp32 weights may become fp16 ones, which are read in half the time.

    Returns:
        Hidden states [N, C] to logits [N, V] in fp32, each row up to a number that all of its logits share.

    Raises:
        UserError: if it cannot be quantized there.
    """
    model.eval()
    device = model.head_VC.device
    if quantize == "int8" and device.type != "cpu":
        raise UserError("--quantize int8 is for the CPU so far", hint="leave it out, or add --device cpu")
    layer_type = _linear_type(model, quantize, may_round=may_round) if device.type == "cpu" else None
    if layer_type is None:
        return model.logits
    vocab_size = model.config.vocab_size
    # packing a matrix takes one thread, and is most of the time until the first token
    with torch.no_grad(), ThreadPoolExecutor(torch.get_num_threads()) as pool:
        head_VC = centered_head(model.head_VC.detach(), vocab_size, model.head_VC.dtype)
        packed_head = pool.submit(layer_type, head_VC, None)
        del head_VC
        if layer_type is PackedLinear and ACTIVATIONS[model.config.activation_function] is ACTIVATIONS["gelu_new"]:
            _fuse_activations(model)
        for block in model.transformer.h:
            _pack_linears(block, layer_type, pool)
        head = packed_head.result()
    if layer_type is not PackedLinear:
        model.float().compute_dtype = torch.float32
    return lambda hidden_NC: head(hidden_NC)[:, :vocab_size].float()


def _linear_type(
    model: GPT2, quantize: Quantize, *, may_round: bool
) -> type[Int8Linear] | type[FP16WeightLinear] | type[PackedLinear] | None:
    """Return the fastest kind of layer on this CPU; None where there is none but torch's plain product."""
    if quantize == "int8":
        return Int8Linear
    is_half = model.compute_dtype == torch.bfloat16 or may_round
    if is_half and has_fp16_kernels() and all(fits_fp16(parameter) for parameter in model.parameters()):
        return FP16WeightLinear
    return PackedLinear if has_packed_kernels(model.compute_dtype) else None


def _pack_linears(block: nn.Module, layer_type: Callable[[Tensor, Tensor | None], nn.Module], pool: Executor) -> None:
    """Replace a block's matrices, in parallel; the old ones are gone before those of the next block are made."""
    linears = {name: module for name, module in block.named_modules() if isinstance(module, Linear)}
    packed = [pool.submit(layer_type, linear.weight.detach(), linear.bias.detach()) for linear in linears.values()]
    for name, future in zip(linears, packed, strict=True):
        block.set_submodule(name, future.result())


def _fuse_activations(model: GPT2) -> None:
    """Apply GELU inside the widening projection, instead of in a pass of its own."""
    for mlp in [module for module in model.modules() if isinstance(module, MLP)]:
        widening = mlp.c_fc
        mlp.set_submodule("c_fc", PackedLinear(widening.weight.detach(), widening.bias.detach(), with_gelu=True))
        mlp.act = nn.Identity()


@dataclass(frozen=True)
class _UnrolledLayer:
    """The operations of a block, in their order."""

    norm_1: Norm
    c_attn: Product
    scale: float
    attn_c_proj: Product
    norm_2: Norm
    c_fc: Product
    act: Product
    mlp_c_proj: Product


def can_unroll(model: GPT2) -> bool:
    """Return whether its weights are packed and its arithmetic is fp32."""
    first = model.transformer.h[0]
    assert isinstance(first, Block)
    return model.compute_dtype == torch.float32 and isinstance(
        first.attn.c_attn, FP16WeightLinear | Int8Linear | PackedLinear
    )


def unrolled(model: GPT2) -> Callable[[Tensor, Tensor, Callable[[int], Attend]], Tensor]:
    """Return the model's forward pass as one loop, equal to the last bit, for models that `can_unroll`.

    What modules do around their arithmetic takes longer than that for a single token.
    """
    layers = [
        _UnrolledLayer(
            _norm_of(block.ln_1),
            block.attn.c_attn.forward,
            block.attn.scale,
            block.attn.c_proj.forward,
            _norm_of(block.ln_2),
            block.mlp.c_fc.forward,
            block.mlp.act,
            block.mlp.c_proj.forward,
        )
        for block in model.transformer.h
        if isinstance(block, Block)
    ]
    last_norm = _norm_of(model.transformer.ln_f)
    wte_VC, wpe_PC = model.transformer.wte.weight, model.transformer.wpe.weight
    n_head, n_embd = model.config.n_head, model.config.n_embd
    normalized_shape = (n_embd,)

    def norm(x_NC: Tensor, parameters: Norm) -> Tensor:
        return torch.layer_norm(x_NC, normalized_shape, *parameters)

    def forward(tokens_N: Tensor, positions_N: Tensor, attend_of: Callable[[int], Attend]) -> Tensor:
        x_NC = F.embedding(tokens_N, wte_VC) + F.embedding(positions_N, wpe_PC)
        for number, layer in enumerate(layers):
            qkv_NE = layer.c_attn(norm(x_NC, layer.norm_1))
            q_NHD, k_NHD, v_NHD = qkv_NE.view(len(qkv_NE), 3, n_head, n_embd // n_head).unbind(1)
            y_NHD = attend_of(number)(q_NHD, k_NHD, v_NHD, layer.scale)
            x_NC += layer.attn_c_proj(y_NHD.reshape(len(x_NC), n_embd))
            x_NC += layer.mlp_c_proj(layer.act(layer.c_fc(norm(x_NC, layer.norm_2))))
        return norm(x_NC, last_norm)

    return forward


def _norm_of(module: nn.LayerNorm) -> Norm:
    return module.weight, module.bias, module.eps
