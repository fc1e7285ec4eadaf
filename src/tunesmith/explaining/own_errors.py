"""Errors that tunesmith itself said, in whatever language: in a log, the hint below one is what mends it."""

import re
from functools import cache
from itertools import pairwise
from string import Formatter

from tunesmith.explaining.explanation import Cause
from tunesmith.messages.catalogue import in_every_language, say, texts

NAME = "said-by-tunesmith"
LEAST_LETTERS = 8
"""Of a text itself, without its values: one that is nearly all values fits anything."""


def own_error(log: str) -> Cause | None:
    """The last error of ours in it; None where there is none. Other programs have hints too, but say other things."""
    found = None
    lines = log.splitlines()
    for position, (line, below) in enumerate(pairwise(lines)):
        message, hint = _after(line, "error:"), _after(below, "hint:")
        if message and hint and (_is_said_here(message) or _is_said_here(hint)):
            evidence = say("line {number}: {line}", number=position + 1, line=line.strip())
            found = Cause(NAME, message, (evidence,), hint)
    return found


def _after(line: str, label: str) -> str | None:
    for written in in_every_language(label):
        if line.lstrip().startswith(written):
            return line.lstrip().removeprefix(written).strip()
    return None


def _is_said_here(said: str) -> bool:
    return any(pattern.fullmatch(said) for pattern in _patterns())


@cache
def _patterns() -> tuple[re.Pattern[str], ...]:
    return tuple(pattern for text in texts() if (pattern := _pattern(text)) is not None)


def _pattern(text: str) -> re.Pattern[str] | None:
    """What a text looks like with any values in it."""
    try:
        parts = list(Formatter().parse(text))
    except ValueError:  # a text without values may hold lone braces
        parts = [(text, None, None, None)]
    if sum(letter.isalpha() for literal, *_ in parts for letter in literal) < LEAST_LETTERS:
        return None
    written = "".join(
        re.escape(" ".join(f".{literal}.".split())[1:-1]) + (".*" if name is not None else "")
        for literal, name, *_ in parts
    )
    return re.compile(written, re.DOTALL)
