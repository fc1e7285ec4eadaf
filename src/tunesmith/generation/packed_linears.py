"""Linear layers whose weights are arranged for reading: a step of writing reads all of them once and computes little.

Three kinds, by what is read of a weight: its dtype as oneDNN arranges it, fp16 (16 bits), or an 8-bit integer. Plain
`F.linear` arranges weights anew at every call, which takes longer than the product.

Rows of a product do not depend on the other rows, to the last bit, so that a text does not depend on its neighbours.

Shapes: N tokens, I channels in, O channels out.
Reference: Dettmers et al. 2022, "LLM.int8()" (a scale for each row of the input and each row of the weights).
"""

from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tunesmith.errors import UserError

LARGEST_INT8 = 127
LARGEST_INT8_WITHOUT_VNNI = 64
"""Weights of at most this size: (127 + 128) * 64 * 2 fits the signed 16 bits in which such a CPU adds two products."""
ROWS_TRIED = 4
FBGEMM_BLOCK_ROWS = 120
"""FBGEMM divides a product into blocks of so many rows, and the rows of a block among kernels of up to six or more."""


class PackedLinear(nn.Module):
    """A linear layer whose weights oneDNN has arranged for itself; it computes in their dtype.

    One row alone goes another way through oneDNN than several do; where that gives other bits (found out when the
    matrix is packed) a lone row is computed twice.

    Args:
        weight_OI: the weights.
        bias_O: added, if there is one.
        with_gelu: whether the tanh form of GELU is taken of the result while it is still in registers.
    """

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None, *, with_gelu: bool = False) -> None:
        super().__init__()
        self._then = ("gelu", "tanh") if with_gelu else ("none", "")
        self._dtype = weight_OI.dtype
        self._bias_O = bias_O
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight_OI, 1)  # noqa: SLF001  no public name
        x_NI = torch.sin(torch.arange(ROWS_TRIED * weight_OI.shape[1])).view(ROWS_TRIED, -1).to(self._dtype)
        self._lone_rows_differ = not torch.equal(self._linear(x_NI[:1]), self._linear(x_NI)[:1])

    def forward(self, x_NI: Tensor) -> Tensor:
        """[N, O] in the weights' dtype."""
        x_NI = x_NI.to(self._dtype)
        if len(x_NI) == 1 and self._lone_rows_differ:
            return self._linear(x_NI.expand(2, -1).contiguous())[:1]
        return self._linear(x_NI)

    def _linear(self, x_NI: Tensor) -> Tensor:
        operation, algorithm = self._then
        y_NO: Tensor = torch.ops.mkldnn._linear_pointwise(  # noqa: SLF001
            x_NI, self._packed, self._bias_O, operation, [], algorithm
        )
        return y_NO


class HalfLinear(nn.Module):
    """A linear layer with weights in fp16 and arithmetic in fp32, by FBGEMM.

    Half the bytes of fp32 to be read and nothing else rounded: it is closer to fp32 than bf16 arithmetic is, and needs
    no more of a processor than AVX2. bf16 weights stay what they are, down to 6e-8.

    With AVX2, FBGEMM's kernels of one and two rows sum in another order than the larger ones, so that a row's bits
    would depend on how many rows are computed. Such counts are padded by one or two rows (`padded_row_counts`).

    Args:
        weight_OI: the weights, of a size that fp16 can hold (`fits_fp16`).
        bias_O: added, if there is one.
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
    """How many rows to compute for n rows, n from 0 to a block, so that a row's bits do not depend on n.

    Args:
        product: rows [N, I] to [N, O], each row a function of that row and, perhaps, of N and of its place.
        n_in: I.

    Returns:
        For each n the smallest number of rows, n or more, whose results equal those of a whole block; empty where
        even the rows of a whole block depend on their place.
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
    """`padded_row_counts` of FBGEMM on this CPU, found by trial: which kernels it has is known to itself only."""
    n_in, n_out = 192, 64
    weight_OI = torch.cos(torch.arange(n_out * n_in, dtype=torch.float32)).view(n_out, n_in)
    packed = torch.ops.quantized.linear_prepack_fp16(weight_OI, None)
    return padded_row_counts(lambda x_NI: torch.ops.quantized.linear_dynamic_fp16(x_NI, packed), n_in)


def fits_fp16(weight_OI: Tensor) -> bool:
    """Whether none of the weights is too large for fp16."""
    smallest, largest = torch.aminmax(weight_OI.detach())  # one pass and no copy
    return bool(torch.maximum(-smallest, largest) <= torch.finfo(torch.float16).max)


def can_hold_half() -> bool:
    """Whether torch was built with FBGEMM for this CPU, and its rows can be made independent of each other."""
    return torch.backends.quantized.engine in {"x86", "fbgemm"} and bool(_fp16_row_counts())


def can_pack(dtype: torch.dtype) -> bool:
    """Whether torch was built with oneDNN and the processor computes in this dtype."""
    if not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 or (
        dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # noqa: SLF001
    )


class Int8Linear(nn.Module):
    """A linear layer in 8-bit integers: exact sums of products of rounded inputs and rounded weights.

    Half the bytes of bf16 to be read, at the price of rounding: inputs by a scale for each token, weights by one for
    each output channel. A CPU without VNNI instructions gets weights of seven bits, because there the sum of two
    products is kept in 16 bits, and cut off where it does not fit.

    Args:
        weight_OI: the weights.
        bias_O: added, if there is one.
    """

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None) -> None:
        super().__init__()
        weight_OI = weight_OI.float()
        largest_O1 = weight_OI.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        self._scale_O = largest_O1[:, 0] / _largest_int8_weight()
        self._rounded_IO = (weight_OI / self._scale_O[:, None]).round_().to(torch.int8).t()
        self._bias_O = torch.zeros_like(self._scale_O) if bias_O is None else bias_O.float()

    def forward(self, x_NI: Tensor) -> Tensor:
        """fp32 [N, O]."""
        scale_N1 = x_NI.abs().amax(dim=1, keepdim=True).clamp_min_(torch.finfo(torch.float32).tiny) / LARGEST_INT8
        sums_NO = torch._int_mm((x_NI / scale_N1).round_().to(torch.int8), self._rounded_IO)  # noqa: SLF001
        y_NO = sums_NO * scale_N1
        return torch.addcmul(self._bias_O, y_NO, self._scale_O, out=y_NO)


@cache
def _largest_int8_weight() -> int:
    """The largest 8-bit weight whose sums of products are exact on this CPU, found by trial.

    Raises:
        UserError: if there is none.
    """
    for largest in (LARGEST_INT8, LARGEST_INT8_WITHOUT_VNNI):
        if sums_are_exact(torch._int_mm, largest):  # noqa: SLF001  torch has no public name for it
            return largest
    raise UserError("this CPU does not multiply 8-bit integers exactly", hint="leave --quantize int8 out")


def sums_are_exact(product: Callable[[Tensor, Tensor], Tensor], largest: int) -> bool:
    """Whether int8 [N, I] times int8 [I, O] is exact for inputs up to 127 and weights up to `largest`, signs mixed."""
    n_in = 192
    one_I = torch.ones(n_in, dtype=torch.int64)
    pairs_I = torch.where(torch.arange(n_in) % 4 < 2, 1, -1)  # neighbors of one sign: they overflow before they cancel
    signs_SI = torch.stack([one_I, -one_I, pairs_I, -pairs_I])
    x_NI, weight_OI = signs_SI * LARGEST_INT8, signs_SI.repeat(12, 1) * largest
    sums_NO = product(x_NI.to(torch.int8), weight_OI.to(torch.int8).t())
    return torch.equal(sums_NO.double(), x_NI.double() @ weight_OI.double().t())
