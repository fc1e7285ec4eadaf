"""Load the fake CUDA backend and give `torch.cuda` the answers of a GPU that is not there.

`load` comes before the first import of torch, `pretend` before that of the package's kernels. Both are for a
child process: nothing here can be undone.
"""

import contextlib
import ctypes
import importlib.util
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

CAPABILITY = (8, 9)
TOTAL_BYTES, FREE_BYTES = 12 << 30, int(11.55 * (1 << 30))


def load(library: str) -> None:
    """Register the backend: torch looks for one when it first asks for CUDA."""
    spec = importlib.util.find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "lib"
    for name in ("libc10.so", "libtorch_cpu.so"):
        ctypes.CDLL(str(folder / name), ctypes.RTLD_GLOBAL)
    ctypes.CDLL(library, ctypes.RTLD_GLOBAL)


class FakeStream:
    """In the place of `torch.cuda.Stream`."""

    def __init__(self, device: Any = None, *_: Any, **__: Any) -> None:
        self.device, self.cuda_stream = device, 0

    def wait_stream(self, stream: Any) -> None:
        """Nothing is late here."""

    def wait_event(self, event: Any) -> None:
        """Likewise."""

    def synchronize(self) -> None:
        """Likewise."""

    def record_event(self, event: Any = None) -> Any:
        return event or FakeEvent()


class FakeEvent:
    """In the place of `torch.cuda.Event`."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def record(self, stream: Any = None) -> None:
        """Nothing to remember."""

    def wait(self, stream: Any = None) -> None:
        """Nothing to wait for."""

    def synchronize(self) -> None:
        """Likewise."""

    def query(self) -> bool:
        return True


class FakeGraph:
    """In the place of `torch.cuda.CUDAGraph`."""

    def replay(self) -> None:
        """Fake tensors do not change."""


@contextlib.contextmanager
def _nothing(*_: Any, **__: Any) -> Iterator[None]:
    yield


def pretend(launched: Callable[[str, list[Any]], None]) -> None:
    """Answer for the GPU.

    Args:
        launched: told of each launch of a Triton kernel, with its tensors.
    """
    import numpy as np
    import torch
    import triton
    from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

    properties = SimpleNamespace(
        name="NVIDIA GeForce RTX 4070 Ti",
        major=CAPABILITY[0],
        minor=CAPABILITY[1],
        total_memory=TOTAL_BYTES,
        multi_processor_count=60,
        warp_size=32,
        regs_per_multiprocessor=65_536,
        max_threads_per_multi_processor=1536,
        max_threads_per_block=1024,
        shared_memory_per_block=49_152,
        shared_memory_per_block_optin=101_376,
        shared_memory_per_multiprocessor=102_400,
        L2_cache_size=48 << 20,
        gcnArchName="",
        uuid="0",
    )
    answers = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "device_count": lambda: 2,
        "current_device": lambda: 0,
        "get_device_capability": lambda _device=None: CAPABILITY,
        "get_device_name": lambda _device=None: properties.name,
        "get_device_properties": lambda _device=None: properties,
        "is_bf16_supported": lambda *_, **__: True,
        "mem_get_info": lambda _device=None: (FREE_BYTES, TOTAL_BYTES),
        "synchronize": lambda _device=None: None,
        "set_device": lambda _device: None,
        "empty_cache": lambda: None,
        "current_stream": FakeStream,
        "default_stream": FakeStream,
        "Stream": FakeStream,
        "Event": FakeEvent,
        "CUDAGraph": FakeGraph,
        "stream": _nothing,
        "device": _nothing,
        "device_of": _nothing,
        "graph": _nothing,
        "graph_pool_handle": lambda: (0, 0),
        "_lazy_init": lambda: None,
        "get_rng_state": lambda _device="cuda": torch.zeros(16, dtype=torch.uint8, device="cpu"),
        "set_rng_state": lambda _state, _device="cuda": None,
        "_exchange_device": lambda _index: 0,
        "_maybe_exchange_device": lambda _index: 0,
    }
    for name, answer in answers.items():
        setattr(torch.cuda, name, answer)
    torch.backends.cuda.is_flash_attention_available = lambda: True
    FakeTensorMode.avoid_device_init = property(lambda _self: True)
    # what the host reads of fakes: zeros
    FakeTensor.numpy = lambda self, **_: np.zeros(tuple(self.shape), str(self.dtype).removeprefix("torch."))
    FakeTensor.tolist = lambda self: np.zeros(tuple(self.shape)).tolist()
    FakeTensor.record_stream = lambda _self, _stream: None
    torch.nn.functional.scaled_dot_product_attention = _fused_attention
    ThreadPoolExecutor.submit = _done_at_once  # fakes are for one thread
    from tunesmith import backends

    backends._launch_one_kernel = lambda _index: None
    triton.jit = lambda function=None, **_: _recorded(function, launched) if function else triton.jit


def _done_at_once(_pool: Any, work: Callable[..., Any], /, *arguments: Any, **named: Any) -> "Future[Any]":
    future: Future[Any] = Future()
    future.set_result(work(*arguments, **named))
    return future


def _fused_attention(
    query: Any, key: Any, value: Any, attn_mask: Any = None, *, is_causal: bool = False, scale: float | None = None
) -> Any:
    """The kernel that torch takes on a GPU; without one it would take products of all with all."""
    import torch

    ops, settings = torch.ops.aten, {"is_causal": is_causal, "scale": scale}
    if attn_mask is None and query.dtype != torch.float32:
        return ops._scaled_dot_product_flash_attention(query, key, value, **settings)[0]
    if attn_mask is not None:
        attn_mask = attn_mask.expand(*query.shape[:-1], key.shape[-2])
    is_trained = any(it.requires_grad for it in (query, key, value))
    return ops._scaled_dot_product_efficient_attention(query, key, value, attn_mask, is_trained, **settings)[0]


def _recorded(function: Callable[..., Any], launched: Callable[[str, list[Any]], None]) -> Any:
    """In the place of a kernel: `kernel[grid](...)` is told, and nothing runs."""
    import torch

    def launch(*arguments: Any, **named: Any) -> None:
        tensors = [it for it in (*arguments, *named.values()) if isinstance(it, torch.Tensor)]
        launched(f"triton {function.__module__.rpartition('.')[2]}", tensors)

    class Kernel:
        def __getitem__(self, _grid: Any) -> Callable[..., None]:
            return launch

    return Kernel()
