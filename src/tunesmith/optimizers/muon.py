"""Muon for the matrices of the blocks, AdamW for everything else, as one optimizer.

Both are torch's own. Muon's updates are scaled to the size that AdamW's would have ("match_rms_adamw"), so that one
learning rate serves both.

References: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; Liu et al. 2025, "Muon is
scalable for LLM training".
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class MuonAdamW(torch.optim.Optimizer):
    """Two optimizers that share a list of groups and a state.

    Args:
        matrices: what Muon moves.
        groups: what AdamW moves, with the weight decay of each group.
        weight_decay: of the matrices.
        betas: AdamW's.
        epsilon: AdamW's.
    """

    def __init__(
        self,
        matrices: list[nn.Parameter],
        groups: list[dict[str, Any]],
        *,
        weight_decay: float,
        betas: tuple[float, float],
        epsilon: float,
    ) -> None:
        super().__init__([{"params": matrices}, *groups], {"lr": 0.0})
        self._muon = torch.optim.Muon(matrices, lr=0.0, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
        self._adamw = torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=epsilon, fused=True)
        self.param_groups = [*self._muon.param_groups, *self._adamw.param_groups]
        self._muon.state = self._adamw.state = self.state
        for matrix in matrices:
            self.state[matrix] = {"momentum_buffer": torch.zeros_like(matrix)}

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move everything once.

        Args:
            closure: not taken; torch's signature.
        """
        assert closure is None
        self._muon.step()
        self._adamw.step()
