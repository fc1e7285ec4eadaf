"""Where one sample ends and the next begins in a running text.

`--split-on line | blank-line | document | 'LITERAL'`, or `auto`, which decides for each file from its head and says
why in one line, so that a person can overrule it.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tunesmith.data.samples import SampleList
from tunesmith.data.tokenizer import SAFE_BORDER
from tunesmith.messages.catalogue import Phrase

AUTO, LINE, BLANK_LINE, DOCUMENT = "auto", "line", "blank-line", "document"

BLANK_LINES = re.compile(r"\n(?:[^\S\n]*\n)+")
"""Ends with a line end, so that the indentation of what follows stays."""
SHORT_LINE_CHARACTERS = 200
SHORT_VERSE_CHARACTERS = 100
SHORT_BLOCK_CHARACTERS = 300
FEW_BLANK_LINES = 0.02
NO_BLANK_LINES = 0.005
MANY_LINES = 500
MANY_BLOCKS = 20
PART_CHARACTERS = 2 << 20
"""A document is passed on in parts of about this size."""
LAST_BORDER_CHARACTERS = 1 << 14
WRAPPED_SHARE = 0.3
"""Share of lines that begin with a small letter from which a text was wrapped in the middle of sentences."""
WRAPPED_LINE_CHARACTERS = 40
HEADERS = {"text", "title", "titles", "name", "names", "tweet", "sentence", "content", "body", "message", "headline"}
"""What a list that was once a table's column begins with."""


@dataclass(frozen=True)
class Border:
    """Where the samples of a file end: line, blank-line, document or a string; and in a few words, why."""

    split_on: str
    reason: Phrase


@dataclass(frozen=True)
class TextShape:
    """What the head of a text looks like."""

    lines: int
    blank_share: float
    typical_line: int
    long_line: int
    small_letter_share: float
    blocks: int
    typical_block: int


def shape_of(head: str) -> TextShape:
    """Measure a head whose line ends are LF."""
    lines = head.split("\n")
    if lines[-1] == "":
        lines.pop()
    filled = [line for line in lines if line.strip()] or [""]
    blocks = [block for block in BLANK_LINES.split(head) if block.strip()] or [""]
    line_lengths = sorted(map(len, filled))
    block_lengths = sorted(map(len, blocks))
    return TextShape(
        lines=len(filled),
        blank_share=1 - len(filled) / max(len(lines), 1),
        typical_line=line_lengths[len(filled) // 2],
        long_line=line_lengths[len(filled) * 95 // 100],
        small_letter_share=sum(line.lstrip()[:1].islower() for line in filled) / len(filled),
        blocks=len(blocks),
        typical_block=block_lengths[len(blocks) // 2],
    )


def choose_split(head: str) -> Border:
    """Decide for a file from its head."""
    shape = shape_of(head)
    if shape.lines == 1 and shape.long_line > SHORT_LINE_CHARACTERS:
        return Border(DOCUMENT, Phrase("a single line"))
    wrapped = shape.small_letter_share > WRAPPED_SHARE and shape.typical_line > WRAPPED_LINE_CHARACTERS
    if wrapped:
        return Border(DOCUMENT, Phrase("lines are wrapped in the middle of sentences"))
    header = _header(head)
    if shape.blank_share < FEW_BLANK_LINES and shape.long_line <= SHORT_LINE_CHARACTERS:
        return Border(
            LINE,
            Phrase(
                "short lines (95 % have at most {long} characters), hardly any blank ones; "
                "the first one, {header!r}, looks like a header",
                {"long": shape.long_line, "header": header},
            )
            if header
            else Phrase(
                "short lines (95 % have at most {long} characters), hardly any blank ones", {"long": shape.long_line}
            ),
        )
    if shape.blank_share < NO_BLANK_LINES and shape.lines >= MANY_LINES:
        return Border(
            LINE,
            Phrase(
                "{lines:,} lines in its beginning alone, none of them blank; "
                "the first one, {header!r}, looks like a header",
                {"lines": shape.lines, "header": header},
            )
            if header
            else Phrase("{lines:,} lines in its beginning alone, none of them blank", {"lines": shape.lines}),
        )
    short_lines = shape.long_line <= SHORT_VERSE_CHARACTERS
    if short_lines and shape.blocks >= MANY_BLOCKS and shape.typical_block <= SHORT_BLOCK_CHARACTERS:
        return Border(
            BLANK_LINE,
            Phrase("short blocks (about {typical} characters) between blank lines", {"typical": shape.typical_block}),
        )
    return Border(DOCUMENT, Phrase("long paragraphs: running text"))


def _header(head: str) -> str:
    """The first line if it names a column; else ""."""
    first = head.split("\n", 1)[0].strip()
    return first if first.lower() in HEADERS else ""


def split_text(pieces: Iterable[str], split_on: str) -> Iterator[SampleList]:
    """Samples of a text that comes in pieces, a list at a time; line ends are LF, a last one ends the text.

    Args:
        pieces: the text, cut anywhere.
        split_on: line, blank-line, document, or any other string, which then is the border itself.
    """
    if split_on == DOCUMENT:
        yield from _document(pieces)
        return
    literal = {LINE: "\n", BLANK_LINE: "\n\n"}.get(split_on, split_on)
    rest = ""
    for piece in pieces:
        rest += piece
        if not (BLANK_LINES.search(rest) if split_on == BLANK_LINE else literal in rest):
            continue
        # The last sample may go on in the next piece, and so may the border behind it.
        *samples, rest = BLANK_LINES.split(rest) if split_on == BLANK_LINE else rest.split(literal)
        if split_on == BLANK_LINE and not rest.strip():
            rest = f"{samples.pop()}\n\n{rest}"
        yield SampleList(samples if split_on == LINE else [sample.strip("\n") for sample in samples], [])
    if rest:
        yield SampleList([rest if split_on == LINE else rest.strip("\n")], [])


def _document(pieces: Iterable[str]) -> Iterator[SampleList]:
    """One sample, in parts where it is long; line ends at its beginning and end are no part of it."""
    rest = ""
    begun = False
    for piece in pieces:
        rest += piece if begun else piece.lstrip("\n")
        begun = begun or bool(rest)
        if len(rest) >= PART_CHARACTERS:
            borders = [match.start() for match in SAFE_BORDER.finditer(rest, len(rest) - LAST_BORDER_CHARACTERS)]
            if borders:  # else it is left to grow: text without a single blank is rare
                yield SampleList([rest[: borders[-1]]], [], goes_on=True)
                rest = rest[borders[-1] :]
    yield SampleList([rest.rstrip("\n")], [])
