"""Linear layers whose weights are arranged for reading: a step of writing reads all of them once and computes little.

Three kinds, by what is read of a weight: its dtype as oneDNN arranges it, fp16 (16 bits), or an 8-bit integer. Plain
`F.linear` arranges weights anew at every call, which takes longer than the product.

Rows of a product do not depend on the other rows, to the last bit, so that a text does not depend on its neighbours.

Shapes: N tokens, I channels in, O channels out.
Reference: Dettmers et al. 2022, "LLM.int8()" (a scale for each row of the input and each row of the weights).
"""

import torch
from torch import Tensor, nn

LARGEST_INT8 = 127
ROWS_TRIED = 4


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
        y_NO: Tensor = torch.ops.quantized.linear_dynamic_fp16(x_NI, self._packed)
        return y_NO


def fits_fp16(weight_OI: Tensor) -> bool:
    """Whether none of the weights is too large for fp16."""
    smallest, largest = torch.aminmax(weight_OI.detach())  # one pass and no copy
    return bool(torch.maximum(-smallest, largest) <= torch.finfo(torch.float16).max)


def can_hold_half() -> bool:
    """Whether torch was built with FBGEMM, for this processor."""
    return torch.backends.quantized.engine in {"x86", "fbgemm"}


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
    each output channel.

    Args:
        weight_OI: the weights.
        bias_O: added, if there is one.
    """

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None) -> None:
        super().__init__()
        weight_OI = weight_OI.float()
        largest_O1 = weight_OI.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        self._scale_O = largest_O1[:, 0] / LARGEST_INT8
        self._rounded_IO = (weight_OI / self._scale_O[:, None]).round_().to(torch.int8).t()
        self._bias_O = torch.zeros_like(self._scale_O) if bias_O is None else bias_O.float()

    def forward(self, x_NI: Tensor) -> Tensor:
        """fp32 [N, O]."""
        scale_N1 = x_NI.abs().amax(dim=1, keepdim=True).clamp_min_(torch.finfo(torch.float32).tiny) / LARGEST_INT8
        sums_NO = torch._int_mm((x_NI / scale_N1).round_().to(torch.int8), self._rounded_IO)  # noqa: SLF001
        y_NO = sums_NO * scale_N1
        return torch.addcmul(self._bias_O, y_NO, self._scale_O, out=y_NO)
