"""Activation checkpointing, applied to the blocks of a model from outside: time for memory.

What a block keeps of every token for the backward pass, in multiples of its width C (bf16 or fp32 each):

    none      16 C   inputs and outputs of the norms, queries, keys and values, attention's output, the MLP before and
                     after its activation
    selective 10 C   outputs of norms and of the activation are recomputed, which costs next to nothing,
                     because the matrix products that read them are not
    full       1 C   only the input of the block; a third more arithmetic
    offload    0     full, and the input is kept in the host's memory until it is needed

References: Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost"; Korthikanti et al. 2022, "Reducing
Activation Recomputation in Large Transformer Models".
"""

from collections.abc import Callable
from contextlib import nullcontext
from functools import cache, partial
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from tunesmith.config import ACTIVATION_CHECKPOINTING_LEVELS, ActivationCheckpointing
from tunesmith.model.compile import CompiledForward, set_forward
from tunesmith.model.gpt2 import ACTIVATIONS, GPT2, Activation, Attend, Block, LayerNorm, Linear
from tunesmith.utils.device import pinned_empty


def next_level(level: ActivationCheckpointing) -> ActivationCheckpointing | None:
    """Return the next level, which keeps less; None after the last one."""
    after = ACTIVATION_CHECKPOINTING_LEVELS.index(level) + 1
    return ACTIVATION_CHECKPOINTING_LEVELS[after] if after < len(ACTIVATION_CHECKPOINTING_LEVELS) else None


def apply_activation_checkpointing(model: GPT2, level: ActivationCheckpointing) -> None:
    """Set what the backward pass of every block recomputes; gradients stay the same to the last bit.

    Compiled code is inside of a block's checkpoint. A compiled block that recomputes its norms and activation continues
    to do so under full checkpointing: that costs next to nothing, and other code would have to be compiled.
    """
    is_full = level in {"full", "offload"}
    to_host = level == "offload" and model.head_VC.is_cuda
    act = ACTIVATIONS[model.config.activation_function]
    for block in model.blocks:
        forward = block.forward.forward if isinstance(block.forward, CheckpointedForward) else block.forward
        if is_full:
            set_forward(block, CheckpointedForward(forward, to_host=to_host))
        else:
            set_forward(block, forward if isinstance(forward, CompiledForward) else None)
        if not is_full or not isinstance(forward, CompiledForward):
            _apply_selective(block, act, is_on=level == "selective")


class CheckpointedForward:
    """Forward pass of a block that keeps only the block's input, on the device or in pinned host memory."""

    def __init__(self, forward: Callable[..., Tensor], *, to_host: bool) -> None:
        self.forward = forward
        self.to_host = to_host

    def __call__(self, x_NC: Tensor, attend: Attend) -> Tensor:
        # bound now: the backward pass may run in another thread, and has to recompute with the same code
        forward = self.forward.bind() if isinstance(self.forward, CompiledForward) else self.forward
        with saved_tensors_hooks(_to_host, _from_host) if self.to_host else nullcontext():
            return _checkpointed(forward, x_NC, attend)


def _apply_selective(block: Block, act: Activation, *, is_on: bool) -> None:
    """Recompute the outputs of both norms and of the activation, or keep them.

    While gradients are recorded, a norm or an activation passes its input on, and the projection that reads it does
    both, inside of a checkpoint. What replaces their forward passes is bound to three functions, so that all blocks
    still share compiled code.
    """
    block.mlp.act = _deferred_activation(act) if is_on else act
    for norm in (block.ln_1, block.ln_2):
        set_forward(norm, MethodType(_deferred_norm, norm) if is_on else None)
    for projection, before in (
        (block.attn.c_attn, partial(LayerNorm.forward, block.ln_1)),
        (block.mlp.c_fc, partial(LayerNorm.forward, block.ln_2)),
        (block.mlp.c_proj, act),
    ):
        vars(projection)["before"] = before  # not as a submodule: names of parameters stay what they are
        set_forward(projection, MethodType(_checkpointed_projection, projection) if is_on else None)


def _deferred_norm(norm: LayerNorm, x: Tensor) -> Tensor:
    return x if torch.is_grad_enabled() else LayerNorm.forward(norm, x)


@cache
def _deferred_activation(act: Activation) -> Activation:
    return lambda x: x if torch.is_grad_enabled() else act(x)


def _checkpointed_projection(projection: Linear, x: Tensor) -> Tensor:
    if not torch.is_grad_enabled():
        return type(projection).forward(projection, x)
    out: Tensor = checkpoint(_project, projection, x, use_reentrant=False)
    return out


def _project(projection: Linear, x: Tensor) -> Tensor:
    before: Activation = vars(projection)["before"]
    return type(projection).forward(projection, before(x))


def _checkpointed(compute: Callable[..., Tensor], /, *inputs: Any) -> Tensor:  # noqa: ANN401
    """Keep the inputs only; the backward pass recomputes what it needs, and no more than that."""
    if not torch.is_grad_enabled():
        return compute(*inputs)
    out: Tensor = checkpoint(compute, *inputs, use_reentrant=False)
    return out


def _to_host(tensor: Tensor) -> tuple[torch.device, Tensor]:
    """Start to copy to the host; only later work of the same stream reads it, so nothing waits."""
    copy = pinned_empty(tensor.shape, tensor.dtype)
    return tensor.device, copy.copy_(tensor, non_blocking=copy.is_pinned())


def _from_host(packed: tuple[torch.device, Tensor]) -> Tensor:
    device, copy = packed
    return copy.to(device, non_blocking=True)
