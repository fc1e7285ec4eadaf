"""What a GPU would do, read off the operations on fake tensors: bytes in use, host syncs, launches, missing kernels.

Fake tensors know shapes, dtypes and devices. They do not know what CUDA kernels allocate for themselves, which dtypes
those kernels are written for, what makes the host wait, or that autograd adds gradients in place where tensors are
real: that is written down here.
"""

import sys
import threading
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import tunesmith

PACKAGE = f"{Path(tunesmith.__file__).parent}/"
ALLOCATION_BYTES = 512
"""CUDACachingAllocator rounds to it what `memory_allocated` counts."""
FLASH_ROWS, FLASH_COLUMNS = 128, 32
"""FlashAttention 2's backward pads its fp32 sums of dQ by so many rows a document, and a head to so many columns."""
HALF = frozenset({torch.float16, torch.bfloat16})
WAITING_OPS = frozenset(
    {"_local_scalar_dense", "nonzero", "masked_select", "equal", "unique_dim", "_unique2", "unique_consecutive"}
)
"""Their results, or the sizes of them, are read by the host."""
NO_LAUNCH = frozenset(
    {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach", "lift_fresh", "_pin_memory"}
    | {"set_", "resize_", "record_stream", "is_pinned"}
)


def on_gpu(tensor: Tensor) -> bool:
    """Asked for each argument of each operation; a fake's `is_cuda` is a dispatch of its own."""
    device = getattr(tensor, "fake_device", None)
    return tensor.is_cuda if device is None else device.type == "cuda"


def tensors_in(arguments: Iterable[Any]) -> Iterator[Tensor]:
    """What an operation is given or gives: tensors, and lists and tuples of them."""
    for argument in arguments:
        if isinstance(argument, Tensor):
            yield argument
        elif isinstance(argument, list | tuple):
            yield from tensors_in(argument)


def rounded(count: int) -> int:
    """Bytes of a block that holds so many."""
    return -(-count // ALLOCATION_BYTES) * ALLOCATION_BYTES


@dataclass(frozen=True)
class Op:
    """What is the same for each call of an operation.

    Attributes:
        name: without overload.
        full_name: with it.
        is_view: whether the result shares memory with an argument.
        writes: positions of the arguments that it changes.
        is_random: whether it draws from a generator.
        has_unknown_size: whether the size of its result depends on data.
        launches: whether a kernel runs.
    """

    name: str
    full_name: str
    is_view: bool
    writes: tuple[int, ...]
    is_random: bool
    has_unknown_size: bool
    launches: bool


@cache
def op_of(func: Any) -> Op:
    """Of an overload."""
    schema = func._schema
    writes = tuple(at for at, it in enumerate(schema.arguments) if it.alias_info is not None and it.alias_info.is_write)
    tags = set(func.tags)
    name = schema.name.split("::")[-1]
    is_view = any(it.alias_info is not None and not it.alias_info.is_write for it in schema.returns)
    return Op(
        name,
        f"{schema.name.removeprefix('aten::')}.{schema.overload_name or 'default'}",
        is_view,
        writes,
        torch.Tag.nondeterministic_seeded in tags,
        bool(tags & {torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output}),
        not is_view and name not in NO_LAUNCH and not schema.name.startswith("prim::"),
    )


@dataclass(frozen=True)
class Call:
    """One operation on the device, for lints: its storages by identity."""

    op: Op
    reads: set[int]
    writes: set[int]
    makes: set[int]
    place: str


class Watch(TorchDispatchMode):
    """Counts what happens on fake CUDA tensors while it is entered.

    Attributes:
        now_bytes: in use.
        peak_bytes: most at once since `restart`.
        peak_at: the operation and the line of the package that reached it.
        syncs: host syncs and where.
        faults: calls for which CUDA has no kernel.
        launches: operations that launch kernels, by name.
        calls: all of them in order, where `keeps_calls`.
        flash_scratch_bytes: the most that attention's backward pass took for itself.
    """

    def __init__(self) -> None:
        super().__init__()
        self._pinned: set[int] = set()
        self._lock = threading.RLock()
        self._pauses = 0
        self.keeps_calls = False
        self.forget()

    def forget(self) -> None:
        """Begin with an empty device, whatever an earlier case has left behind."""
        self._live: dict[int, int] = {}
        self.now_bytes = 0
        self.restart()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Not wrapped against being compiled: nothing compiles it."""
        return False

    @classmethod
    def is_infra_mode(cls) -> bool:
        """Compiled code runs under it, too."""
        return True

    def restart(self) -> None:
        """Forget everything but what is in use."""
        self.peak_bytes, self.peak_at = self.now_bytes, ("", "")
        self.syncs: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.launches: Counter[str] = Counter()
        self.calls: list[Call] = []
        self.flash_scratch_bytes = 0

    def pause(self) -> None:
        """A compiler begins to trace; what it makes exists for itself only."""
        self._pauses += 1

    def go_on(self) -> None:
        """It is done."""
        self._pauses -= 1

    def launched(self, name: str, tensors: list[Tensor]) -> None:
        """A kernel of the package was launched."""
        self.launches[name] += 1
        devices = {str(tensor.device) for tensor in tensors}
        if len(devices) != 1 or not all(on_gpu(tensor) for tensor in tensors):
            self.faults[f"{name}: tensors on {sorted(devices)} at {place()}"] += 1

    def __torch_dispatch__(  # noqa: C901  each call passes here
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self._pauses:
            return func(*args, **kwargs)
        op = op_of(func)
        if op.name == "_pin_memory":
            pinned = torch.empty_like(args[0])
            self._pinned.add(pinned.untyped_storage()._cdata)
            return pinned
        inputs = [*tensors_in(args), *tensors_in(kwargs.values())]
        self._look_for_waiting(op, args, kwargs, inputs)
        if op.name == "_local_scalar_dense":
            return _number_of(args[0])
        fault = missing_kernel(op, args, inputs)
        if fault:
            self.faults[f"{op.full_name}: {fault} at {place()}"] += 1
        out = func(*args, **kwargs)
        outputs = list(tensors_in((out,)))
        if kwargs.get("pin_memory"):
            self._pinned |= {it.untyped_storage()._cdata for it in outputs}
        on_device = any(on_gpu(it) for it in outputs) or any(on_gpu(it) for it in inputs)
        if on_device and op.launches:
            self.launches[op.full_name] += 1
        if on_device and self.keeps_calls and not op.full_name.startswith("prim::"):  # those ask for a device only
            self._keep(op, args, inputs, outputs)
        if op.full_name == "add.Tensor":
            self._credit_engine(inputs, outputs)
        for tensor in outputs:
            self._hold(op, tensor)
        if op.name == "_varlen_attn_backward":
            self._transient(op, _flash_scratch(args))
        return out

    def is_pinned(self, tensor: Tensor) -> bool:
        """Whether the package asked for pinned memory when it made this one."""
        return tensor.untyped_storage()._cdata in self._pinned

    def _look_for_waiting(self, op: Op, args: Any, kwargs: Any, inputs: list[Tensor]) -> None:
        reason = None
        if op.name in WAITING_OPS and any(on_gpu(it) for it in inputs):
            reason = op.full_name
        elif op.name in {"index", "index_put", "index_put_", "_index_put_impl_"} and on_gpu(args[0]):
            indices = [it for it in args[1] if it is not None]
            if any(it.dtype in {torch.bool, torch.uint8} for it in indices):
                reason = f"{op.full_name} by a mask"
            elif not all(on_gpu(it) for it in indices):
                reason = f"{op.full_name} by numbers on the host"
        elif op.name == "repeat_interleave" and "output_size" not in kwargs and any(on_gpu(it) for it in inputs):
            reason = op.full_name
        elif op.name in {"copy_", "_to_copy"}:
            reason = self._waiting_copy(op, args, kwargs)
        if reason:
            self.syncs[f"{reason} at {place()}"] += 1

    def _waiting_copy(self, op: Op, args: Any, kwargs: Any) -> str | None:
        """A copy between host and device waits unless it is asked not to and the host's memory is pinned."""
        if op.name == "copy_":
            target, source = args[0].device, args[1]
            unhurried = bool(kwargs.get("non_blocking", args[2] if len(args) > 2 else False))
            host = args[0] if on_gpu(source) else source
        else:
            source, target = args[0], torch.device(kwargs.get("device") or args[0].device)
            unhurried, host = bool(kwargs.get("non_blocking")), source
        if {source.device.type, target.type} != {"cpu", "cuda"}:
            return None
        if not unhurried:
            return f"{op.full_name} from {source.device.type} to {target.type}"
        is_new_host_memory = op.name == "_to_copy" and on_gpu(source)  # torch pins what it makes itself
        if is_new_host_memory or host.untyped_storage()._cdata in self._pinned:
            return None
        return f"{op.full_name} from {source.device.type} to {target.type} with memory that is not pinned"

    def _hold(self, op: Op, tensor: Tensor) -> None:
        if not on_gpu(tensor):
            return
        storage = tensor.untyped_storage()
        key = storage._cdata
        with self._lock:
            if key in self._live:
                return
            self._live[key] = rounded(storage.nbytes())
            self.now_bytes += self._live[key]
            weakref.finalize(storage, self._drop, self._live, key)
        self._transient(op, 0)

    def _drop(self, live: dict[int, int], key: int) -> None:
        with self._lock:
            size = live.pop(key, 0)
            self.now_bytes -= size if live is self._live else 0

    def _transient(self, op: Op, extra_bytes: int) -> None:
        self.flash_scratch_bytes = max(self.flash_scratch_bytes, extra_bytes)
        if self.now_bytes + extra_bytes > self.peak_bytes:
            self.peak_bytes, self.peak_at = self.now_bytes + extra_bytes, (op.full_name, place())

    def _credit_engine(self, inputs: list[Tensor], outputs: list[Tensor]) -> None:
        """Autograd adds a second gradient of a tensor onto the first; of fakes it makes a third."""
        if len(inputs) != 2 or not on_gpu(outputs[0]) or place() != "?":
            return
        first, total = inputs[0].untyped_storage(), outputs[0].untyped_storage()
        with self._lock:
            size = rounded(total.nbytes())
            if self._live.get(first._cdata) == size and total._cdata not in self._live:
                self._live[total._cdata], self._live[first._cdata] = size, 0
                weakref.finalize(total, self._drop, self._live, total._cdata)

    def _keep(self, op: Op, args: Any, inputs: list[Tensor], outputs: list[Tensor]) -> None:
        written = [it for at in op.writes if at < len(args) for it in tensors_in((args[at],))]
        only_written = op.name in {"copy_", "fill_", "zero_"}
        reads = [it for it in inputs if not (only_written and it is args[0])]
        reads, writes, results = ({it.untyped_storage()._cdata for it in some} for some in (reads, written, outputs))
        makes = results - reads - writes - self._live.keys()  # before they are held
        self.calls.append(Call(op, reads, writes, makes, place()))


def place() -> str:
    """The innermost line of the package that is running; ? where autograd itself is."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(PACKAGE):
            return f"{name[len(PACKAGE) :]}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return "?"


def _number_of(scalar: Tensor) -> float | bool:
    """What the host reads of a number that is not there: nothing overflowed, nothing is bad; it is the first step."""
    number = 0 if on_gpu(scalar) else 1
    return bool(number) if scalar.dtype == torch.bool else float(number) if scalar.is_floating_point() else number


def _flash_scratch(args: Any) -> int:
    """Of `torch_attn::_varlen_attn_backward(grad, q, k, v, out, lse, cu_seqlens, ...)`: sums of dQ and of dO * O."""
    query, offsets = args[1], args[6]
    n_tokens, n_head, head_dim = query.shape
    rows = n_tokens + FLASH_ROWS * (len(offsets) - 1)
    columns = -(-head_dim // FLASH_COLUMNS) * FLASH_COLUMNS
    return rounded(rows * n_head * columns * 4) + rounded(rows * n_head * 4)


def missing_kernel(op: Op, args: Any, inputs: list[Tensor]) -> str | None:  # noqa: C901, PLR0912  a table
    """Why CUDA cannot do what fakes can; None where it can."""
    if not any(on_gpu(it) for it in inputs):
        return None
    found = None
    match op.name:
        case "_amp_foreach_non_finite_check_and_unscale_":
            # "not implemented for 'BFloat16'" on CUDA, though the CPU has it
            if any(it.dtype == torch.bfloat16 for it in args[0]):
                found = "no kernel for bf16 gradients"
        case "_varlen_attn" | "_varlen_attn_backward" | "_flash_attention_forward":
            query = args[1] if op.name.endswith("backward") else args[0]
            head_dim = query.shape[-1]
            if query.dtype not in HALF:
                found = f"FlashAttention has no {query.dtype}"
            elif head_dim % 8 or head_dim > 256:
                found = f"FlashAttention has no heads of {head_dim} channels"
        case "mm" | "addmm" | "bmm" | "baddbmm" if not op.full_name.endswith(("dtype", "dtype_out")):
            if len({it.dtype for it in inputs}) > 1:
                found = f"one dtype expected, not {sorted({str(it.dtype) for it in inputs})}"
            elif not inputs[0].dtype.is_floating_point:
                found = f"no product of {inputs[0].dtype}"
        case "native_layer_norm":
            if args[2] is not None and args[2].dtype != args[0].dtype:
                found = f"weight in {args[2].dtype}, input in {args[0].dtype}"
        case "_fused_adamw_":
            dtypes = {it.dtype for some in args[:4] for it in some}
            if len(dtypes) > 1:
                found = f"one dtype expected, not {sorted(map(str, dtypes))}"
            elif any(it.dtype != torch.float32 for it in args[5]):
                found = "steps are counted in fp32"
        case "index_put" | "index_put_" | "_index_put_impl_":
            if args[2].dtype != args[0].dtype:
                found = f"{args[2].dtype} into {args[0].dtype}"
    return found
