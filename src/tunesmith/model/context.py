"""How much text the model sees at once."""

from tunesmith.config import Auto
from tunesmith.errors import UserError
from tunesmith.machine import Choice


def chosen_context_tokens(asked: int | Auto, n_positions: int) -> Choice[int]:
    """Resolve `--context-tokens` against the positions a model has.

    Raises:
        UserError: if the model has fewer.
    """
    if asked == "auto":
        return Choice(n_positions, "all positions the model has")
    if not 1 <= asked <= n_positions:
        raise UserError(
            f"--context-tokens {asked} does not fit the model, which has {n_positions} positions",
            hint=f"write a number from 1 to {n_positions}, or leave it out",
        )
    return Choice(asked, "asked for")


def chosen_stride_tokens(asked: int | Auto, context_tokens: int) -> Choice[int]:
    """Resolve `--stride-tokens` against the context.

    Raises:
        UserError: if tokens would be left out between windows.
    """
    if asked == "auto":
        return Choice(max(context_tokens // 2, 1), "half the context")
    if not 1 <= asked <= context_tokens:
        raise UserError(
            f"--stride-tokens {asked} does not fit a context of {context_tokens} tokens",
            hint=f"write a number from 1 to {context_tokens}, or leave it out",
        )
    return Choice(asked, "asked for")
