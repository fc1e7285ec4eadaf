"""Lines of text in terminal cells: a Japanese character takes two of them, and a line may end behind most of them.

Rich breaks lines at blanks only, of which Japanese has none. Which characters begin or end no line is from JIS X 4051
("kinsoku"), in short.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

from rich.cells import cell_len, chop_cells
from rich.containers import Lines
from rich.text import Text

WIDE = "\u3000-\u303f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uff01-\uffef"
BEGIN_NO_LINE = "\u3001\u3002\uff0c\uff0e\u30fb\uff09\u300d\u300f\u3011\uff01\uff1f\uff1a\uff1b\u30fc\u3005\uff05"
BEGIN_NO_LINE += (
    "\u3041\u3043\u3045\u3047\u3049\u3063\u3083\u3085\u3087\u30a1\u30a3\u30a5\u30a7\u30a9\u30c3\u30e3\u30e5\u30e7"
)
END_NO_LINE = "\uff08\u300c\u300e\u3010"
PIECE = re.compile(
    rf"\s*(?:[{END_NO_LINE}(\[]*(?:(?![{END_NO_LINE}])[{WIDE}]|[^\s{WIDE}]+)[{BEGIN_NO_LINE},.;:)\]]*|[{END_NO_LINE}]+)"
)
"""What stays on one line: a word, or a wide character with the marks around it."""


def padded(text: str, cells: int) -> str:
    """A text with blanks behind it, in so many cells or more."""
    return text + " " * (cells - cell_len(text))


def wrapped(text: str, cells: int) -> list[str]:
    """A text in lines of at most so many cells; line ends in it stay, blanks around what is broken go."""
    return [
        line[start:end].strip() if start else line[:end].rstrip()
        for line in text.split("\n")
        for start, end in _spans(line, cells)
    ]


class WrappedText(Text):
    """Rich's text with lines that may end between wide characters."""

    def wrap(self, console: Any, width: int, **options: Any) -> Lines:  # noqa: ANN401, ARG002
        """As `wrapped`, with its styles."""
        offsets = [start for start, _ in _spans(self.plain, width)][1:]
        lines = self.divide(offsets)
        for line in lines:
            line.rstrip()
        return lines


def _spans(line: str, cells: int) -> Iterator[tuple[int, int]]:
    """Where each part of a line begins and ends."""
    start = position = used = 0
    for piece in _pieces(line, cells):
        blank = len(piece) - len(piece.lstrip())
        if position > start and used + cell_len(piece) > cells:
            yield start, position
            start, used = position + blank, cell_len(piece[blank:])
        else:
            used += cell_len(piece)
        position += len(piece)
    yield start, len(line)


def _pieces(line: str, cells: int) -> Iterator[str]:
    """Words and wide characters with the blanks before them; what fits no line is cut."""
    end = 0
    for match in PIECE.finditer(line):
        piece = line[end : match.end()]
        end = match.end()
        if cell_len(piece) <= cells:
            yield piece
        else:
            yield from chop_cells(piece, cells)


def aligned(rows: list[tuple[str, str]], width: int | None = None) -> str:
    """Two columns; in a terminal of `width` cells the second one is wrapped."""
    name_cells = max(cell_len(name) for name, _ in rows)
    lines = []
    for name, value in rows:
        parts = [value] if width is None else wrapped(value, width - name_cells - 2)
        lines += [
            f"{padded(start, name_cells)}  {part}".rstrip()
            for start, part in zip([name, *[""] * len(parts)], parts, strict=False)
        ]
    return "\n".join(lines)


def printable(text: str) -> str:
    """Text without the control characters that could drive a terminal."""
    return "".join(
        "\ufffd" if unicodedata.category(character) == "Cc" and character not in "\n\t" else character
        for character in text
    )


def grid(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Columns side by side; characters that take two cells count twice."""
    cells = [[printable(cell).replace("\n", " ") for cell in row] for row in rows]
    widths = [max(cell_len(row[column]) for row in cells) for column in range(len(cells[0]))]
    lines = []
    for row in cells:
        padded = [
            " " * (width - cell_len(cell)) + cell if column in right else cell + " " * (width - cell_len(cell))
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)
