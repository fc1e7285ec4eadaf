"""Access to sharded tensors (torch's DTensor) and ordinary ones alike, without importing the DTensor class."""

from typing import Any

import torch
from torch import Tensor


def is_dtensor(tensor: Tensor) -> bool:
    """Return whether this process has only its shard of a tensor."""
    return hasattr(tensor, "to_local")


def local_tensor(tensor: Tensor) -> Tensor:
    """Return this process's shard of a tensor; an ordinary tensor itself."""
    sharded: Any = tensor
    local: Tensor = sharded.to_local() if is_dtensor(tensor) else tensor
    return local


@torch.no_grad()
def full_tensor(tensor: Tensor) -> Tensor:
    """Gather all shards of a tensor; every process has to call it."""
    sharded: Any = tensor
    full: Tensor = sharded.full_tensor() if is_dtensor(tensor) else tensor
    return full


def distribute_like(reference: Tensor, values: Tensor) -> Tensor:
    """Shard the main process's values as `reference` is sharded; of the other processes only the shape counts."""
    if not is_dtensor(reference):
        return values.to(reference.device, reference.dtype).clone()
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(reference, DTensor)
    local = values.to(reference.to_local().device, reference.dtype)
    return distribute_tensor(local, reference.device_mesh, reference.placements)
