"""Every process holds a part of each weight, gradient and moment (FSDP2, `fully_shard`).

A block's weights are gathered when it is about to compute and let go of behind it; its gradients are summed and
scattered as they are made, at every micro-batch: keeping them whole until the last one would take the memory that
sharding is there to save. Embeddings and the final norm stay gathered from the forward pass to the backward one.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from tunesmith.distributed.engine import Engine
from tunesmith.distributed.parts import whole
from tunesmith.distributed.team import Team
from tunesmith.model.gpt2 import GPT2


def shard(model: GPT2, team: Team, device: torch.device) -> None:
    """Leave each process its part of every weight, on its device; the model may lie on the host before."""
    mesh = init_device_mesh(device.type, (team.size,))
    for block in model.transformer.h:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh, reshard_after_forward=False)


class ShardedEngine(Engine):
    """One of several processes that hold a part each.

    Args:
        model: that `shard` was called with.
        team: all processes.
    """

    is_sharded = True

    def __init__(self, model: GPT2, team: Team) -> None:
        super().__init__(model)
        self._team = team
        self.loss_factor = team.size

    @contextmanager
    def micro_batch(self, *, is_last: bool) -> Iterator[None]:  # noqa: ARG002
        yield

    def summed(self, nats: Tensor) -> Tensor:
        return self._team.sum_on_device(nats)

    def clip(self, max_norm: float) -> Tensor:
        return whole(torch.nn.utils.clip_grad_norm_(self.model.parameters(), max_norm))

    def settle(self) -> None:
        for module in self.model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()
