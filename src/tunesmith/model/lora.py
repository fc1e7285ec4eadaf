"""What can be asked of adapters (`tunesmith.model.adapters` makes them); a plan needs no torch to know it."""

from dataclasses import dataclass

PROJECTIONS = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
"""Of a block."""


@dataclass(frozen=True)
class LoRA:
    """What is asked of adapters.

    Attributes:
        rank: R.
        alpha: the difference is multiplied with alpha / R.
        dropout: on what goes into A.
        targets: which projections, of `PROJECTIONS`.
    """

    rank: int
    alpha: float
    dropout: float
    targets: tuple[str, ...]
