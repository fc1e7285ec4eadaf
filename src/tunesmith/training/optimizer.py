"""AdamW as the guide's script runs it, with weight decay where it belongs, and its state as plain tensors."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

BETAS = (0.9, 0.999)
EPSILON = 1e-8
MOMENTS = ("exp_avg", "exp_avg_sq")


def make_optimizer(model: nn.Module, *, weight_decay: float) -> torch.optim.AdamW:
    """Fused AdamW that decays matrices and embedding tables, not biases and norms.

    The learning rate is set before every step (`tunesmith.training.step`).
    Reference: Loshchilov & Hutter 2019, "Decoupled Weight Decay Regularization".
    """
    parameters = [parameter for _, parameter in trainable(model)]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=BETAS, eps=EPSILON, fused=True)
    for parameter in parameters:  # at once, not in the first step: there memory could run out between two groups
        optimizer.state[parameter] = {
            "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
            **{moment: torch.zeros_like(parameter, memory_format=torch.preserve_format) for moment in MOMENTS},
        }
    return optimizer


def trainable(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters that are learned, by name."""
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)


def optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Both moments and the step count of every parameter that is learned, under its name."""
    state: dict[str, Tensor] = {}
    for name, parameter in trainable(model):
        for key, value in optimizer.state[parameter].items():
            state[f"{key}.{name}"] = value.detach().cpu().contiguous()
    return state


def load_optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Tensor]) -> None:
    """Put back what `optimizer_state` took.

    Raises:
        KeyError: if a parameter's state is missing.
    """
    for name, parameter in trainable(model):
        restored: dict[str, Any] = {
            key: state[f"{key}.{name}"].to(parameter.device, torch.float32).clone() for key in (*MOMENTS, "step")
        }
        optimizer.state[parameter] = restored
