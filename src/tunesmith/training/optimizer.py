"""AdamW as in the Hugging Face `Trainer` example, weight decay on matrices only, and its state as plain tensors."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tunesmith.distributed.dtensor import distribute_like, full_tensor, is_dtensor
from tunesmith.optim.cpu_offload_adamw import CPUOffloadAdamW
from tunesmith.optim.in_backward_adamw import InBackwardAdamW
from tunesmith.optim.low_bit_adamw import LowBitAdamW, uncompressed_state
from tunesmith.optim.muon import MuonAdamW
from tunesmith.optim.quantization import merge_fp32
from tunesmith.optim.state_format import STATE_FORMATS, StateFormat, is_compressible

BETA1, BETA2 = 0.9, 0.999
EPSILON = 1e-8
NORM_BEFORE = "prev_grad_norm"


def make_optimizer(
    model: nn.Module,
    *,
    weight_decay: float,
    plan: StateFormat = STATE_FORMATS["fp32"],
    seed: int = 0,
    beta2: float = BETA2,
    muon: bool = False,
) -> torch.optim.Optimizer:
    """AdamW that decays matrices and embedding tables, not biases and norms, and keeps its state as planned.

    Weights are brought into the form that the plan wants. The learning rate is set before every step
    (`tunesmith.training.train_step`).
    Reference: Loshchilov & Hutter 2019, "Decoupled Weight Decay Regularization".

    Args:
        model: with fp32 weights, on its device.
        weight_decay: of what decays.
        plan: how weights, gradients and moments are kept.
        seed: of stochastic rounding.
        beta2: how long AdamW remembers how large gradients were.
        muon: whether Muon moves the matrices of the blocks; with fp32 states only.
    """
    matrices = [parameter for name, parameter in trainable(model) if muon and is_matrix_of_block(name, parameter)]
    parameters = [parameter for _, parameter in trainable(model) if all(parameter is not one for one in matrices)]
    betas = (BETA1, beta2)
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if matrices:
        both = MuonAdamW(matrices, groups, weight_decay=weight_decay, betas=betas, epsilon=EPSILON)
        for parameter in parameters:
            both.state[parameter] = uncompressed_state(parameter)
        return both
    if plan.gradients == "host":
        return CPUOffloadAdamW(groups, compressible(model), betas=betas, epsilon=EPSILON)
    if plan.gradients == "in-backward":
        return InBackwardAdamW(groups, plan, compressible(model), betas=betas, epsilon=EPSILON, seed=seed)
    if plan.moment_bits < 32:
        return LowBitAdamW(groups, plan, compressible(model), betas=betas, epsilon=EPSILON, seed=seed)
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=EPSILON, fused=True)
    for parameter in parameters:
        optimizer.state[parameter] = uncompressed_state(parameter)
    return optimizer


def is_matrix_of_block(name: str, parameter: nn.Parameter) -> bool:
    """Whether Muon is meant for a parameter: not for embeddings, biases and norms."""
    return name.startswith("transformer.h.") and parameter.ndim == 2


def trainable(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters that are learned, by name."""
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)


def compressible(model: nn.Module) -> Iterator[nn.Parameter]:
    """What of a model may be kept compressed: matrices of blocks that are learned."""
    return (parameter for name, parameter in trainable(model) if is_compressible(name, tuple(parameter.shape)))


class WholeWeights(Mapping[str, Tensor]):
    """The fp32 weights of what the model has only in half precision or as a shard, by name.

    Each is made when it is asked for, where the halves are: all of them at once would not fit a GPU that halves were
    chosen for.

    Args:
        model: being trained.
        optimizer: of its parameters.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self._state = optimizer.state
        self._parameters = {
            name: parameter
            for name, parameter in trainable(model)
            if not {"master", "remainder"}.isdisjoint(optimizer.state[parameter]) or is_dtensor(parameter)
        }

    def __getitem__(self, name: str) -> Tensor:
        parameter = self._parameters[name]
        state: dict[str, Tensor] = self._state[parameter]
        if "master" in state:
            return state["master"]
        if "remainder" in state:
            return merge_fp32(parameter.detach(), state["remainder"])
        return full_tensor(parameter.detach())

    def __iter__(self) -> Iterator[str]:
        return iter(self._parameters)

    def __len__(self) -> int:
        return len(self._parameters)


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    """The state of every parameter that is learned, under its name, one after the other and where it is."""
    for name, parameter in trainable(model):
        for key, value in optimizer.state[parameter].items():
            yield f"{key}.{name}", full_tensor(value.detach())
    if isinstance(optimizer, InBackwardAdamW) and optimizer.prev_grad_norm is not None:
        yield NORM_BEFORE, optimizer.prev_grad_norm.detach()


def optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The same, on the CPU."""
    return {name: tensor.cpu().contiguous() for name, tensor in optimizer_tensors(model, optimizer)}


def load_optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Tensor]) -> None:
    """Put back what `optimizer_state` took.

    Raises:
        KeyError: if a parameter's state is missing.
    """
    for name, parameter in trainable(model):
        restored: dict[str, Any] = {
            key: distribute_like(fresh, state[f"{key}.{name}"]) for key, fresh in optimizer.state[parameter].items()
        }
        if isinstance(optimizer, CPUOffloadAdamW):
            optimizer.restore(parameter, restored)
        else:
            optimizer.state[parameter] = restored
    if isinstance(optimizer, InBackwardAdamW) and NORM_BEFORE in state:
        optimizer.prev_grad_norm = state[NORM_BEFORE].to(next(model.parameters()).device)
