"""How much text the model sees at once."""

from tunesmith.config import Auto
from tunesmith.errors import UserError
from tunesmith.machine import Choice
from tunesmith.messages.catalogue import say


def chosen_context_tokens(asked: int | Auto, n_positions: int) -> Choice[int]:
    """Resolve `--context-tokens` against the positions a model has.

    Raises:
        UserError: if the model has fewer.
    """
    if asked == "auto":
        return Choice(n_positions, say("all positions the model has"))
    if not 1 <= asked <= n_positions:
        raise UserError(
            "--context-tokens {asked} does not fit the model, which has {n_positions} positions",
            hint="write a number from 1 to {n_positions}, or leave it out",
            asked=asked,
            n_positions=n_positions,
        )
    return Choice(asked, say("asked for"))


def chosen_stride_tokens(asked: int | Auto, context_tokens: int) -> Choice[int]:
    """Resolve `--stride-tokens` against the context.

    Raises:
        UserError: if tokens would be left out between windows.
    """
    if asked == "auto":
        return Choice(max(context_tokens // 2, 1), say("half the context"))
    if not 1 <= asked <= context_tokens:
        raise UserError(
            "--stride-tokens {asked} does not fit a context of {context_tokens} tokens",
            hint="write a number from 1 to {context_tokens}, or leave it out",
            asked=asked,
            context_tokens=context_tokens,
        )
    return Choice(asked, say("asked for"))
