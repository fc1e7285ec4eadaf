"""Tensors of which each process holds a part (torch's DTensor), read and written whole; ordinary ones pass through.

Known by what they can do: their class takes a while to import, and most runs have none.
"""

from typing import Any

import torch
from torch import Tensor


def own_part(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor."""
    to_local: Any = getattr(tensor, "to_local", None)
    local: Tensor = tensor if to_local is None else to_local()
    return local


def is_part(tensor: Tensor) -> bool:
    """Whether this process holds a part of it only."""
    return hasattr(tensor, "to_local")


@torch.no_grad()
def whole(tensor: Tensor) -> Tensor:
    """All parts of a tensor together; every process has to ask."""
    full_tensor: Any = getattr(tensor, "full_tensor", None)
    full: Tensor = tensor if full_tensor is None else full_tensor()
    return full


def dealt_like(live: Tensor, values: Tensor) -> Tensor:
    """The first process's values, dealt as a live tensor is; what others give is only of the same shape."""
    if not is_part(live):
        return values.to(live.device, live.dtype).clone()
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(live, DTensor)
    return distribute_tensor(values.to(live.to_local().device, live.dtype), live.device_mesh, live.placements)
