"""The processes of one training as one object; a run of a single process has the trivial one.

What is rare and small (plans, fingerprints, "I am done") goes through the store that all of them meet at, as JSON;
what every step needs through the process group. Both wait for those who are slow, and not for those who are gone
(`tunesmith.distributed.pulse`).
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tunesmith.distributed.lost import lost
from tunesmith.distributed.place import Place
from tunesmith.distributed.pulse import FAILED, Pulse
from tunesmith.utils.files import to_json

if TYPE_CHECKING:
    from torch import Tensor
    from torch._C._distributed_c10d import Store, Work

PATIENCE = timedelta(minutes=30)
"""With a process that lives, and does not come to a reduction: its host may be much slower."""
PIECE = 1 << 20
"""Characters of a long text that the store takes at once."""
GLANCE = timedelta(seconds=2)
"""Between two looks whether waiting still makes sense."""


class Team:
    """A training by one process alone.

    Attributes:
        rank: this process's number.
        size: how many there are.
        local_rank: this process's number on its host.
        local_size: how many there are on its host.
    """

    rank = 0
    size = 1
    local_rank = 0
    local_size = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes and speaks for all."""
        return self.rank == 0

    def share(self, make: Callable[[], Any]) -> Any:  # noqa: ANN401  whatever JSON holds
        """What the first process makes, for all of them."""
        return make()

    def gather(self, value: Any) -> list[Any]:  # noqa: ANN401
        """What every process says, by rank."""
        return [value]

    def collect(self, value: Any) -> list[Any]:  # noqa: ANN401
        """What every process says, by rank, for the first one; it may be much. The others get nothing."""
        return [value]

    @contextmanager
    def one_after_the_other(self, _what: str) -> Iterator[None]:
        """Something that the first process of each host does before the others, who find it done."""
        yield

    def wait_for_first(self) -> None:
        """Until the first process has written what only it writes."""

    def largest(self, number: int) -> int:
        """Of the numbers that all processes say."""
        return number

    def sum_on_host(self, numbers: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Of all processes, element by element."""
        return numbers

    def sum_on_device(self, tensor: "Tensor") -> "Tensor":
        """Of all processes, in place, without waiting for the device."""
        return tensor

    def receive(self, _tensor: "Tensor") -> None:
        """Take over the first process's values, in place."""


ALONE = Team()


class ManyProcesses(Team):
    """One of several processes.

    Args:
        place: which one.
        store: that all of them reach.
        pulse: by which they know of each other that they live.
    """

    def __init__(self, place: Place, store: "Store", pulse: Pulse) -> None:
        self.rank, self.size = place.rank, place.size
        self.local_rank, self.local_size = place.local_rank, place.local_size
        self._node = place.node
        self._store = store
        self._pulse = pulse
        self._said = 0

    def share(self, make: Callable[[], Any]) -> Any:  # noqa: ANN401
        key = self._next_key("share")
        if self.leads:
            self._store.set(key, to_json(make()))
        return self._read(key)

    def gather(self, value: Any) -> list[Any]:  # noqa: ANN401
        key = self._next_key("gather")
        self._store.set(f"{key}/{self.rank}", to_json(value))
        return [self._read(f"{key}/{rank}") for rank in range(self.size)]

    def collect(self, value: Any) -> list[Any]:  # noqa: ANN401
        key = self._next_key("collect")
        if self.leads:
            return [value, *(json.loads(self._taken(f"{key}/{rank}")) for rank in range(1, self.size))]
        text = to_json(value)
        pieces = [text[first : first + PIECE] for first in range(0, len(text), PIECE)]
        for number, piece in enumerate(pieces):
            self._store.set(f"{key}/{self.rank}/{number}", piece)
        self._store.set(f"{key}/{self.rank}", to_json(len(pieces)))
        return []

    @contextmanager
    def one_after_the_other(self, what: str) -> Iterator[None]:
        key = f"{self._next_key(what)}/{self._node}"
        if self.local_rank:
            self._read(key)
        yield
        if not self.local_rank:
            self._store.set(key, "null")

    def wait_for_first(self) -> None:
        self.share(lambda: None)

    def largest(self, number: int) -> int:
        import torch
        import torch.distributed as dist

        tensor = torch.tensor(number)
        self.wait_for(dist.all_reduce(tensor, dist.ReduceOp.MAX, async_op=True), tensor)
        return int(tensor)

    def sum_on_host(self, numbers: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        import torch

        return self.sum_on_device(torch.from_numpy(numbers)).numpy()

    def sum_on_device(self, tensor: "Tensor") -> "Tensor":
        import torch.distributed as dist

        self.wait_for(dist.all_reduce(tensor, async_op=True), tensor)
        return tensor

    def receive(self, tensor: "Tensor") -> None:
        import torch
        import torch.distributed as dist

        sent = tensor.detach().contiguous()
        sent_bytes = sent.reshape(-1).view(torch.uint8)  # not every backend knows every dtype
        self.wait_for(dist.broadcast(sent_bytes, 0, async_op=True), sent)
        if sent.data_ptr() != tensor.data_ptr():
            tensor.detach().copy_(sent)

    def wait_for(self, work: "Work | None", tensor: "Tensor") -> None:
        """Until a reduction of a tensor is done; on a card its stream waits instead.

        Raises:
            LostError: if one of the processes has ended, or says nothing any more.
        """
        self._pulse.wait_for(work, tensor)

    def claim_failure(self) -> bool:
        """Whether this process is the first to fail, and so the one to tell the user."""
        return self._store.compare_set(FAILED, "", str(self.rank)) == str(self.rank).encode()

    def _next_key(self, what: str) -> str:
        """All processes say the same things in the same order, so that a number names each of them."""
        self._said += 1
        return f"{what}/{self._said}"

    def _taken(self, key: str) -> str:
        """A long text that another process left in pieces."""
        pieces = [f"{key}/{number}" for number in range(self._read(key))]

        def take() -> str:
            text = "".join(self._store.get(piece).decode() for piece in pieces)
            for piece in pieces:
                self._store.delete_key(piece)
            return text

        return self._pulse.asked(take)

    def _read(self, key: str) -> Any:  # noqa: ANN401
        return self._pulse.asked(lambda: self._read_from_store(key))

    def _read_from_store(self, key: str) -> Any:  # noqa: ANN401
        import torch.distributed as dist

        while True:
            try:
                self._store.wait([key], GLANCE)
                return json.loads(self._store.get(key))
            except dist.DistStoreError:  # not said yet
                if self._store.check([FAILED]):
                    raise lost() from None
