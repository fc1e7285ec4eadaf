"""Every process holds the whole model; gradients are summed while the last micro-batch's backward pass runs.

What torch's `DistributedDataParallel` does, but for one thing: a process whose memory runs out in the middle of a step
still takes part in all that is left of it, so that nobody waits in vain, and then all of them make the step again.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tunesmith.distributed.engine import Engine
from tunesmith.distributed.team import ManyProcesses
from tunesmith.errors import UserError
from tunesmith.model.gpt2 import GPT2
from tunesmith.out_of_memory import is_out_of_memory

T = TypeVar("T")

BUCKET_BYTES = 25 * 2**20
"""Of gradients that travel together: what torch takes."""


class _Bucket:
    """Gradients that lie side by side, and travel when the last of them is there."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.parameters, first = parameters, parameters[0]
        self.flat = torch.zeros(sum(p.numel() for p in parameters), dtype=first.dtype, device=first.device)
        parts = self.flat.split([parameter.numel() for parameter in parameters])
        self._places = {p: part.view(p.shape) for p, part in zip(parameters, parts, strict=True)}
        self._missing: set[nn.Parameter] = set()

    def begin(self) -> None:
        """Have all gradients summed up here, from 0."""
        self.flat.zero_()
        self._missing = set(self._places)
        for parameter, place in self._places.items():
            parameter.grad = place

    def take(self, parameter: nn.Parameter) -> None:
        """A gradient is complete; what made it may have put it elsewhere."""
        place = self._places[parameter]
        assert parameter.grad is not None
        if parameter.grad.data_ptr() != place.data_ptr():
            place.copy_(parameter.grad)
            parameter.grad = place
        self._missing.discard(parameter)

    @property
    def is_complete(self) -> bool:
        return not self._missing


class ReplicatedEngine(Engine):
    """One of several processes that hold the same model.

    Gradients lie in buckets for good, in the order in which a backward pass makes them, and travel in this order
    everywhere. A step is: the buckets, the sum of the nats, and the agreement that memory sufficed.

    Args:
        model: with the same weights everywhere, in the form in which they are kept.
        team: all processes.
    """

    def __init__(self, model: GPT2, team: ManyProcesses) -> None:
        super().__init__(model)
        self._team = team
        learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._buckets = [_Bucket(parameters) for parameters in _in_buckets(learned[::-1])]
        self._bucket_of = {parameter: bucket for bucket in self._buckets for parameter in bucket.parameters}
        self._sent: list[tuple[dist.Work | None, Tensor]] = []
        self._is_last = False
        self._behind: Literal["nothing", "sum", "agreement", "refusal"] = "nothing"
        for parameter in learned:
            parameter.register_post_accumulate_grad_hook(self._made)

    def attempt(self, step: Callable[[], T]) -> T:
        self._sent, self._behind = [], "nothing"
        result = _unless_out_of_memory(step)
        if result is not None:
            return result[0]
        self._take_part_in_the_rest()
        raise torch.OutOfMemoryError

    def begin(self) -> None:
        self._sent, self._is_last, self._behind = [], False, "nothing"
        for bucket in self._buckets:
            bucket.begin()

    @contextmanager
    def micro_batch(self, *, is_last: bool) -> Iterator[None]:
        self._is_last = is_last
        yield

    def summed(self, nats: Tensor) -> Tensor:
        self._is_last = False
        self._send(len(self._buckets))
        for work, flat in self._sent:
            self._team.wait_for(work, flat)
        self._behind = "sum"
        return self._team.sum_on_device(nats)

    def agree(self, *, sufficed: bool = True) -> None:
        self._behind = "agreement"
        if self._team.largest(int(not sufficed)):
            self._behind = "refusal"
            raise torch.OutOfMemoryError

    def _take_part_in_the_rest(self) -> None:
        """Of a step of which nobody will use anything."""
        if self._behind == "agreement":
            raise UserError(
                "memory ran out in the middle of an update that had begun",
                hint="free memory and continue from the last checkpoint with --resume",
            )
        if self._behind == "nothing":
            self.summed(torch.zeros((), device=self.model.head_VC.device))
        if self._behind == "sum":
            _unless_out_of_memory(lambda: self.agree(sufficed=False))

    def _made(self, parameter: nn.Parameter) -> None:
        """A parameter's gradient of a micro-batch is there."""
        if not self._is_last:
            return
        self._bucket_of[parameter].take(parameter)
        complete = len(self._sent)
        while complete < len(self._buckets) and self._buckets[complete].is_complete:
            complete += 1
        self._send(complete)

    def _send(self, until: int) -> None:
        """Let the next buckets travel, in their order."""
        for bucket in self._buckets[len(self._sent) : until]:
            self._sent.append((dist.all_reduce(bucket.flat, async_op=True), bucket.flat))


def _in_buckets(parameters: list[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Neighbours of one kind that are not too much together."""
    together: list[nn.Parameter] = []
    for parameter in parameters:
        size = sum(one.nbytes for one in together) + parameter.nbytes
        if together and (size > BUCKET_BYTES or parameter.dtype != together[0].dtype):
            yield together
            together = []
        together.append(parameter)
    if together:
        yield together


def _unless_out_of_memory(work: Callable[[], T]) -> tuple[T] | None:
    """What came of it; None where memory ran out: nobody holds any more what had been made by then."""
    try:
        return (work(),)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return None
