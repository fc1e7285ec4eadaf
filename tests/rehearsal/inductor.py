"""Run what inductor generates on fake CUDA tensors: its wrapper is Python, and only its Triton kernels are left out.

The wrapper allocates, reuses and drops buffers as it would on a GPU, so bytes and launches are those of compiled code.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import triton
from backend import CAPABILITY
from triton.backends.compiler import GPUTarget
from watch import Watch

PREFIX = "inductor "
"""Of the names under which its kernels' launches are counted."""


class _Kernel:
    """In the place of a Triton kernel: its launches are told, and nothing runs."""

    def __init__(self, name: str, launched: Callable[[str, list[Any]], None]) -> None:
        self._name, self._launched = f"{PREFIX}{name}", launched

    def run(self, *arguments: Any, **_: Any) -> None:
        self._launched(self._name, [it for it in arguments if isinstance(it, torch.Tensor)])


class _Driver:
    """In the place of Triton's for CUDA."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", CAPABILITY[0] * 10 + CAPABILITY[1], 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, _device: int = 0) -> int:
        return 0

    def get_device_interface(self) -> Any:
        return torch.cuda


@cache
def prepare(watch: Watch) -> None:
    """Let `torch.compile` work for the GPU that is not there."""
    import torch._inductor.config as settings
    from torch._dynamo.callback import callback_handler
    from torch._inductor.async_compile import AsyncCompile
    from torch._inductor.utils import is_big_gpu

    settings.compile_threads = 1
    settings.force_disable_caches = True

    def keep(_self: Any, name: str, _source: str, *_: Any, **__: Any) -> _Kernel:
        return _Kernel(name, watch.launched)

    triton.runtime.driver.set_active(_Driver())
    AsyncCompile.triton = keep
    AsyncCompile.wait = lambda _self, _scope: None
    torch._C._cuda_getCurrentRawStream = lambda _index: 0
    torch._C._dynamo.guards._empty_strided_cuda = _empty
    torch._C._dynamo.guards._reinterpret_tensor = _reinterpreted
    is_big_gpu.cache_clear()
    callback_handler.register_start_callback(lambda _: watch.pause())
    callback_handler.register_end_callback(lambda _: watch.go_on())


def _empty(size: Any, stride: Any, dtype: torch.dtype) -> torch.Tensor:
    return torch.empty_strided(size, stride, dtype=dtype, device="cuda")


def _reinterpreted(tensor: torch.Tensor, size: Any, stride: Any, offset: int = 0) -> torch.Tensor:
    return torch.as_strided(tensor, size, stride, tensor.storage_offset() + offset)
