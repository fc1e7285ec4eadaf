"""Collectives of the processes that train together; a single process has the trivial ones. Imports torch when used."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tunesmith.distributed.env import TorchrunEnv
from tunesmith.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


class PeerLostError(UserError):
    """Another process has ended, or takes part in no collective any more."""


class AlreadyReportedError(Exception):
    """The training ended with an error that another process reports to the user."""


class World:
    """A single process: every collective returns what it was given."""

    rank = 0
    size = 1
    local_rank = 0
    local_size = 1

    @property
    def is_main_process(self) -> bool:
        """Whether this process writes files and prints for all of them."""
        return self.rank == 0

    def broadcast_object(self, make: Callable[[], Any]) -> Any:  # noqa: ANN401
        """Return what the main process makes, in every process."""
        return make()

    def all_gather_object(self, value: Any) -> list[Any]:  # noqa: ANN401
        """Return the values of all processes, by rank."""
        return [value]

    def gather_object(self, value: Any) -> list[Any]:  # noqa: ANN401
        """Return the values of all processes, by rank, in the main process; an empty list in the others."""
        return [value]

    @contextmanager
    def main_process_first(self) -> Iterator[None]:
        """Let the first process of each host do something before the others, which find it cached."""
        yield

    def barrier(self) -> None:
        """Wait for all processes."""

    def all_reduce_max(self, number: int) -> int:
        """Return the largest of all processes' numbers."""
        return number

    def all_reduce_array(self, array: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Sum an array over all processes."""
        return array

    def all_reduce_(self, tensor: "Tensor") -> "Tensor":
        """Sum a tensor over all processes, in place; does not wait for a GPU."""
        return tensor

    def broadcast_(self, tensor: "Tensor") -> None:
        """Overwrite a tensor with the main process's values."""


SINGLE_PROCESS = World()


class DistributedWorld(World):
    """One of several processes, in torch's default process group."""

    def __init__(self, env: TorchrunEnv) -> None:
        self.rank, self.size = env.rank, env.world_size
        self.local_rank, self.local_size = env.local_rank, env.local_world_size

    def broadcast_object(self, make: Callable[[], Any]) -> Any:  # noqa: ANN401
        import torch
        import torch.distributed as dist

        values = [make() if self.is_main_process else None]
        dist.broadcast_object_list(values, 0, device=torch.device("cpu"))
        return values[0]

    def all_gather_object(self, value: Any) -> list[Any]:  # noqa: ANN401
        import torch.distributed as dist

        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def gather_object(self, value: Any) -> list[Any]:  # noqa: ANN401
        import torch.distributed as dist

        values: list[Any] = [None] * self.size if self.is_main_process else []
        dist.gather_object(value, values or None, dst=0)
        return values

    @contextmanager
    def main_process_first(self) -> Iterator[None]:
        if self.local_rank:
            self.barrier()
        yield
        if not self.local_rank:
            self.barrier()

    def barrier(self) -> None:
        self.all_reduce_max(0)  # on the CPU: `dist.barrier` would wait for the GPU, too

    def all_reduce_max(self, number: int) -> int:
        import torch
        import torch.distributed as dist

        tensor = torch.tensor(number)
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return int(tensor)

    def all_reduce_array(self, array: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        import torch

        return self.all_reduce_(torch.from_numpy(array)).numpy()

    def all_reduce_(self, tensor: "Tensor") -> "Tensor":
        import torch.distributed as dist

        dist.all_reduce(tensor)
        return tensor

    def broadcast_(self, tensor: "Tensor") -> None:
        import torch
        import torch.distributed as dist

        sent = tensor.detach().contiguous()
        dist.broadcast(sent.reshape(-1).view(torch.uint8), 0)  # not every backend knows every dtype
        if sent.data_ptr() != tensor.data_ptr():
            tensor.detach().copy_(sent)
