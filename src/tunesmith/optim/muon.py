"""Muon for the matrices of the blocks, AdamW for everything else, as one optimizer.

Both are torch's own. Muon's updates are scaled to the size that AdamW's would have ("match_rms_adamw"), so that one
learning rate serves both.

References: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; Liu et al. 2025, "Muon is
scalable for LLM training".
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class MuonAdamW(torch.optim.Optimizer):
    """Two optimizers that share a list of groups and a state.

    An attribute `found_inf`, as torch's fused optimizers know it, is an fp32 scalar: unless it is 0, `step` changes
    nothing. On a GPU the host does not wait for it.

    Args:
        matrices: what Muon moves.
        groups: what AdamW moves, with the weight decay of each group.
        weight_decay: of the matrices.
        betas: AdamW's.
        epsilon: AdamW's.
    """

    _step_supports_amp_scaling = True  # torch.amp.GradScaler sets `found_inf` instead of reading it on the host

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
        found_inf: Tensor | None = getattr(self, "found_inf", None)
        if found_inf is not None and found_inf.is_cuda:
            self._step_unless(found_inf)
        elif found_inf is None or not bool(found_inf):
            self._muon.step()
            self._adamw.step()

    @torch.no_grad()
    def _step_unless(self, found_inf: Tensor) -> None:
        """Torch's Muon cannot leave out an update on the device: it is made matrix by matrix, and taken back there."""
        is_bad, whole_groups = found_inf != 0, self._muon.param_groups
        try:
            for group in whole_groups:
                for matrix in group["params"]:
                    if matrix.grad is None:
                        continue
                    live = (matrix.data, self.state[matrix]["momentum_buffer"])
                    before = [tensor.clone() for tensor in live]
                    self._muon.param_groups = [{**group, "params": [matrix]}]
                    self._muon.step()
                    for tensor, kept in zip(live, before, strict=True):
                        torch.where(is_bad, kept, tensor, out=tensor)
        finally:
            self._muon.param_groups = whole_groups
        self._adamw.found_inf = found_inf  # type: ignore[attr-defined]
        try:
            self._adamw.step()
        finally:
            del self._adamw.found_inf  # type: ignore[attr-defined]
