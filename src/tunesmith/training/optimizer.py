"""AdamW as the guide's script runs it, with weight decay where it belongs, and its state as plain tensors."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from tunesmith.optimizers.compressed_adamw import CompressedAdamW, uncompressed_state
from tunesmith.optimizers.host_adamw import HostAdamW
from tunesmith.optimizers.in_backward import InBackwardAdamW
from tunesmith.optimizers.rounding import join
from tunesmith.optimizers.state_plan import STATE_PLANS, StatePlan, is_compressible

BETAS = (0.9, 0.999)
EPSILON = 1e-8
NORM_BEFORE = "norm_before"


def make_optimizer(
    model: nn.Module, *, weight_decay: float, plan: StatePlan = STATE_PLANS["fp32"], seed: int = 0
) -> torch.optim.Optimizer:
    """AdamW that decays matrices and embedding tables, not biases and norms, and keeps its state as planned.

    Weights are brought into the form that the plan wants. The learning rate is set before every step
    (`tunesmith.training.step`).
    Reference: Loshchilov & Hutter 2019, "Decoupled Weight Decay Regularization".

    Args:
        model: with fp32 weights, on its device.
        weight_decay: of what decays.
        plan: how weights, gradients and moments are kept.
        seed: of all rounding by chance.
    """
    parameters = [parameter for _, parameter in trainable(model)]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if plan.gradients == "host":
        return HostAdamW(groups, compressible(model), betas=BETAS, epsilon=EPSILON)
    if plan.gradients == "in-backward":
        return InBackwardAdamW(groups, plan, compressible(model), betas=BETAS, epsilon=EPSILON, seed=seed)
    if plan.moment_bits < 32:
        return CompressedAdamW(groups, plan, compressible(model), betas=BETAS, epsilon=EPSILON, seed=seed)
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=BETAS, eps=EPSILON, fused=True)
    for parameter in parameters:
        optimizer.state[parameter] = uncompressed_state(parameter)
    return optimizer


def trainable(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters that are learned, by name."""
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)


def compressible(model: nn.Module) -> Iterator[nn.Parameter]:
    """What of a model may be kept compressed: matrices of blocks that are learned."""
    return (parameter for name, parameter in trainable(model) if is_compressible(name, tuple(parameter.shape)))


def whole_weights(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The fp32 weights of what the model itself holds only half of, by name, made when they are asked for."""
    whole: dict[str, Tensor] = {}
    for name, parameter in trainable(model):
        state = optimizer.state[parameter]
        if "master" in state:
            whole[name] = state["master"]
        elif "remainder" in state:
            whole[name] = join(parameter.detach(), state["remainder"])
    return whole


def optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The state of every parameter that is learned, under its name."""
    state: dict[str, Tensor] = {}
    for name, parameter in trainable(model):
        for key, value in optimizer.state[parameter].items():
            state[f"{key}.{name}"] = value.detach().cpu().contiguous()
    if isinstance(optimizer, InBackwardAdamW) and optimizer.norm_before is not None:
        state[NORM_BEFORE] = optimizer.norm_before.detach().cpu()
    return state


def load_optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Tensor]) -> None:
    """Put back what `optimizer_state` took.

    Raises:
        KeyError: if a parameter's state is missing.
    """
    for name, parameter in trainable(model):
        restored: dict[str, Any] = {
            key: state[f"{key}.{name}"].to(fresh.device, fresh.dtype).clone()
            for key, fresh in optimizer.state[parameter].items()
        }
        if isinstance(optimizer, HostAdamW):
            optimizer.restore(parameter, restored)
        else:
            optimizer.state[parameter] = restored
    if isinstance(optimizer, InBackwardAdamW) and NORM_BEFORE in state:
        optimizer.norm_before = state[NORM_BEFORE].to(next(model.parameters()).device)
