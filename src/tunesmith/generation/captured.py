"""Work that is always the same, recorded once on a card and played again without Python between its kernels."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Pool = tuple[int, int]
"""Memory that several recordings share which are never played at once."""

WARM_UPS = 2
"""Kernels are chosen and workspaces made before anything is recorded."""


def captured(work: Callable[[], None], changes: Sequence[Tensor], pool: Pool) -> Callable[[], None]:
    """The same work as a CUDA graph (torch.cuda.CUDAGraph) on the current card; it has not been done when this returns.

    Args:
        work: reads and writes tensors that stay where they are, all on that card.
        changes: what it writes and reads again; they are given back as they were.
        pool: where what it computes in between lies (torch.cuda.graph_pool_handle).
    """
    before = [tensor.clone() for tensor in changes]
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for _ in range(WARM_UPS):
            work()
            for tensor, kept in zip(changes, before, strict=True):
                tensor.copy_(kept)
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    recording = torch.cuda.graph(
        graph,
        pool=pool,  # type: ignore[arg-type]  # of a private type
        capture_error_mode="thread_local",  # other threads may use the card meanwhile
    )
    with recording:
        work()
    return graph.replay
