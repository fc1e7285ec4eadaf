"""Every process holds the whole model; gradients are averaged while the last micro-batch's backward pass runs (DDP)."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from tunesmith.distributed.engine import Engine
from tunesmith.distributed.team import Team
from tunesmith.model.gpt2 import GPT2


class ReplicatedEngine(Engine):
    """One of several processes that hold the same model.

    Its parameters stay where they are and keep their names: torch's wrapper is called while training, and nothing else
    knows of it. Gradients lie in its buckets, so that they take no memory twice.

    Args:
        model: with the same weights everywhere.
        team: all processes.
    """

    def __init__(self, model: GPT2, team: Team) -> None:
        super().__init__(model)
        self._team = team
        self._wrapped = DistributedDataParallel(
            model,
            init_sync=False,  # weights are spread together with the optimizer's state
            gradient_as_bucket_view=True,
        )
        self.call = self._wrapped
        self.loss_factor = team.size

    @contextmanager
    def micro_batch(self, *, is_last: bool) -> Iterator[None]:
        with nullcontext() if is_last else self._wrapped.no_sync():
            yield

    def summed(self, nats: Tensor) -> Tensor:
        return self._team.sum_on_device(nats)
