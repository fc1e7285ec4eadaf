"""CUDA graphs: work that never changes, captured once and replayed without Python between its kernels."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tunesmith.utils.device import CAPTURE_LOCK

WARMUP_CALLS = 2
"""Kernels are chosen and workspaces made before a capture."""


class CUDAGraphRecorder:
    """Captures CUDA graphs that share their memory and are never replayed at once.

    Warm-ups and captures have a stream of their own, and no other recorder's: cuBLAS keeps a workspace for each stream,
    which torch frees when a graph dies that was captured there (pytorch #193402). So all graphs of a recorder have to
    be dropped together.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def capture_cuda_graph(self, work: Callable[[], None], state: Sequence[Tensor]) -> Callable[[], None]:
        """Capture work as a graph and return its replay; the work has not been done when this returns.

        Args:
            work: reads and writes tensors whose addresses never change, all on the device.
            state: what it reads and writes; restored after the warm-up.
        """
        with CAPTURE_LOCK, torch.cuda.device(self._device):  # one capture at a time in a process
            before = [tensor.clone() for tensor in state]
            self._stream.wait_stream(torch.cuda.current_stream(self._device))
            with torch.cuda.stream(self._stream):
                for _ in range(WARMUP_CALLS):
                    work()
                    for tensor, saved in zip(state, before, strict=True):
                        tensor.copy_(saved)
            torch.cuda.current_stream(self._device).wait_stream(self._stream)
            graph = torch.cuda.CUDAGraph()
            capture = torch.cuda.graph(
                graph,
                pool=self._pool,
                stream=self._stream,
                capture_error_mode="thread_local",  # other threads may use the GPU meanwhile
            )
            with capture:
                work()
        return graph.replay
