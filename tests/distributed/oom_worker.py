"""`tunesmith train` in one of several processes; the last one runs out of memory in its third step, but not again.

Started by torch's launcher in `test_launcher.py`.
"""

import os
import sys

import torch
from torch import Tensor

from tunesmith.cli import main
from tunesmith.distributed.fsdp import FSDPStrategy

reduce_loss = FSDPStrategy.reduce_loss
calls = 0


def reduce_loss_without_memory(strategy: FSDPStrategy, loss_sum: Tensor) -> Tensor:
    """Fail in the third step, before the others are answered."""
    global calls  # noqa: PLW0603
    calls += 1
    if calls == 3:
        message = "CUDA out of memory. Tried to allocate 1.00 GiB."
        raise torch.OutOfMemoryError(message)
    return reduce_loss(strategy, loss_sum)


if __name__ == "__main__":
    is_last = int(os.environ["RANK"]) == int(os.environ["WORLD_SIZE"]) - 1
    if is_last and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        FSDPStrategy.reduce_loss = reduce_loss_without_memory  # type: ignore[method-assign]
    sys.exit(main(sys.argv[1:]))
