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
