"""Activations that are computed once more in the backward pass instead of being kept: time for memory.

What a block keeps of every token for the backward pass, in numbers of its width C (bf16 or fp32 each):

    nothing   16 C   norms' inputs and outputs, queries, keys and values, attention's output, MLP before and after its
                     activation
    light     10 C   outputs of norms and of the activation are computed again, which costs next to nothing: the
                     matrix products behind them are not
    blocks     1 C   only what goes into the block: a third more arithmetic
    offload    0     that too lies in the host's memory until it is needed

References: Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost"; Korthikanti et al. 2022, "Reducing
Activation Recomputation in Large Transformer Models".
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from tunesmith.config import RECOMPUTATIONS, Recompute
from tunesmith.model.gpt2 import GPT2, Block, Run, as_it_is
from tunesmith.utils.device import pinned_empty


def next_recomputation(what: Recompute) -> Recompute | None:
    """The next that keeps less; None where there is none."""
    after = RECOMPUTATIONS.index(what) + 1
    return RECOMPUTATIONS[after] if after < len(RECOMPUTATIONS) else None


def recompute(model: GPT2, what: Recompute) -> None:
    """Decide what the backward pass of every block computes once more; the results stay what they are.

    What is compiled is inside of the whole block's checkpoint. A compiled block whose norms and activations are
    computed again goes on doing so when all of it is: that costs next to nothing, and other code would have to be
    compiled.
    """
    on_host = _checkpointed_on_host if model.head_VC.is_cuda else _checkpointed
    ways: dict[Recompute, tuple[Run, Run]] = {
        "nothing": (as_it_is, as_it_is),
        "light": (as_it_is, _checkpointed),
        "blocks": (_checkpointed, as_it_is),
        "offload": (on_host, as_it_is),
    }
    for block in model.transformer.h:
        assert isinstance(block, Block)
        before = block.run_part
        block.run_block, block.run_part = ways[what]
        if block.forward_of is not None and what in {"blocks", "offload"}:
            block.run_part = before


def _checkpointed(part: Callable[..., Tensor], /, *inputs: Any) -> Tensor:  # noqa: ANN401
    """Keep the inputs only; what is missing is computed again, and no more than that."""
    if not torch.is_grad_enabled():
        return part(*inputs)
    kept: Tensor = checkpoint(part, *inputs, use_reentrant=False)
    return kept


def _checkpointed_on_host(part: Callable[..., Tensor], /, *inputs: Any) -> Tensor:  # noqa: ANN401
    with saved_tensors_hooks(_to_host, _from_host):
        return _checkpointed(part, *inputs)


def _to_host(tensor: Tensor) -> tuple[torch.device, Tensor]:
    """Begin to copy; it is read only by what the same stream does later, so nobody waits for it."""
    kept = pinned_empty(tensor.shape, tensor.dtype)
    return tensor.device, kept.copy_(tensor, non_blocking=kept.is_pinned())


def _from_host(packed: tuple[torch.device, Tensor]) -> Tensor:
    device, kept = packed
    return kept.to(device, non_blocking=True)
