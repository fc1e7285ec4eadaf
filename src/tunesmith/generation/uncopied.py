"""Texts that copy nothing of the training text: those that do are written anew."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from tunesmith.data.ngram_index import NgramIndex
from tunesmith.errors import UserError
from tunesmith.generation.write_texts import GeneratedText, Interrupted, TextRequest

ATTEMPTS = 10
"""At a text that copies nothing; what still copies then is left out."""


def write_uncopied(
    write: Callable[[Sequence[TextRequest]], list[GeneratedText]],
    requests: Sequence[TextRequest],
    index: NgramIndex,
    shortest_copy_tokens: int,
    *,
    n_texts: int | None = None,
    is_all: bool = True,
) -> list[GeneratedText]:
    """Write texts, those anew with another seed that hold a copy; in order, without those that copy in every attempt.

    Args:
        write: writes what was asked for.
        requests: to be written.
        index: of the training text.
        shortest_copy_tokens: so many tokens in a row are a copy.
        n_texts: asked for in all, where these are some of them.
        is_all: whether it is an error when all of them copy.

    Raises:
        UserError: if all of them copy in every attempt.
    """
    accepted: dict[int, GeneratedText] = {}
    numbers = list(range(len(requests)))
    for attempt in range(ATTEMPTS):
        # seeds beyond those of all other texts, so that no two texts ever share one
        apart = attempt * (n_texts or len(requests))
        again = [replace(requests[n], seed=requests[n].seed + apart) for n in numbers]
        try:
            texts = write(again)
        except Interrupted:
            raise Interrupted([accepted[number] for number in sorted(accepted)]) from None
        accepted |= {
            number: text
            for number, text in zip(numbers, texts, strict=True)
            if all(copy.tokens < shortest_copy_tokens for copy in index.find_matches(text.tokens))
        }
        numbers = [n for n in numbers if n not in accepted and requests[n].rules.temperature > 0]
        if not numbers:
            break
    if not accepted and is_all:
        raise all_copy(shortest_copy_tokens)
    return [accepted[number] for number in sorted(accepted)]


def all_copy(shortest_copy_tokens: int) -> UserError:
    """What to say where no text is left."""
    return UserError(
        "every text holds {n_tokens} tokens in a row of the training text, in {attempts} attempts",
        hint="raise --temperature or --reject-copied; the model may be overfitted: train it for fewer epochs",
        n_tokens=shortest_copy_tokens,
        attempts=ATTEMPTS,
    )
