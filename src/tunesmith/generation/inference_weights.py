"""A model's weights as the processor wants them for writing.

Shapes: N tokens, I channels in, O channels out, C channels, V vocabulary.
"""

from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Literal

import torch
from torch import Tensor, nn

from tunesmith.errors import UserError
from tunesmith.generation.packed_linears import HalfLinear, Int8Linear, PackedLinear, can_hold_half, can_pack, fits_fp16
from tunesmith.model.gpt2 import ACTIVATIONS, GPT2, MLP, Linear
from tunesmith.model.loss import centered_head

Quantize = Literal["none", "int8"]


def ready_for_writing(model: GPT2, quantize: Quantize, *, may_round: bool = False) -> Callable[[Tensor], Tensor]:
    """Arrange a model's weights for writing, in place; afterwards it can be read with and not trained.

    On a CPU the arithmetic is done in fp32 then, unless there is no kernel for 16-bit weights.

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
    kind = _kind_of_linear(model, quantize, may_round=may_round) if device.type == "cpu" else None
    if kind is None:
        return model.logits
    vocab_size = model.config.vocab_size
    # arranging a matrix takes one thread, and is most of the time that it takes to begin
    with torch.no_grad(), ThreadPoolExecutor(torch.get_num_threads()) as pool:
        arranged_head = pool.submit(kind, centered_head(model.head_VC.detach(), vocab_size, model.head_VC.dtype), None)
        if kind is PackedLinear and ACTIVATIONS[model.config.activation_function] is ACTIVATIONS["gelu_new"]:
            _fuse_activations(model)
        for block in model.transformer.h:
            _arrange(block, kind, pool)
        head = arranged_head.result()
    if kind is not PackedLinear:
        model.float().compute_dtype = torch.float32
    return lambda hidden_NC: head(hidden_NC)[:, :vocab_size].float()


def _kind_of_linear(
    model: GPT2, quantize: Quantize, *, may_round: bool
) -> type[Int8Linear] | type[HalfLinear] | type[PackedLinear] | None:
    """What multiplies on this CPU; None where torch's plain product has to do."""
    if quantize == "int8":
        return Int8Linear
    is_half = model.compute_dtype == torch.bfloat16 or may_round
    if is_half and can_hold_half() and all(fits_fp16(parameter) for parameter in model.parameters()):
        return HalfLinear
    return PackedLinear if can_pack(model.compute_dtype) else None


def _arrange(block: nn.Module, kind: Callable[[Tensor, Tensor | None], nn.Module], pool: Executor) -> None:
    """Exchange a block's matrices, side by side; the old ones are gone before those of the next block are made."""
    linears = {name: module for name, module in block.named_modules() if isinstance(module, Linear)}
    arranged = [pool.submit(kind, one.weight.detach(), one.bias.detach()) for one in linears.values()]
    for name, future in zip(linears, arranged, strict=True):
        block.set_submodule(name, future.result())


def _fuse_activations(model: GPT2) -> None:
    """GELU where the widening projection ends, instead of in a pass of its own."""
    for mlp in [module for module in model.modules() if isinstance(module, MLP)]:
        widening = mlp.c_fc
        mlp.set_submodule("c_fc", PackedLinear(widening.weight.detach(), widening.bias.detach(), with_gelu=True))
        mlp.act = nn.Identity()
