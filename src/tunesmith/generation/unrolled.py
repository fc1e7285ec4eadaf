"""A prepared model's forward pass as one loop: what modules do around their arithmetic takes longer for a single token.

Shapes: N tokens in the stream, C channels, H heads, D channels of a head.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tunesmith.generation.packed_linears import HalfLinear, Int8Linear, PackedLinear
from tunesmith.model.gpt2 import GPT2, Attend, Block

Product = Callable[[Tensor], Tensor]
Norm = tuple[Tensor, Tensor, float]
"""Weight, bias, and what is added to the variance."""


@dataclass(frozen=True)
class _Layer:
    """What a block does, in its order."""

    norm_1: Norm
    c_attn: Product
    scale: float
    attn_c_proj: Product
    norm_2: Norm
    c_fc: Product
    act: Product
    mlp_c_proj: Product


def can_unroll(model: GPT2) -> bool:
    """Whether its weights are arranged for writing and its arithmetic is fp32."""
    first = model.transformer.h[0]
    assert isinstance(first, Block)
    return model.compute_dtype == torch.float32 and isinstance(
        first.attn.c_attn, HalfLinear | Int8Linear | PackedLinear
    )


def unrolled(model: GPT2) -> Callable[[Tensor, Tensor, Callable[[int], Attend]], Tensor]:
    """The same function as the model in evaluation mode, to the last bit, for models that `can_unroll`."""
    blocks = [block for block in model.transformer.h if isinstance(block, Block)]
    layers = [
        _Layer(
            _norm(block.ln_1),
            block.attn.c_attn.forward,
            block.attn.scale,
            block.attn.c_proj.forward,
            _norm(block.ln_2),
            block.mlp.c_fc.forward,
            block.mlp.act,
            block.mlp.c_proj.forward,
        )
        for block in blocks
    ]
    last_norm = _norm(model.transformer.ln_f)
    wte_VC, wpe_PC = model.transformer.wte.weight, model.transformer.wpe.weight
    n_head, n_embd = model.config.n_head, model.config.n_embd
    normalised = (n_embd,)

    def norm(x_NC: Tensor, how: Norm) -> Tensor:
        return torch.layer_norm(x_NC, normalised, *how)

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


def _norm(module: torch.nn.LayerNorm) -> Norm:
    return module.weight, module.bias, module.eps
