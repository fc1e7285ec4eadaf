"""Work that is always the same, recorded once on a GPU and played again without Python between its kernels."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tunesmith.utils.device import CAPTURE_LOCK

WARM_UPS = 2
"""Kernels are chosen and workspaces made before anything is recorded."""


class Recorder:
    """Records CUDA graphs (torch.cuda.CUDAGraph) that share their memory and are never played at once.

    Warm-ups and captures have a stream of their own, and no other recorder's: cuBLAS keeps a workspace for each stream,
    which torch frees when a graph dies that was captured there (pytorch #193402). So all graphs of a recorder have to
    go together.

    Args:
        device: the GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def captured(self, work: Callable[[], None], changes: Sequence[Tensor]) -> Callable[[], None]:
        """The same work as a graph; it has not been done when this returns.

        Args:
            work: reads and writes tensors that stay where they are, all on the device.
            changes: what it writes and reads again; they are given back as they were.
        """
        with CAPTURE_LOCK, torch.cuda.device(self._device):  # one capture at a time in a process
            before = [tensor.clone() for tensor in changes]
            self._stream.wait_stream(torch.cuda.current_stream(self._device))
            with torch.cuda.stream(self._stream):
                for _ in range(WARM_UPS):
                    work()
                    for tensor, kept in zip(changes, before, strict=True):
                        tensor.copy_(kept)
            torch.cuda.current_stream(self._device).wait_stream(self._stream)
            graph = torch.cuda.CUDAGraph()
            recording = torch.cuda.graph(
                graph,
                pool=self._pool,
                stream=self._stream,
                capture_error_mode="thread_local",  # other threads may use the GPU meanwhile
            )
            with recording:
                work()
        return graph.replay
