"""Which symptoms a text shows: of several the one that tells most, and of those the last."""

import re
from dataclasses import dataclass
from functools import cache

from tunesmith.symptoms.symptom import Says, Symptom
from tunesmith.symptoms.table import SYMPTOMS

COLOURS = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
SHOWN_CHARACTERS = 240
"""Of the line that tells it."""


@dataclass(frozen=True)
class Recognised:
    """A symptom in a text.

    Attributes:
        symptom: which.
        line: that tells it, shortened.
        line_number: from 1.
    """

    symptom: Symptom
    line: str
    line_number: int


def recognise(text: str) -> Recognised | None:
    """The cause that a message or log names; None where none is known.

    What tells exactly goes before what tells less, and harmless warnings come last; of equals the last one counts, because
    an error's last line is the error.
    """
    return next(iter(recognise_all(text)), None)


def recognise_all(text: str) -> list[Recognised]:
    """Every symptom of a text, the one that tells most first."""
    plain = COLOURS.sub("", text).replace("\r\n", "\n").replace("\r", "\n")
    found = []
    for symptom, pattern in _compiled():
        matches = list(pattern.finditer(plain))
        if matches:
            found.append((symptom.says, matches[-1].start(), symptom))
    found.sort(key=lambda item: (-item[0], -item[1]))
    return [_shown(symptom, plain, at) for _, at, symptom in found]


def means_trouble(recognised: Recognised | None) -> bool:
    """Whether it is more than a warning that needs nothing."""
    return recognised is not None and recognised.symptom.says > Says.HARMLESS


def _shown(symptom: Symptom, text: str, at: int) -> Recognised:
    start = text.rfind("\n", 0, at) + 1
    end = text.find("\n", at)
    line = text[start : len(text) if end < 0 else end].strip()
    if len(line) > SHOWN_CHARACTERS:
        line = line[:SHOWN_CHARACTERS].rstrip() + " ..."
    return Recognised(symptom, line, text.count("\n", 0, at) + 1)


@cache
def _compiled() -> tuple[tuple[Symptom, re.Pattern[str]], ...]:
    """A space in a pattern is any white space: messages are wrapped."""
    return tuple(
        (
            symptom,
            re.compile(
                "|".join(f"(?:{_spaced(pattern)})" for pattern in symptom.patterns),
                re.IGNORECASE | re.MULTILINE | re.DOTALL,
            ),
        )
        for symptom in SYMPTOMS
    )


def _spaced(pattern: str) -> str:
    return re.sub(r"(?<![\[\\]) (?!\?|\+|\*|\])", r"\\s+", pattern)
