"""Sample boundaries: where one sample ends and the next begins in a running text.

`--split-on line | blank-line | heading | document | 'LITERAL'`, or `auto`, which decides for each file from its head
and gives the reason in one line, so that the user can override it.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

from tunesmith.data.tokenizer import SAFE_BORDER
from tunesmith.i18n import LazyString

AUTO, LINE, BLANK_LINE, HEADING, DOCUMENT = "auto", "line", "blank-line", "heading", "document"

BLANK_LINES = re.compile(r"\n(?:[^\S\n]*\n)+")
"""Ends with a line end, so that the indentation of the next sample stays."""
BEFORE_HEADING = re.compile(r"\n[^\S\n]*\n(?=# (?=\S)[^\n]*[^\n\s.:;,(){}]\n[^\S\n]*\n| ?= [^=\n]+ = ?\n)")
"""Before a heading of the first level between blank lines: `# Title`, or `= Title =` of a wiki."""
SEPARATOR_LINE = re.compile(r"^[^\S\n]*(?:([-=*_~#+])(?:[^\S\n]*\1){2,}|%|\u2042|\*)[^\S\n]*$", re.MULTILINE)
"""A line that only separates: three or more of a sign, `* * *`, or the % of a file of quotations."""
SCENE_BREAKS = "*#~\u2042"
MIN_SECTIONS, LONGEST_SECTION = 4, 20_000
MIN_SCENES, LONGEST_SCENE = 20, 3000
"""Signs that a single story or speech uses between its scenes separate samples only if they are many and short."""
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


def shown_separator(split_on: str) -> str:
    """Return a value of --split-on as it is typed, on one line."""
    return split_on.replace("\n", "\\n").replace("\t", "\\t")


def detect_boundary(head: str) -> SampleBoundary:  # noqa: PLR0911  a table of cases
    """Decide for a file from its head, whose line ends are LF."""
    separator = separator_of(head)
    if separator:
        return SampleBoundary(
            f"\n{separator}\n", LazyString("lines of {separator!r} separate the samples", {"separator": separator})
        )
    if _has_headings(head):
        return SampleBoundary(HEADING, LazyString("each heading of the first level begins a sample"))
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


def separator_of(head: str) -> str:
    """Return the line that separates the samples of a text; "" if there is none.

    Lines under a heading (a text line above, a blank one below) and the breaks between long scenes are none.
    """
    counts = Counter(match[0] for match in SEPARATOR_LINE.finditer(head))
    if not counts:
        return ""
    (separator, n_separators), *_ = counts.most_common(1)
    pattern = rf"^{re.escape(separator)}$"
    lengths = sorted(len(part) for part in re.split(pattern, head, flags=re.MULTILINE) if part.strip())
    is_scene_break = separator.strip()[0] in SCENE_BREAKS
    fewest, longest = (MIN_SCENES, LONGEST_SCENE) if is_scene_break else (MIN_SECTIONS, LONGEST_SECTION)
    if len(lengths) < fewest or lengths[len(lengths) // 2] > longest:
        return ""
    underlines = len(re.findall(rf"[^\n]\n{re.escape(separator)}\n[^\S\n]*\n", head))
    return separator if underlines < n_separators / 2 else ""


def _has_headings(head: str) -> bool:
    """Whether a text begins with a heading of the first level and has several."""
    text = "\n\n" + head.lstrip()
    first = BEFORE_HEADING.search(text) or BEFORE_HEADING.search("\n\n " + head.lstrip())
    return first is not None and first.start() == 0 and len(BEFORE_HEADING.findall(text)) >= MIN_SECTIONS - 1


def split_text(pieces: Iterable[str], split_on: str) -> Iterator[TextBatch]:
    """Split a text that comes in pieces into samples; line ends are LF, a last one ends the text.

    Args:
        pieces: the text, cut anywhere.
        split_on: line, blank-line, heading, document, or any other string, which then is the separator itself.
    """
    if split_on == DOCUMENT:
        yield from _document(pieces)
        return
    is_line = split_on not in {LINE, BLANK_LINE, HEADING} and split_on[0] == split_on[-1] == "\n" != split_on
    rest = "\n" if is_line else ""  # a separator that is a line of its own may be the first line and the last
    separator = _separator(split_on, is_line=is_line)
    for piece in chain(pieces, ["\n"] if is_line else []):
        rest += piece
        if not separator.search(rest):
            continue
        # the last sample may continue in the next piece, and so may the separator after it
        *samples, rest = separator.split(rest)
        if split_on == BLANK_LINE and not rest.strip():
            rest = f"{samples.pop()}\n\n{rest}"
        yield TextBatch(samples if split_on == LINE else [sample.strip("\n") for sample in samples], [])
    if rest:
        yield TextBatch([rest if split_on == LINE else rest.strip("\n")], [])


def _separator(split_on: str, *, is_line: bool) -> re.Pattern[str]:
    known = {LINE: re.compile("\n"), BLANK_LINE: BLANK_LINES, HEADING: BEFORE_HEADING}
    if split_on in known:
        return known[split_on]
    # two such lines may share a line end
    return re.compile(rf"{re.escape(split_on[:-1])}(?=\n)" if is_line else re.escape(split_on))


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
