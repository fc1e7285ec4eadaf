"""Weights as the processor wants them for writing: packed once for oneDNN, or rounded to 8-bit integers.

A step of writing reads every weight once and computes little, so it is as fast as the weights can be read. Plain
`F.linear` arranges them anew at every call, which takes longer than the product.

Rows of a product do not depend on the other rows, to the last bit: one row alone goes another way through oneDNN than
several do, so where that gives other bits (found out when a matrix is packed) a lone row is computed twice.

Shapes: N tokens, I channels in, O channels out, C channels, V vocabulary.
Reference: Dettmers et al. 2022, "LLM.int8()" (a scale for each row of the input and each row of the weights).
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from tunesmith.errors import UserError
from tunesmith.model.gpt2 import ACTIVATIONS, GPT2, MLP, Linear

Quantize = Literal["none", "int8"]
LARGEST_INT8 = 127
ROWS_TRIED = 4


class PackedLinear(nn.Module):
    """A linear layer whose weights oneDNN has arranged for itself; it computes in their dtype.

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


class Int8Linear(nn.Module):
    """A linear layer in 8-bit integers: exact sums of products of rounded inputs and rounded weights.

    Half the bytes of bf16 to be read, at the price of rounding: inputs by a scale for each token, weights by one for
    each output channel.

    Args:
        weight_OI: the weights.
        bias_O: added, if there is one.
        dtype: of what comes out.
    """

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None, dtype: torch.dtype) -> None:
        super().__init__()
        self._dtype = dtype
        weight_OI = weight_OI.float()
        largest_O1 = weight_OI.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        self._scale_O = largest_O1[:, 0] / LARGEST_INT8
        self._rounded_IO = (weight_OI / self._scale_O[:, None]).round_().to(torch.int8).t()
        self._bias_O = torch.zeros_like(self._scale_O) if bias_O is None else bias_O.float()

    def forward(self, x_NI: Tensor) -> Tensor:
        """[N, O]."""
        x_NI = x_NI.float()
        scale_N1 = x_NI.abs().amax(dim=1, keepdim=True).clamp_min_(torch.finfo(torch.float32).tiny) / LARGEST_INT8
        sums_NO = torch._int_mm((x_NI / scale_N1).round_().to(torch.int8), self._rounded_IO)  # noqa: SLF001
        y_NO = sums_NO * scale_N1
        return torch.addcmul(self._bias_O, y_NO, self._scale_O, out=y_NO).to(self._dtype)


def ready_for_writing(model: GPT2, quantize: Quantize) -> Callable[[Tensor], Tensor]:
    """Arrange a model's weights for writing, in place; afterwards it can be read with and not trained.

    Args:
        model: on its device, in the dtype it computes in.
        quantize: whether its matrices become 8-bit integers.

    Returns:
        Hidden states [N, C] to logits [N, V] in fp32, each row up to a number that all of its logits share.

    Raises:
        UserError: if it cannot be quantized there.
    """
    model.eval()
    device = model.head_VC.device
    if quantize == "int8" and device.type != "cpu":
        raise UserError("--quantize int8 is for the CPU so far", hint="leave it out, or add --device cpu")
    if device.type != "cpu" or not (quantize == "int8" or can_pack(model.compute_dtype)):
        return model.logits
    vocab_size = model.config.vocab_size
    with torch.no_grad():
        if quantize == "none" and ACTIVATIONS[model.config.activation_function] is ACTIVATIONS["gelu_new"]:
            _fuse_activations(model)
        for name, linear in [pair for pair in model.named_modules() if isinstance(pair[1], Linear)]:
            assert isinstance(linear, Linear)
            weight_OI, bias_O = linear.weight.detach(), linear.bias.detach()
            if quantize == "none":
                model.set_submodule(name, PackedLinear(weight_OI, bias_O))
            else:
                model.set_submodule(name, Int8Linear(weight_OI, bias_O, weight_OI.dtype))
        centred_VC = _centred(model.head_VC.detach(), vocab_size)
        head = PackedLinear(centred_VC, None) if quantize == "none" else Int8Linear(centred_VC, None, torch.float32)
    return lambda hidden_NC: head(hidden_NC)[:, :vocab_size].float()


def _fuse_activations(model: GPT2) -> None:
    """GELU where the widening projection ends, instead of in a pass of its own."""
    for mlp in [module for module in model.modules() if isinstance(module, MLP)]:
        widening = mlp.c_fc
        mlp.set_submodule("c_fc", PackedLinear(widening.weight.detach(), widening.bias.detach(), with_gelu=True))
        mlp.act = nn.Identity()


def _centred(head_VC: Tensor, vocab_size: int) -> Tensor:
    """The head less its mean row, which takes the same number from all of a token's logits and changes no probability.

    GPT-2's logits lie around -100, where neighbours in bf16 are half a nat apart; around 0 they are much closer.
    """
    return (head_VC.float() - head_VC[:vocab_size].float().mean(dim=0)).to(head_VC.dtype)


def can_pack(dtype: torch.dtype) -> bool:
    """Whether torch was built with oneDNN and the processor computes in this dtype."""
    if not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 or (
        dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # noqa: SLF001
    )
