"""Which symptoms a text shows: of several the one that tells most, and of those the last."""

import re
from bisect import bisect
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from tunesmith.symptoms.symptom import Says, Symptom
from tunesmith.symptoms.table import SYMPTOMS

COLOURS = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
ONE_QUOTE = str.maketrans(dict.fromkeys('"`´‘’‚“”„«»‹›「」『』＂＇', "'"))  # noqa: RUF001
"""Programs, languages and web pages differ in their quotation marks."""
FRAME = re.compile(r"""^.{0,40}?File "[^"\n]+", line \d+(, in .*)?\n(.{0,40}?[ ]{4}.*\n){0,2}""", re.MULTILINE)
"""Of a Python traceback: the place, the code and the marks under it; behind what a launcher may write before each line."""
LONG_CHARACTERS = 1 << 16
"""Above it a log is read without what it says again and again: four megabytes of steps take 0.2 s instead of 27."""
SAID_AGAIN = 20
"""Times that a line may come with other numbers."""
NUMBERS, BARS = re.compile(r"\d[\d.,:%e+-]*"), re.compile(r"[\s#=>.\u2580-\u259f-]{2,}")
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
    lines = COLOURS.sub("", text).replace("\r\n", "\n").replace("\r", "\n").split("\n")
    numbers = _not_said_again(lines) if len(text) > LONG_CHARACTERS else range(len(lines))
    plain = "\n".join(lines[number] for number in numbers)
    read = (
        "".join(map(_lower, plain.translate(ONE_QUOTE))) if not plain.isascii() else plain.translate(ONE_QUOTE).lower()
    )
    frames = [match.span() for match in FRAME.finditer(plain)]
    found: dict[str, tuple[Says, int, Symptom]] = {}
    for symptom, says, pattern in _compiled():
        for match in pattern.finditer(read):
            told = min(says, Says.SOMETHING) if _is_within(frames, match.start(), match.end()) else says
            if symptom.name not in found or (told, match.start()) > found[symptom.name][:2]:
                found[symptom.name] = (told, match.start(), symptom)
    ordered = sorted(found.values(), key=lambda item: (-item[0], -item[1]))
    return [_shown(symptom, plain, at, numbers) for _, at, symptom in ordered]


def _not_said_again(lines: Sequence[str]) -> list[int]:
    """Lines without those that come again and again with other numbers, as steps and progress do; the last ones stay."""
    left = Counter[str]()
    numbers = []
    for number in range(len(lines) - 1, -1, -1):
        shape = BARS.sub(" ", NUMBERS.sub("0", lines[number]))
        left[shape] += 1
        if left[shape] <= SAID_AGAIN:
            numbers.append(number)
    return numbers[::-1]


def _is_within(frames: list[tuple[int, int]], start: int, end: int) -> bool:
    """Whether a stretch of the text lies in the frames of a traceback: code and paths, and not what went wrong."""
    behind = bisect(frames, start, key=lambda frame: frame[0])
    return behind > 0 and end <= frames[behind - 1][1]


def means_trouble(recognised: Recognised | None) -> bool:
    """Whether it is more than a warning that needs nothing."""
    return recognised is not None and recognised.symptom.says > Says.HARMLESS


def _shown(symptom: Symptom, text: str, at: int, numbers: Sequence[int]) -> Recognised:
    start = text.rfind("\n", 0, at) + 1
    end = text.find("\n", at)
    line = text[start : len(text) if end < 0 else end].strip()
    if len(line) > SHOWN_CHARACTERS:
        line = line[:SHOWN_CHARACTERS].rstrip() + " ..."
    return Recognised(symptom, line, numbers[text.count("\n", 0, at)] + 1)


@cache
def _compiled() -> tuple[tuple[Symptom, Says, re.Pattern[str]], ...]:
    """Every pattern by itself: Python finds each faster than all of them joined."""
    return tuple(
        (symptom, says, re.compile(_tolerant(pattern), re.MULTILINE | re.DOTALL))
        for symptom in SYMPTOMS
        for says, patterns in symptom.told()
        for pattern in patterns
    )


def _lower(character: str) -> str:
    """In lower case where that is one character too: places in the text stay what they are."""
    lower = character.lower()
    return lower if len(lower) == 1 else character


def _tolerant(pattern: str) -> str:
    """A pattern as it is looked for: a space is any white space, because messages are wrapped; colons may stand free.

    A quotation mark is any one. Both sides are in lower case, which Python finds several times faster than it compares without case.
    """
    free = re.sub(r"(?<=\w): (?!\?|\+|\*|\])", r"\\s?:\\s*", pattern)
    spaced = re.sub(r"(?<![\[\\]) (?!\?|\+|\*|\])", r"\\s+", free.translate(ONE_QUOTE))
    return re.sub(r"\\.|[^\\]+", lambda part: part[0] if part[0].startswith("\\") else part[0].lower(), spaced)
