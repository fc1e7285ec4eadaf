"""Match error messages and logs against the known issues in `rules/*.toml`.

The rules are the only source of what `explain`, `doctor` and unexpected errors advise, and of the troubleshooting page.
"""

import re
import tomllib
from bisect import bisect
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from importlib.resources import files
from typing import Any

CHAPTERS = (
    "gpu",
    "memory",
    "precision",
    "text",
    "hub",
    "training",
    "scripts",
    "compiling",
    "disk",
    "systems",
    "packages",
)
"""The files in `rules`, in the order of the troubleshooting page; of equally specific matches order does not count."""
ANSI_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
ONE_QUOTE = str.maketrans(dict.fromkeys('"`´‘’‚“”„«»‹›「」『』＂＇', "'"))  # noqa: RUF001
"""Programs, languages and web pages differ in their quotation marks."""
FRAME = re.compile(r"""^.{0,40}?File "[^"\n]+", line \d+(, in .*)?\n(.{0,40}?[ ]{4}.*\n){0,2}""", re.MULTILINE)
"""A frame of a Python traceback: place, code, and the marks under it, each after what a launcher may prefix."""
LONG_CHARACTERS = 1 << 16
"""Longer logs are read without their repeated lines: four megabytes of steps take 0.2 s instead of 27."""
MAX_REPEATS = 20
"""Of a line that comes again with other numbers."""
NUMBERS, BARS = re.compile(r"\d[\d.,:%e+-]*"), re.compile(r"[\s#=>.\u2580-\u259f-]{2,}")
SHOWN_CHARACTERS = 240


class Specificity(IntEnum):
    """How much a message tells; of several in one log the most specific one is the cause."""

    IGNORE = 0
    """A warning that needs no action."""
    GENERIC = 1
    """An ending that many causes share."""
    SPECIFIC = 2
    """One cause."""
    EXACT = 3
    """One cause, even where other messages follow from it."""


@dataclass(frozen=True)
class Rule:
    """A known issue: the messages that show it, its cause, and its fix.

    In the regular expressions case does not count, a space is any white space, and ' is any quotation mark.

    Attributes:
        patterns: regular expressions, any of which identifies the issue.
        exact_patterns: further ones, with the specificity EXACT.
        weak_patterns: further ones, with the specificity GENERIC.
        cause: in a sentence, a text of the message catalog, as `fix` is.
        examples: messages from the field.
        about_machine: whether the issue lies in the machine or its installation, and not in a program or its input.
    """

    name: str
    cause: str
    fix: str
    patterns: tuple[str, ...]
    examples: tuple[str, ...]
    specificity: Specificity = Specificity.SPECIFIC
    exact_patterns: tuple[str, ...] = ()
    weak_patterns: tuple[str, ...] = ()
    about_machine: bool = False

    def patterns_by_specificity(self) -> tuple[tuple[Specificity, tuple[str, ...]], ...]:
        """All patterns, grouped."""
        return (
            (self.specificity, self.patterns),
            (Specificity.EXACT, self.exact_patterns),
            (Specificity.GENERIC, self.weak_patterns),
        )


@dataclass(frozen=True)
class Chapter:
    """The rules of one file."""

    title: str
    rules: tuple[Rule, ...]


@dataclass(frozen=True)
class RuleMatch:
    """A rule that applies to a text, with the line that shows it, shortened, and its number from 1."""

    rule: Rule
    line: str
    line_number: int


@cache
def chapters() -> tuple[Chapter, ...]:
    """All known issues, read from the package's files."""
    folder = files("tunesmith.diagnostics").joinpath("rules")
    contents = {name: tomllib.loads(folder.joinpath(f"{name}.toml").read_text("utf-8")) for name in CHAPTERS}
    unknown_command = contents["systems"]["unknown_command_patterns"]
    return tuple(
        Chapter(
            content["title"],
            tuple(_rule(entry, unknown_command, content.get("about_machine", False)) for entry in content["rule"]),
        )
        for content in contents.values()
    )


def _rule(entry: dict[str, Any], unknown_command: Sequence[str], about_machine: bool) -> Rule:  # noqa: FBT001
    """A rule from its table in the file; `unknown_commands` stands for what shells print about these commands."""
    commands = entry.pop("unknown_commands", None)
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in entry.items()}
    values["specificity"] = Specificity[entry.get("specificity", "specific").upper()]
    if commands:
        values["patterns"] += tuple(pattern.replace("COMMANDS", commands) for pattern in unknown_command)
    return Rule(**{"about_machine": about_machine, **values})


def all_rules() -> tuple[Rule, ...]:
    """The rules of all chapters."""
    return tuple(rule for chapter in chapters() for rule in chapter.rules)


def rule_named(name: str) -> Rule:
    """The rule with this name."""
    return next(rule for rule in all_rules() if rule.name == name)


def best_match(text: str) -> RuleMatch | None:
    """The cause that a message or log shows; None where none is known.

    More specific matches win, and warnings that need no action come last. Of equally specific ones the last match wins,
    because the last line of an error says what it is.
    """
    return next(iter(all_matches(text)), None)


def all_matches(text: str) -> list[RuleMatch]:
    """Every rule that applies to a text, the most specific one first."""
    lines = ANSI_ESCAPES.sub("", text).replace("\r\n", "\n").replace("\r", "\n").split("\n")
    numbers = _without_repeats(lines) if len(text) > LONG_CHARACTERS else range(len(lines))
    plain = "\n".join(lines[number] for number in numbers)
    quoted = plain.translate(ONE_QUOTE)
    searched = quoted.lower() if plain.isascii() else "".join(map(_lower, quoted))
    frames = [match.span() for match in FRAME.finditer(plain)]
    best: dict[str, tuple[Specificity, int, Rule]] = {}
    for rule, usual, pattern in _compiled():
        for match in pattern.finditer(searched):
            specificity = min(usual, Specificity.GENERIC) if _is_within(frames, match.start(), match.end()) else usual
            if rule.name not in best or (specificity, match.start()) > best[rule.name][:2]:
                best[rule.name] = (specificity, match.start(), rule)
    ordered = sorted(best.values(), key=lambda item: (-item[0], -item[1]))
    return [_match(rule, plain, start, numbers) for _, start, rule in ordered]


def _without_repeats(lines: Sequence[str]) -> list[int]:
    """Drop lines that come again and again with other numbers, as steps and progress bars do, but the last ones."""
    counts = Counter[str]()
    numbers = []
    for number in range(len(lines) - 1, -1, -1):
        shape = BARS.sub(" ", NUMBERS.sub("0", lines[number]))
        counts[shape] += 1
        if counts[shape] <= MAX_REPEATS:
            numbers.append(number)
    return numbers[::-1]


def _is_within(frames: list[tuple[int, int]], start: int, end: int) -> bool:
    """Whether a span lies in the frames of a traceback: code and paths, and not the error."""
    position = bisect(frames, start, key=lambda frame: frame[0])
    return position > 0 and end <= frames[position - 1][1]


def _match(rule: Rule, text: str, position: int, numbers: Sequence[int]) -> RuleMatch:
    start = text.rfind("\n", 0, position) + 1
    end = text.find("\n", position)
    line = text[start : len(text) if end < 0 else end].strip()
    if len(line) > SHOWN_CHARACTERS:
        line = line[:SHOWN_CHARACTERS].rstrip() + " ..."
    return RuleMatch(rule, line, numbers[text.count("\n", 0, position)] + 1)


@cache
def _compiled() -> tuple[tuple[Rule, Specificity, re.Pattern[str]], ...]:
    """Every pattern by itself: Python finds each faster than all of them joined."""
    return tuple(
        (rule, specificity, re.compile(_tolerant(pattern), re.MULTILINE | re.DOTALL))
        for rule in all_rules()
        for specificity, patterns in rule.patterns_by_specificity()
        for pattern in patterns
    )


def _lower(character: str) -> str:
    """Lower case where that is one character too: positions in the text do not move."""
    lower = character.lower()
    return lower if len(lower) == 1 else character


def _tolerant(pattern: str) -> str:
    """Let a space match any white space, because messages are wrapped, also around colons, and one quotation mark any.

    Pattern and text are in lower case, which Python finds several times faster than it compares without case.
    """
    colons = re.sub(r"(?<=\w): (?!\?|\+|\*|\])", r"\\s?:\\s*", pattern)
    spaced = re.sub(r"(?<![\[\\]) (?!\?|\+|\*|\])", r"\\s+", colons.translate(ONE_QUOTE))
    return re.sub(r"\\.|[^\\]+", lambda part: part[0] if part[0].startswith("\\") else part[0].lower(), spaced)
