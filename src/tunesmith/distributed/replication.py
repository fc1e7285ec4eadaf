"""Every process holds the whole model; gradients are summed while the last micro-batch's backward pass runs (DDP).

torch's `DistributedDataParallel` waits for ever for a process whose memory ran out in the middle of a step. So it is
told here how a bucket of gradients travels (`register_comm_hook`): such a process knows which buckets it still owes the
others, lets zeros travel in their place, and then all of them agree to make the step again.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from tunesmith.distributed.engine import Engine
from tunesmith.distributed.team import ManyProcesses
from tunesmith.errors import UserError
from tunesmith.model.attention import PackedLayout, attention_for
from tunesmith.model.compile import eager_mode
from tunesmith.model.gpt2 import GPT2
from tunesmith.utils.oom import is_out_of_memory

T = TypeVar("T")

REHEARSALS = 2
"""Behind the first backward pass torch puts gradients into other buckets, in the order in which they came."""


class _Travel:
    """How buckets travel: summed over all processes, in the same order everywhere."""

    def __init__(self) -> None:
        self.is_rehearsal = True
        self._buckets: list[Tensor] = []
        self._sent = 0

    def begin(self) -> None:
        """Nothing of a step has travelled."""
        self._sent = 0
        if self.is_rehearsal:
            self._buckets = []

    def send(self, bucket: dist.GradBucket) -> Future[Tensor]:  # type: ignore[name-defined]
        """Let a bucket travel; in a rehearsal only note what it is like."""
        if self.is_rehearsal:
            self._buckets.append(bucket.buffer())
            stays: Future[Tensor] = Future()
            stays.set_result(bucket.buffer())
            return stays
        self._sent += 1
        work = dist.all_reduce(bucket.buffer(), async_op=True)
        assert work is not None
        summed: Future[Tensor] = work.get_future().then(lambda future: future.value()[0])
        return summed

    def owed(self) -> Iterator[Tensor]:
        """Zeros for each bucket that has not travelled."""
        while self._sent < len(self._buckets):
            self._sent += 1
            yield torch.zeros_like(self._buckets[self._sent - 1])


def _send(travel: _Travel, bucket: dist.GradBucket) -> Future[Tensor]:  # type: ignore[name-defined]
    return travel.send(bucket)


class ReplicatedEngine(Engine):
    """One of several processes that hold the same model.

    Its parameters stay where they are and keep their names: torch's wrapper is called while training, and nothing else
    knows of it. Gradients lie in its buckets, so that they take no memory twice. A step is: the buckets, the sum of the
    nats, and the agreement that memory sufficed.

    Args:
        model: with the same weights everywhere, in the form in which they are kept.
        team: all processes.
    """

    def __init__(self, model: GPT2, team: ManyProcesses) -> None:
        super().__init__(model)
        self._team = team
        self._behind: Literal["nothing", "sum", "agreement", "refusal"] = "nothing"
        self._wrap()

    def _wrap(self) -> None:
        """Begin with new buckets, all processes together."""
        self.call = None  # the hooks of a wrapper before go with it
        for parameter in self.model.parameters():
            parameter.grad = None
        self._travel = _Travel()
        self._wrapped = DistributedDataParallel(
            self.model,
            init_sync=False,  # weights are spread together with the optimizer's state
            gradient_as_bucket_view=True,
        )
        self._wrapped.register_comm_hook(self._travel, _send)
        self._rehearse()
        self.call = self._wrapped

    def _rehearse(self) -> None:
        """Backward passes of one token, until gradients lie in the buckets in which they will stay."""
        device = self.model.head_VC.device
        attend = attention_for(PackedLayout.of((0, 1)), self.model)
        was_training = self.model.training
        self.model.eval()
        with eager_mode(self.model):
            for _ in range(REHEARSALS):
                self._travel.begin()
                zero_N = torch.zeros(1, dtype=torch.int64, device=device)
                hidden_NC = self._wrapped(zero_N, zero_N, lambda _layer: attend)
                self.model.logits(hidden_NC).sum().backward()
        self.model.train(was_training)
        for parameter in self.model.parameters():
            parameter.grad = None
        self._travel.is_rehearsal = False

    def attempt(self, step: Callable[[], T]) -> T:
        self._behind = "nothing"
        self._travel.begin()
        result = _unless_out_of_memory(step)
        if result is not None:
            return result[0]
        self._take_part_in_the_rest()
        self._wrap()
        raise torch.OutOfMemoryError

    @contextmanager
    def micro_batch(self, *, is_last: bool) -> Iterator[None]:
        with nullcontext() if is_last else self._wrapped.no_sync():
            yield

    def summed(self, nats: Tensor) -> Tensor:
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
            for zeros in self._travel.owed():
                self._team.sum_on_device(zeros)
            self.summed(torch.zeros((), device=self.model.head_VC.device))
        if self._behind == "sum":
            _unless_out_of_memory(lambda: self.agree(sufficed=False))


def _unless_out_of_memory(work: Callable[[], T]) -> tuple[T] | None:
    """What came of it; None where memory ran out: nobody holds any more what had been made by then."""
    try:
        return (work(),)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return None
