"""The same start for all processes: weights and states that only the first one reads, sent to the others."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from tunesmith.distributed.parts import dealt_like, is_part, own_part
from tunesmith.distributed.team import Team
from tunesmith.model.gpt2 import GPT2


@torch.no_grad()
def send_weights(team: Team, model: GPT2, weights: Mapping[str, Tensor] | None = None) -> None:
    """Give every process the first one's weights.

    Args:
        team: all processes.
        model: to be overwritten.
        weights: whole ones by name, of the first process, for a model that is in parts; the others' are only shapes.
            None where each process holds a whole model, and the first one's is right.
    """
    for name, parameter in model.named_parameters():
        if is_part(parameter):
            assert weights is not None
            own_part(parameter).copy_(own_part(dealt_like(parameter, weights[name])))
        else:
            team.receive(parameter)


@torch.no_grad()
def send_states(team: Team, optimizer: torch.optim.Optimizer) -> None:
    """Give every process the first one's optimizer state, except for what is in parts, which was dealt when loaded."""
    for tensor in _states(optimizer):
        if not is_part(tensor):
            team.receive(tensor)


def _states(optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    """In the order of the parameters, which is the same everywhere."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state[parameter]
            yield from (state[key] for key in sorted(state) if isinstance(state[key], Tensor))
