"""FSDP2 (`fully_shard`): each process has a shard of every weight, gradient and optimizer state.

A block's weights are gathered when it is about to compute and freed afterwards; its gradients are reduced and scattered
at every micro-batch, because unsharded accumulation would take the memory that sharding saves. Embeddings and the final
norm stay gathered from the forward to the backward pass.
"""

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from tunesmith.distributed.dtensor import full_tensor
from tunesmith.distributed.strategy import Strategy
from tunesmith.distributed.world import World
from tunesmith.model.gpt2 import GPT2


def apply_fsdp(model: GPT2, world: World, device: torch.device) -> None:
    """Leave each process its shard of every weight, on its device; the model may be in host memory before."""
    mesh = init_device_mesh(device.type, (world.size,))
    for block in model.transformer.h:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh, reshard_after_forward=False)


class FSDPStrategy(Strategy):
    """Sharded training of a model that `apply_fsdp` was called with."""

    is_sharded = True

    def __init__(self, model: GPT2, world: World) -> None:
        super().__init__(model)
        self._world = world
        self.loss_scale = world.size  # FSDP averages gradients over the processes; they are to be summed

    def reduce_loss(self, loss_sum: Tensor) -> Tensor:
        return self._world.all_reduce_(loss_sum)

    def clip_grad_norm(self, max_norm: float) -> Tensor:
        return full_tensor(torch.nn.utils.clip_grad_norm_(self.model.parameters(), max_norm))

    def reshard(self) -> None:
        for module in self.model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()
