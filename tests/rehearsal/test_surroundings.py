"""What surrounds the arithmetic on a GPU: which GPU, whose memory, which threads; with stand-ins for CUDA."""

import ast
import contextlib
import importlib.util
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import tunesmith
from tunesmith.config import TrainConfig
from tunesmith.distributed.launcher import device_for
from tunesmith.distributed.world import SINGLE_PROCESS
from tunesmith.doctor.preflight import check_device
from tunesmith.errors import UserError
from tunesmith.generation.async_decode import AsyncDecoder, CUDAGraphRecorder
from tunesmith.generation.engine import Engine
from tunesmith.generation.loading import max_batch_size
from tunesmith.model.hf_checkpoint import load_gpt2
from tunesmith.optim.cpu_offload_adamw import CPUOffloadAdamW
from tunesmith.optim.low_bit_adamw import AdamWHyperparams
from tunesmith.optim.state_format import STATE_FORMATS
from tunesmith.planning.hardware import CONTEXT_BYTES, GIB, detect_hardware
from tunesmith.training.anomalies import SysmemFallbackDetector, memory_limit
from tunesmith.training.nonfinite import NonFiniteMonitor, Recovery
from tunesmith.training.state import TrainState
from tunesmith.utils import device
from tunesmith.utils.device import gpu_uuid, peak_memory_bytes, resolve_device, use_device
from tunesmith.utils.oom import free_memory, is_out_of_memory

PACKAGE = Path(tunesmith.__file__).parent
GPU_0, GPU_1 = torch.device("cuda", 0), torch.device("cuda", 1)
NAMES = ("NVIDIA GeForce RTX 2080", "NVIDIA GeForce RTX 4070 Ti")
CAPABILITIES = ((7, 5), (8, 9))
TOTAL_BYTES = (8 * GIB, 12 * GIB)


class FakeCuda:
    """Two GPUs: the first is a Turing, the second an Ada. Memory is counted, and who is the current one, per thread."""

    def __init__(self) -> None:
        self._here = threading.local()
        self.calls: list[tuple[Any, ...]] = []
        self.held_bytes = [0, 0]
        self.reserved_bytes = [0, 0]
        self.architectures = ["sm_75", "sm_89"]
        self.settings: list[str] = []
        self.fraction = [1.0, 1.0]

    @property
    def current(self) -> int:
        return getattr(self._here, "index", 0)

    def set_device(self, device: Any) -> None:
        self._here.index = self.index_of(device)

    def exchange(self, index: int) -> int:
        before = self.current
        if index >= 0:
            self._here.index = index
        return before

    def index_of(self, device: Any) -> int:
        if device is None:
            return self.current
        if isinstance(device, int):
            return device
        return self.current if device.index is None else int(device.index)

    def mem_get_info(self, device: Any = None) -> tuple[int, int]:
        index = self.index_of(device)
        return TOTAL_BYTES[index] - self.reserved_bytes[index], TOTAL_BYTES[index]

    def empty_cache(self) -> None:
        self.calls.append(("empty_cache",))
        self.reserved_bytes[:] = self.held_bytes

    def synchronize(self, device: Any = None) -> None:
        self.calls.append(("synchronize", self.index_of(device)))

    def properties(self, device: Any = None) -> SimpleNamespace:
        return SimpleNamespace(uuid=f"uuid-{self.index_of(device)}")


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    """torch.cuda as on a device with two GPUs; NVML is not there."""
    fake = FakeCuda()
    functions = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "device_count": lambda: 2,
        "current_device": lambda: fake.current,
        "set_device": fake.set_device,
        "_exchange_device": fake.exchange,
        "_maybe_exchange_device": fake.exchange,
        "get_device_name": lambda device=None: NAMES[fake.index_of(device)],
        "get_device_capability": lambda device=None: CAPABILITIES[fake.index_of(device)],
        "get_device_properties": fake.properties,
        "get_arch_list": lambda: fake.architectures,
        "mem_get_info": fake.mem_get_info,
        "memory_reserved": lambda device=None: fake.reserved_bytes[fake.index_of(device)],
        "memory_allocated": lambda device=None: fake.held_bytes[fake.index_of(device)],
        "memory_stats": lambda device=None: {"allocation.all.allocated": fake.held_bytes[fake.index_of(device)]},
        "empty_cache": fake.empty_cache,
        "synchronize": fake.synchronize,
        "get_per_process_memory_fraction": lambda device: fake.fraction[fake.index_of(device)],
        "set_per_process_memory_fraction": lambda share, device: fake.fraction.__setitem__(
            fake.index_of(device), share
        ),
    }
    for name, function in functions.items():
        monkeypatch.setattr(torch.cuda, name, function)
    monkeypatch.setattr(torch._C, "_accelerator_setAllocatorSettings", fake.settings.append)
    monkeypatch.setattr(device._GpuAllocator, "is_set_up", False)
    monkeypatch.setattr(device._GpuAllocator, "segments_grow", False)
    monkeypatch.setattr(device, "_can_allocate", lambda _device: True)
    for name in (device.ALLOC_CONF, device.OLD_ALLOC_CONF, device.CUBLAS_SETTING):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    return fake


class OnGpu1(torch.Tensor):
    """A tensor that says it is on the second GPU."""

    is_cuda = property(lambda _self: True)  # type: ignore[assignment]
    get_device = lambda _self: 1  # type: ignore[assignment]  # noqa: E731


# Which GPU


def test_a_device_has_an_index(cuda: FakeCuda) -> None:
    """`cuda` is the current GPU of the thread that asks, for all threads; the others are what they say."""
    assert resolve_device("auto").value == GPU_0
    assert resolve_device("cuda:1").value == GPU_1
    use_device(GPU_1)
    assert resolve_device("cuda").value == GPU_1
    with pytest.raises(UserError, match="sees 2 CUDA devices"):
        resolve_device("cuda:2")
    assert cuda.current == 1


def test_the_chosen_gpu_is_asked_about(cuda: FakeCuda) -> None:
    """Name, precision, memory and UUID are those of the index that was chosen."""
    hardware = detect_hardware("cuda:1", "auto")
    assert (hardware.device, hardware.name, hardware.precision) == ("cuda:1", NAMES[1], "bfloat16")
    assert 10 * GIB < hardware.budget.value < TOTAL_BYTES[1]
    assert detect_hardware("cuda:0", "auto").precision == "float16"
    assert gpu_uuid(GPU_1) == "GPU-uuid-1"
    assert gpu_uuid(torch.device("cpu")) == ""
    assert cuda.current == 0, "a question changes nothing"


def test_verbs_that_write_and_measure_use_the_chosen_gpu(cuda: FakeCuda) -> None:
    """What follows in the same thread and names no device goes there."""
    assert device_for(SINGLE_PROCESS, "cuda:1") == GPU_1
    assert cuda.current == 1


def test_training_uses_the_chosen_gpu(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the first weight is loaded, in a new run and in one that is resumed."""
    from tunesmith.training import setup

    class LoadedError(Exception):
        """Far enough."""

    def load(*_arguments: object) -> None:
        raise LoadedError(cuda.current)

    monkeypatch.setattr(setup, "load_model", load)
    start = setup.InitSource(Path(), is_checkpoint=False)
    with pytest.raises(LoadedError, match="1"):
        setup.build_model_and_optimizer(TrainConfig(out="out"), SimpleNamespace(device="cuda:1"), start)  # type: ignore[arg-type]


def test_threads_use_the_gpu_of_their_model(
    make_model_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server's worker and the thread that adds gradients: each has a current GPU of its own."""
    from tunesmith.optim import cpu_offload_adamw
    from tunesmith.serving import worker

    used: list[tuple[torch.device, bool]] = []

    def use(device: torch.device) -> None:
        used.append((device, threading.current_thread() is not threading.main_thread()))

    model = load_gpt2(make_model_folder())
    monkeypatch.setattr(worker, "use_device", use)
    monkeypatch.setattr(cpu_offload_adamw, "use_device", use)
    writer = SimpleNamespace(model=model, tokenizer=SimpleNamespace(end_of_text_id=0), logits=model.logits)
    working = worker.Worker(writer, batch_size=1)  # type: ignore[arg-type]
    working.start(None)  # type: ignore[arg-type]
    working.stop()
    assert used == [(model.head_VC.device, True)]
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = CPUOffloadAdamW([{"params": [parameter], "weight_decay": 0.0}], [], betas=(0.9, 0.999), epsilon=1e-8)
    optimizer._adder.submit(int).result()
    assert used[1:] == [(parameter.device, True)]


def test_kernels_are_launched_where_their_tensors_are(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton launches on the current GPU: that is the tensors' own meanwhile, and afterwards what it was."""
    pytest.importorskip("triton")
    from tunesmith.model import loss_triton
    from tunesmith.optim import low_bit_adamw_triton

    launched: list[int] = []

    class Kernel:
        def __getitem__(self, _grid: tuple[int, ...]) -> Callable[..., None]:
            return lambda *_arguments, **_options: launched.append(cuda.current)

    monkeypatch.setattr(loss_triton, "_nats_and_gradient", Kernel())
    monkeypatch.setattr(low_bit_adamw_triton, "_update", Kernel())
    logits_KV = torch.zeros(2, 8).as_subclass(OnGpu1)
    loss_triton.launch(logits_KV, torch.zeros(2, dtype=torch.int64), 8, out_K=torch.zeros(2))
    weight = torch.zeros(1, 128).as_subclass(OnGpu1)
    state = dict.fromkeys(
        ("exp_avg_codes", "exp_avg_scales", "exp_avg_sq_codes", "exp_avg_sq_scales"), torch.zeros(128)
    )
    state["step"] = torch.ones(())
    rates = AdamWHyperparams(1e-3, 0.0, 0.9, 0.999, 1e-8)
    low_bit_adamw_triton.launch(weight, torch.zeros(1, 128), state, STATE_FORMATS["8bit"], rates, seed=1)
    assert launched == [1, 1]
    assert cuda.current == 0


def test_every_launch_of_a_kernel_has_a_device_guard() -> None:
    """In all modules of kernels, whatever they will be called: `kernel[grid](...)` is inside of `device_of(...)`."""
    launches = 0
    for path in PACKAGE.rglob("*_triton.py"):
        tree = ast.parse(path.read_text("utf-8"))
        jitted = {
            node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and "jit" in _decorators(node)
        }
        guarded = {
            id(inner)
            for node in ast.walk(tree)
            if isinstance(node, ast.With) and "device_of" in ast.unparse(node.items[0])
            for inner in ast.walk(node)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Subscript):
                called = ast.unparse(node.func.value)
                if called in jitted:
                    launches += 1
                    assert id(node) in guarded, f"{path.name}: {called} is launched on whatever GPU is the current one"
    assert launches >= 2


def _decorators(function: ast.FunctionDef) -> str:
    return " ".join(map(ast.unparse, function.decorator_list))


def test_a_verdict_is_awaited_on_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The event behind the copy is recorded on the stream of the tensor's GPU, not of the current one."""
    recorded: list[Any] = []

    class Event:
        def record(self, stream: Any = "of the current GPU") -> None:
            recorded.append(stream)

    empty = torch.empty
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: f"of {device}")
    monkeypatch.setattr(torch, "empty", lambda *shape, dtype, **_options: empty(*shape, dtype=dtype))
    verdict = torch.tensor(data=True).as_subclass(OnGpu1)
    NonFiniteMonitor().add(3, verdict)
    assert recorded == [f"of {verdict.device}"]


@pytest.mark.parametrize(("device", "wider"), [(GPU_0, torch.float32), (GPU_1, torch.bfloat16)])
def test_recovery_from_fp16_asks_its_own_gpu(
    device: torch.device, wider: torch.dtype, cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bf16 where the GPU that trains has it, whatever the current one has."""
    monkeypatch.setattr("tunesmith.training.nonfinite.weights_are_finite", lambda _model: True)
    block = SimpleNamespace(forward=None)
    model = SimpleNamespace(compute_dtype=torch.float16, head_VC=SimpleNamespace(device=device), blocks=[block])
    recovery = Recovery(model, None, None, TrainState, "")  # type: ignore[arg-type]
    recovery.recover(3, TrainState(step=3))
    assert model.compute_dtype == wider
    assert cuda.current == 0


def test_a_gpu_without_code_is_refused_by_its_index(cuda: FakeCuda) -> None:
    """Torch has code for the first one only: the second is refused where it is asked for."""
    cuda.architectures = ["sm_75"]
    check_device(TrainConfig(out="out"))
    with pytest.raises(UserError, match=r"no code for NVIDIA GeForce RTX 4070 Ti .compute capability 8\.9"):
        check_device(TrainConfig(out="out", device="cuda:1"))


# Whose memory


def test_what_an_earlier_run_left_cached_is_free(cuda: FakeCuda) -> None:
    """The second run of a process plans with the memory that the first one had; what is in use stays taken."""
    first = detect_hardware("cuda:1", "auto").budget.value
    cuda.reserved_bytes[1] = 9 * GIB
    assert detect_hardware("cuda:1", "auto").budget.value == first
    cuda.held_bytes[1] = cuda.reserved_bytes[1] = 3 * GIB
    assert detect_hardware("cuda:1", "auto").budget.value == first - 3 * GIB


def test_what_is_cached_has_room_for_texts(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many texts fit after a run as before it."""
    monkeypatch.setattr("tunesmith.generation.loading.cache_bytes", lambda _model, _positions: GIB // 10)
    model: Any = SimpleNamespace(head_VC=SimpleNamespace(device=GPU_1))
    before = max_batch_size(model, 100)
    cuda.reserved_bytes[1] = 11 * GIB
    assert max_batch_size(model, 100) == before == 60


def test_memory_is_freed_when_nothing_runs_in_it(cuda: FakeCuda) -> None:
    """Every GPU that this process uses has finished first; the other one is left alone."""
    cuda.reserved_bytes[1] = GIB
    free_memory()
    assert cuda.calls == [("synchronize", 1), ("empty_cache",)]


def test_memory_is_not_freed_while_a_graph_is_captured(cuda: FakeCuda) -> None:
    """To wait for the GPU breaks a capture in another thread: it has to end first."""
    freeing = threading.Thread(target=free_memory)
    with device.CAPTURE_LOCK:
        freeing.start()
        freeing.join(0.05)
        assert cuda.calls == []
    freeing.join()
    assert cuda.calls == [("empty_cache",)]


MESSAGES = {
    "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 11.99 GiB": (True, True),
    "CUDA error: out of memory": (True, True),
    "CUDA driver error: out of memory": (True, True),
    "CUDA error: unknown (cudaErrorMemoryAllocation)": (True, True),
    "Triton Error [CUDA]: out of memory": (True, True),
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`": (True, True),
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED": (True, True),
    "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory": (True, True),
    "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`": (False, True),
    "cuDNN error: CUDNN_STATUS_NOT_INITIALIZED": (False, True),
    "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx(...)`": (False, False),
    "CUDA error: an illegal memory access was encountered": (False, False),
    "out of resource: shared memory, Required: 131072, Hardware limit: 101376": (False, False),
    "CUDA error: no kernel image is available for execution on the device": (False, False),
    "CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasLtMatmul(...)`": (False, False),
}
"""Whether an error is of memory, on a GPU with room and on a full one."""


@pytest.mark.parametrize("message", MESSAGES)
def test_errors_of_memory_are_known(message: str, cuda: FakeCuda) -> None:
    """And no other error is taken for one: a library that cannot start is short of memory on a full GPU only."""
    with_room, when_full = MESSAGES[message]
    assert is_out_of_memory(RuntimeError(message)) is with_room
    cuda.reserved_bytes[0] = TOTAL_BYTES[0] - (100 << 20)
    assert is_out_of_memory(RuntimeError(message)) is when_full


def test_the_allocator_fails_before_the_driver_swaps(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    """On WSL and Windows: at the budget and what libraries load later, beside what is held; afterwards as before."""
    cuda.held_bytes[1] = cuda.reserved_bytes[1] = GIB
    with memory_limit(GPU_1):
        assert cuda.fraction == [1.0, 1.0], "other drivers do not swap"
    monkeypatch.setattr("platform.release", lambda: "5.15.0-microsoft-standard-WSL2")
    budget = detect_hardware("cuda:1", "auto").budget.value
    with memory_limit(GPU_1):
        assert cuda.fraction == [1.0, pytest.approx((GIB + budget + CONTEXT_BYTES) / TOTAL_BYTES[1])]
        assert cuda.fraction[1] * TOTAL_BYTES[1] < TOTAL_BYTES[1] - GIB // 2, "the screen keeps its share"
    assert cuda.fraction == [1.0, 1.0]


def test_compiling_is_no_swapping(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interval in which a graph was compiled says nothing; the next slow one does."""
    counters = {"stats": {"unique_graphs": 0}}
    monkeypatch.setitem(sys.modules, "torch._dynamo.utils", SimpleNamespace(counters=counters))
    watch = SysmemFallbackDetector(is_on=True)
    assert [watch.check(float(number), 100 * number) for number in range(1, 6)] == [False] * 5
    counters["stats"]["unique_graphs"] = 1
    assert not watch.check(35.0, 600)
    assert not watch.check(36.0, 700)
    assert watch.check(66.0, 800)


# torch's device


@pytest.mark.skipif(sys.platform != "linux", reason="segments grow on Linux only")
def test_library_use_gets_segments_that_grow(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a GPU is first used, with exact pinned blocks; once, and never over what the user has set."""
    use_device(torch.device("cpu"))
    assert cuda.settings == []
    use_device(GPU_1)
    use_device(GPU_0)
    assert cuda.settings == ["expandable_segments:True,pinned_max_round_threshold_mb:1"]
    assert device.segments_grow()
    for setting, grows in (("backend:cudaMallocAsync", False), ("expandable_segments:True,foo:1", True)):
        monkeypatch.setenv(device.OLD_ALLOC_CONF, setting)
        monkeypatch.setattr(device._GpuAllocator, "is_set_up", False)
        use_device(GPU_1)
        assert len(cuda.settings) == 1
        assert device.segments_grow() is grows


def test_a_driver_that_maps_no_growing_segments(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    """One allocation tries it; where it fails, the setting is taken back, and what is reserved counts as the peak."""
    monkeypatch.setattr(device, "_can_allocate", lambda _device: False)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _device: 5)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda _device: 7)
    use_device(GPU_1)
    assert cuda.settings[-1] == "expandable_segments:False,pinned_max_round_threshold_mb:1"
    assert peak_memory_bytes(GPU_1) == 7
    monkeypatch.setattr(device._GpuAllocator, "segments_grow", True)
    assert peak_memory_bytes(GPU_1) == 5


@pytest.mark.parametrize(
    ("error", "works"),
    [
        (None, True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("CUDA driver error: operation not supported"), False),
    ],
)
def test_what_a_trial_allocation_tells(
    *,
    error: Exception | None,
    works: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A full GPU says nothing about segments; any other error does."""

    def empty(*_shape: int, **_options: object) -> None:
        if error:
            raise error

    monkeypatch.setattr(torch, "empty", empty)
    assert device._can_allocate(GPU_1) is works


def test_another_release_of_torch_knows_less(monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting it does not know is left out, and the rest is made."""
    made: list[str] = []

    def accept(settings: str) -> None:
        if "pinned" in settings:
            raise ValueError("Unrecognized key 'pinned_max_round_threshold_mb' in config.")
        made.append(settings)

    monkeypatch.setattr(torch._C, "_accelerator_setAllocatorSettings", accept)
    assert device._accepts_settings(device.GROWING_SEGMENTS)
    assert made == ["expandable_segments:True"]


# Graphs


class Graphs:
    """torch.cuda's graphs and streams: each capture takes a moment, in which no other one may begin."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.underway = 0
        self.most_underway = 0
        self.streams: list[Any] = []
        monkeypatch.setattr(torch.cuda, "Stream", lambda _device: SimpleNamespace(wait_stream=lambda _other: None))
        monkeypatch.setattr(
            torch.cuda, "current_stream", lambda _device=None: SimpleNamespace(wait_stream=lambda _other: None)
        )
        monkeypatch.setattr(torch.cuda, "stream", lambda _stream: contextlib.nullcontext())
        monkeypatch.setattr(torch.cuda, "device", lambda _device: contextlib.nullcontext())
        monkeypatch.setattr(torch.cuda, "graph_pool_handle", object)
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: SimpleNamespace(replay=lambda: None))
        monkeypatch.setattr(torch.cuda, "graph", self.capture)

    @contextlib.contextmanager
    def capture(self, _graph: Any, *, pool: object, stream: object, capture_error_mode: str) -> Iterator[None]:
        assert pool is not None
        assert capture_error_mode == "thread_local"
        self.underway += 1
        self.most_underway = max(self.most_underway, self.underway)
        self.streams.append(stream)
        time.sleep(0.02)
        yield
        self.underway -= 1


def test_two_models_are_not_captured_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads that record at the same moment take turns, each on a stream of its own for all of its graphs."""
    graphs = Graphs(monkeypatch)
    together = threading.Barrier(2)

    def record() -> None:
        recorder = CUDAGraphRecorder(GPU_1)
        together.wait()
        for _ in range(3):
            recorder.capture_cuda_graph(lambda: None, [])

    threads = [threading.Thread(target=record) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert graphs.most_underway == 1
    assert len(graphs.streams) == 6
    assert len({id(stream) for stream in graphs.streams}) == 2


def test_an_engine_waits_before_it_is_dropped(make_model_folder: Callable[..., Path]) -> None:
    """For the newest step that it launched; one that launched none waits for nothing."""
    model = load_gpt2(make_model_folder())
    engine = Engine(model, end_of_text_id=300, batch_size=1, positions=64, async_decode=True)
    engine.close()
    waited: list[str] = []
    ahead = engine._async
    assert isinstance(ahead, AsyncDecoder)
    ahead._newest = SimpleNamespace(synchronize=lambda: waited.append("for it"))  # type: ignore[assignment]
    engine.close()
    engine.close()
    assert waited == ["for it"]


def test_engines_are_closed_by_who_drops_them(
    make_model_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker whose step failed, and texts that were written or broken off."""
    from tunesmith.generation.engine import generate_tokens
    from tunesmith.generation.sampling import SamplingParams
    from tunesmith.serving.worker import Worker

    model = load_gpt2(make_model_folder())
    closed: list[Engine] = []

    def close(engine: Engine) -> None:
        closed.append(engine)

    monkeypatch.setattr(Engine, "close", close)
    settings: dict[str, Any] = {"seeds": [1], "params": SamplingParams(0.0, 0, 1.0), "end_of_text_id": 300}
    generate_tokens(model, [[0]], max_new_tokens=2, **settings)
    assert len(closed) == 1
    with pytest.raises(UserError, match="prompt has 99 tokens"):
        generate_tokens(model, [[0] * 99], max_new_tokens=2, **settings)
    with monkeypatch.context() as broken:
        broken.setattr(Engine, "step", lambda _engine: (_ for _ in ()).throw(RuntimeError("a graph failed")))
        with pytest.raises(RuntimeError, match="a graph"):
            generate_tokens(model, [[0]], max_new_tokens=2, **settings)
    assert len(closed) == 2
    writer = SimpleNamespace(model=model, tokenizer=SimpleNamespace(end_of_text_id=0), logits=model.logits)
    worker = Worker(writer, batch_size=2)  # type: ignore[arg-type]
    first = worker._engine
    worker._recover(torch.OutOfMemoryError("CUDA out of memory"))
    assert closed[2:] == [first]
    assert worker._engine is not first
    assert worker.batch_size == 1


# Tests on a GPU


def test_what_torch_warns_of_fails_no_test_on_a_gpu() -> None:
    """Everywhere else a warning is an error; a driver's or a GPU's are not ours."""
    path = Path(__file__).parents[1] / "model" / "test_cuda.py"
    found = importlib.util.spec_from_file_location("test_cuda_here", path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    assert [mark.args for mark in module.pytestmark if mark.name == "filterwarnings"] == [("default",)]
