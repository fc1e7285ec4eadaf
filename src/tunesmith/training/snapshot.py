"""A run's state at one instant, copied out of the model: it is written while training goes on.

Training waits for the copy, not for the disk: copying 1.5 GB takes half a second, writing and syncing them many.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from torch import Tensor

from tunesmith.distributed.parts import own_part, whole
from tunesmith.model.adapters import adapter_state
from tunesmith.model.gpt2 import GPT2
from tunesmith.model.weights import state_for_huggingface
from tunesmith.training.optimizer import optimizer_state, trainable, whole_weights
from tunesmith.training.progress import Progress

SHARE_OF_FREE_MEMORY = 0.8
"""A copy that took more than this would push something else out."""

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class ModelCopy:
    """What the model knows at one step.

    Attributes:
        weights_id: which weights these are (`Progress.weights_id`).
        weights: under Hugging Face's names, adapters merged.
        adapter: under `peft`'s names; empty where all weights are learned.
    """

    weights_id: tuple[int, int]
    weights: Tensors
    adapter: Tensors


@dataclass(frozen=True)
class Snapshot:
    """All that a checkpoint keeps; nothing in it changes when training goes on."""

    model: ModelCopy
    optimizer: Tensors
    random: Tensors
    scaler: dict[str, Any]
    progress: Progress

    @property
    def nbytes(self) -> int:
        """Of its tensors."""
        parts = (self.model.weights, self.model.adapter, self.optimizer, self.random)
        return sum(tensor.nbytes for part in parts for tensor in part.values())


def copy_model(model: GPT2, optimizer: torch.optim.Optimizer, weights_id: tuple[int, int]) -> ModelCopy:
    """The weights of a model that goes on learning, in fp32 where the optimizer keeps their other half."""
    live = _live(model, optimizer)
    weights = state_for_huggingface(model, whole_weights(model, optimizer))
    return ModelCopy(weights_id, _own(weights, live), _own(adapter_state(model), live))


def take_snapshot(
    model: GPT2,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    progress: Progress,
    random: Tensors,
    model_copy: ModelCopy,
) -> Snapshot:
    """Everything else beside a copy of the model that was made at the same step."""
    return Snapshot(
        model_copy,
        _own(optimizer_state(model, optimizer), _live(model, optimizer)),
        dict(random),
        copy.deepcopy(scaler.state_dict()),
        copy.deepcopy(progress),
    )


def help_copying(model: GPT2, weights_id: tuple[int, int]) -> ModelCopy:
    """What the other processes do while the first one copies a model of which all hold a part; they keep nothing."""
    for _, parameter in trainable(model):
        whole(parameter.detach())
    return ModelCopy(weights_id, {}, {})


def help_taking_snapshot(model: GPT2, optimizer: torch.optim.Optimizer) -> None:
    """Likewise while it takes a snapshot."""
    for _, parameter in trainable(model):
        for value in optimizer.state[parameter].values():
            whole(value.detach())


def state_bytes(model: GPT2, optimizer: torch.optim.Optimizer) -> tuple[int, int]:
    """How much a model folder of this run takes on disk, and how much the optimizer's state adds to it."""
    moments = _states(optimizer)
    weights = sum(parameter.numel() * torch.float32.itemsize for parameter in model.parameters())
    return weights, sum(value.nbytes for value in moments)


def fits_memory(n_bytes: int) -> bool:
    """Whether there is room for a copy of that size."""
    return n_bytes < SHARE_OF_FREE_MEMORY * psutil.virtual_memory().available


def _states(optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    return (value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor))


def _live(model: GPT2, optimizer: torch.optim.Optimizer) -> set[int]:
    """Memory that the next step writes to."""
    return _storages(model.parameters()) | _storages(_states(optimizer))


def _storages(tensors: Any) -> set[int]:  # noqa: ANN401  parameters or plain tensors
    return {own_part(tensor).untyped_storage().data_ptr() for tensor in tensors}


def _own(tensors: Tensors, live: set[int]) -> Tensors:
    """The same values in memory that nobody writes to: what came from a card was copied on the way."""
    return {
        name: tensor.clone(memory_format=torch.contiguous_format)
        if tensor.untyped_storage().data_ptr() in live
        else tensor
        for name, tensor in tensors.items()
    }
