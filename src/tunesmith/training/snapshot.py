"""A run's state at one instant, copied out of the model: it is written while training goes on.

Training waits for the copy, not for the disk: copying 1.5 GB takes half a second, writing and syncing them many.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from torch import Tensor

from tunesmith.allocator import pinned_empty
from tunesmith.distributed.dtensor import full_tensor, local_tensor
from tunesmith.model.adapters import adapter_state
from tunesmith.model.gpt2 import GPT2
from tunesmith.model.weights import huggingface_tensors
from tunesmith.training.optimizer import WholeWeights, optimizer_tensors, trainable
from tunesmith.training.plan import HOST_COPY_SHARE
from tunesmith.training.progress import Progress

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class ModelCopy:
    """What the model knows at one step.

    Attributes:
        weights_id: which weights these are (`Progress.weights_id`).
        weights: under Hugging Face's names, adapters merged.
        adapter: under `peft`'s names; empty where all weights are learned.
        is_live: whether weights are taken from the model when they are asked for: it must not learn meanwhile.
    """

    weights_id: tuple[int, int]
    weights: Mapping[str, Tensor]
    adapter: Tensors
    is_live: bool = False


@dataclass(frozen=True)
class Snapshot:
    """All that a checkpoint keeps; nothing in it changes when training goes on."""

    model: ModelCopy
    optimizer: Mapping[str, Tensor]
    random: Tensors
    scaler: dict[str, Any]
    progress: Progress

    @property
    def nbytes(self) -> int:
        """Of its tensors."""
        parts = (self.model.weights, self.model.adapter, self.optimizer, self.random)
        return sum(tensor.nbytes for part in parts for tensor in part.values())


class HostBuffers:
    """Host memory for copies of a GPU's tensors: pinned where it can be, so that copying takes a third of the time.

    It is kept from one checkpoint to the next, because to pin takes longer than to copy.
    """

    def __init__(self) -> None:
        self._buffers: Tensors = {}

    @property
    def nbytes(self) -> int:
        """Held so far."""
        return sum(buffer.nbytes for buffer in self._buffers.values())

    def copies(self, tensors: Iterable[tuple[str, Tensor]], live: set[int]) -> Tensors:
        """The same values in memory that nobody writes to, until copies of the same names are made again.

        Args:
            tensors: on any device.
            live: memory of the CPU that the next step writes to; what is elsewhere there stays where it is.
        """
        copies: Tensors = {}
        devices: set[torch.device] = set()
        for name, tensor in tensors:
            if not tensor.is_cuda:
                is_live = tensor.untyped_storage().data_ptr() in live
                copies[name] = tensor.clone(memory_format=torch.contiguous_format) if is_live else tensor
                continue
            buffer = self._buffers.get(name)
            if buffer is None or (buffer.shape, buffer.dtype) != (tensor.shape, tensor.dtype):
                buffer = self._buffers[name] = pinned_empty(tensor.shape, tensor.dtype)
            copies[name] = buffer.copy_(tensor, non_blocking=True)
            devices.add(tensor.device)
        for device in devices:
            torch.cuda.current_stream(device).synchronize()
        return copies


class Uncopied(Mapping[str, Tensor]):
    """Tensors on the CPU, each made when it is asked for, for hosts without room for all of them.

    Args:
        tensors: makes them anew, one after the other, where they are.
        dtype: they are wanted in; their own by default.
    """

    def __init__(
        self, tensors: Callable[[], Iterable[tuple[str, Tensor]]], *, dtype: torch.dtype | None = None
    ) -> None:
        self._tensors, self._dtype = tensors, dtype

    def items(self) -> Any:  # noqa: ANN401  in one pass, instead of one for each name
        """All of them, one after the other."""
        return ((name, self._on_cpu(tensor)) for name, tensor in self._tensors())

    def values(self) -> Any:  # noqa: ANN401
        """Likewise."""
        return (tensor for _, tensor in self.items())

    def __getitem__(self, name: str) -> Tensor:
        for found, tensor in self._tensors():
            if found == name:
                return self._on_cpu(tensor)
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self._tensors())

    def __len__(self) -> int:
        return sum(1 for _ in self._tensors())

    def _on_cpu(self, tensor: Tensor) -> Tensor:
        return tensor.detach().to("cpu", self._dtype or tensor.dtype)


def copy_model(
    model: GPT2,
    optimizer: torch.optim.Optimizer,
    weights_id: tuple[int, int],
    buffers: HostBuffers,
    *,
    is_live: bool = False,
) -> ModelCopy:
    """The weights of a model that goes on learning, in fp32 where the optimizer keeps their other half.

    Args:
        model: to be copied.
        optimizer: of its parameters.
        weights_id: which weights these are (`Progress.weights_id`).
        buffers: what a GPU's weights are copied to.
        is_live: copy nothing, and let each weight be taken when it is asked for.
    """
    live, whole = _live(model, optimizer), WholeWeights(model, optimizer)
    adapter = buffers.copies(adapter_state(model).items(), live)
    if is_live:
        weights: Mapping[str, Tensor] = Uncopied(lambda: huggingface_tensors(model, whole), dtype=torch.float32)
        return ModelCopy(weights_id, weights, adapter, is_live=True)
    return ModelCopy(weights_id, buffers.copies(huggingface_tensors(model, whole), live), adapter)


def take_snapshot(
    model: GPT2,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    progress: Progress,
    random: Tensors,
    model_copy: ModelCopy,
    buffers: HostBuffers,
) -> Snapshot:
    """Everything else beside a copy of the model that was made at the same step; as live as that is."""
    return Snapshot(
        model_copy,
        Uncopied(lambda: optimizer_tensors(model, optimizer))
        if model_copy.is_live
        else buffers.copies(optimizer_tensors(model, optimizer), _live(model, optimizer)),
        dict(random),
        copy.deepcopy(scaler.state_dict()),
        copy.deepcopy(progress),
    )


def help_copying(model: GPT2, weights_id: tuple[int, int]) -> ModelCopy:
    """What the other processes do while the first one copies a model of which all hold a part; they keep nothing."""
    for _, parameter in trainable(model):
        full_tensor(parameter.detach())
    return ModelCopy(weights_id, {}, {})


def help_taking_snapshot(model: GPT2, optimizer: torch.optim.Optimizer) -> None:
    """Likewise while it takes a snapshot."""
    for _, parameter in trainable(model):
        for value in optimizer.state[parameter].values():
            full_tensor(value.detach())


def state_bytes(model: GPT2, optimizer: torch.optim.Optimizer) -> tuple[int, int]:
    """How much a model folder of this run takes on disk, and how much the optimizer's state adds to it."""
    moments = _states(optimizer)
    weights = sum(parameter.numel() * torch.float32.itemsize for parameter in model.parameters())
    return weights, sum(value.nbytes for value in moments)


def fits_memory(n_bytes: int) -> bool:
    """Whether there is room for a copy of that size."""
    return n_bytes < HOST_COPY_SHARE * psutil.virtual_memory().available


def _states(optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    return (value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor))


def _live(model: GPT2, optimizer: torch.optim.Optimizer) -> set[int]:
    """Memory that the next step writes to."""
    return _storages(model.parameters()) | _storages(_states(optimizer))


def _storages(tensors: Any) -> set[int]:  # noqa: ANN401  parameters or plain tensors
    return {local_tensor(tensor).untyped_storage().data_ptr() for tensor in tensors}
