"""Parts of a model that stay what they are."""

from typing import TYPE_CHECKING, Literal

from tunesmith.errors import UserError
from tunesmith.model.shape import GPT2Config

if TYPE_CHECKING:
    from tunesmith.model.gpt2 import GPT2  # a plan needs no torch

Frozen = Literal["nothing", "embeddings"] | int
"""Nothing, all that is no block (embeddings, final norm, head), or so many of the first blocks."""


def refuse_impossible_freezing(frozen: Frozen, config: GPT2Config) -> None:
    """Check against the model's shape.

    Raises:
        UserError: if there are not so many blocks.
    """
    if isinstance(frozen, int) and not 0 <= frozen <= config.n_layer:
        raise UserError(
            "--freeze {frozen}: the model has {n_layer} blocks",
            hint="write how many of the first blocks stay what they are, or embeddings",
            frozen=frozen,
            n_layer=config.n_layer,
        )


def freeze(model: "GPT2", frozen: Frozen) -> None:
    """Ask for no gradients of these parts: they take no part in an update, nor memory for it."""
    blocks = model.transformer.h
    if frozen == "embeddings":
        model.requires_grad_(False)
        blocks.requires_grad_(True)
    elif isinstance(frozen, int):
        blocks[:frozen].requires_grad_(False)
