"""Sample boundaries: where one sample ends and the next begins in a running text.

`--split-on line | blank-line | document | 'LITERAL'`, or `auto`, which decides for each file from its head and gives
the reason in one line, so that the user can override it.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tunesmith.data.tokenizer import SAFE_BORDER
from tunesmith.i18n import LazyString

AUTO, LINE, BLANK_LINE, DOCUMENT = "auto", "line", "blank-line", "document"

BLANK_LINES = re.compile(r"\n(?:[^\S\n]*\n)+")
"""Ends with a line end, so that the indentation of the next sample stays."""
SHORT_LINE_CHARACTERS = 200
SHORT_VERSE_CHARACTERS = 100
SHORT_BLOCK_CHARACTERS = 300
FEW_BLANK_LINES = 0.02
NO_BLANK_LINES = 0.005
MANY_LINES = 500
MANY_BLOCKS = 20
PART_CHARACTERS = 2 << 20
"""Size of the parts in which a long document is passed on."""
LAST_BORDER_CHARACTERS = 1 << 14
WRAPPED_FRACTION = 0.3
"""Fraction of lines that begin with a small letter from which a text counts as wrapped in the middle of sentences."""
WRAPPED_LINE_CHARACTERS = 40
HEADERS = {"text", "title", "titles", "name", "names", "tweet", "sentence", "content", "body", "message", "headline"}
"""First lines of lists that were exported from a table."""


@dataclass(frozen=True)
class TextBatch:
    """Samples in file order.

    Attributes:
        texts: whole texts.
        prompt_characters: of each text, how many characters at its beginning are given and not predicted;
            empty if all texts are predicted whole.
        is_partial: the last text continues with the first text of the next batch: a long document comes in parts,
            so that it does not have to fit into memory.
    """

    texts: list[str]
    prompt_characters: list[int]
    is_partial: bool = False

    def parts(self) -> tuple[list[str], list[str]]:
        """Prompts and completions."""
        pairs = zip(self.texts, self.prompt_characters, strict=True)
        prompts, completions = zip(*((text[:cut], text[cut:]) for text, cut in pairs), strict=True)
        return list(prompts), list(completions)


@dataclass(frozen=True)
class SampleBoundary:
    """Where the samples of a file end (line, blank-line, document or a literal), and the reason."""

    split_on: str
    reason: LazyString


def detect_boundary(head: str) -> SampleBoundary:
    """Decide for a file from its head, whose line ends are LF."""
    all_lines = head.removesuffix("\n").split("\n")
    lines = [line for line in all_lines if line.strip()] or [""]
    blocks = [block for block in BLANK_LINES.split(head) if block.strip()] or [""]
    line_lengths = sorted(map(len, lines))
    median_line = line_lengths[len(lines) // 2]
    long_line = line_lengths[len(lines) * 95 // 100]
    median_block = sorted(map(len, blocks))[len(blocks) // 2]
    blank_fraction = 1 - len(lines) / max(len(all_lines), 1)
    small_fraction = sum(line.lstrip()[:1].islower() for line in lines) / len(lines)
    if len(lines) == 1 and long_line > SHORT_LINE_CHARACTERS:
        return SampleBoundary(DOCUMENT, LazyString("a single line"))
    if small_fraction > WRAPPED_FRACTION and median_line > WRAPPED_LINE_CHARACTERS:
        return SampleBoundary(DOCUMENT, LazyString("lines are wrapped in the middle of sentences"))
    first = head.split("\n", 1)[0].strip()
    header = first if first.lower() in HEADERS else ""
    if blank_fraction < FEW_BLANK_LINES and long_line <= SHORT_LINE_CHARACTERS:
        return SampleBoundary(
            LINE,
            LazyString(
                "short lines (95 % have at most {long} characters), hardly any blank ones; "
                "the first one, {header!r}, looks like a header",
                {"long": long_line, "header": header},
            )
            if header
            else LazyString(
                "short lines (95 % have at most {long} characters), hardly any blank ones", {"long": long_line}
            ),
        )
    if blank_fraction < NO_BLANK_LINES and len(lines) >= MANY_LINES:
        return SampleBoundary(
            LINE,
            LazyString(
                "{lines:,} lines in its beginning alone, none of them blank; "
                "the first one, {header!r}, looks like a header",
                {"lines": len(lines), "header": header},
            )
            if header
            else LazyString("{lines:,} lines in its beginning alone, none of them blank", {"lines": len(lines)}),
        )
    if long_line <= SHORT_VERSE_CHARACTERS and len(blocks) >= MANY_BLOCKS and median_block <= SHORT_BLOCK_CHARACTERS:
        return SampleBoundary(
            BLANK_LINE,
            LazyString("short blocks (about {typical} characters) between blank lines", {"typical": median_block}),
        )
    return SampleBoundary(DOCUMENT, LazyString("long paragraphs: running text"))


def split_text(pieces: Iterable[str], split_on: str) -> Iterator[TextBatch]:
    """Split a text that comes in pieces into samples; line ends are LF, a last one ends the text.

    Args:
        pieces: the text, cut anywhere.
        split_on: line, blank-line, document, or any other string, which then is the separator itself.
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
        # the last sample may continue in the next piece, and so may the separator after it
        *samples, rest = BLANK_LINES.split(rest) if split_on == BLANK_LINE else rest.split(literal)
        if split_on == BLANK_LINE and not rest.strip():
            rest = f"{samples.pop()}\n\n{rest}"
        yield TextBatch(samples if split_on == LINE else [sample.strip("\n") for sample in samples], [])
    if rest:
        yield TextBatch([rest if split_on == LINE else rest.strip("\n")], [])


def _document(pieces: Iterable[str]) -> Iterator[TextBatch]:
    """One sample, in parts if it is long; line ends at its beginning and end are left out."""
    rest = ""
    begun = False
    for piece in pieces:
        rest += piece if begun else piece.lstrip("\n")
        begun = begun or bool(rest)
        if len(rest) >= PART_CHARACTERS:
            borders = [match.start() for match in SAFE_BORDER.finditer(rest, len(rest) - LAST_BORDER_CHARACTERS)]
            if borders:  # otherwise it keeps growing: text without a single blank is rare
                yield TextBatch([rest[: borders[-1]]], [], is_partial=True)
                rest = rest[borders[-1] :]
    yield TextBatch([rest.rstrip("\n")], [])
