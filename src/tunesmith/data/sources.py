"""Files into samples: one text after another, with nothing silently cut, dropped or read as another encoding.

A `.txt` holds one sample a line (LF, CRLF or CR; a byte order mark is no text), a `.csv` one sample a row in its
text column, quoted line breaks included. A literal end-of-text marker inside a text is a border between two
samples. What is left out (empty samples) is counted.
"""

import csv
import io
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tunesmith.errors import UserError

READABLE = (".txt", ".csv")


@dataclass(frozen=True)
class Sample:
    """One text, and where it stood.

    Attributes:
        text: without its line end.
        line: the line of the file on which it began, from 1.
    """

    text: str
    line: int


def source_path(source: str) -> Path:
    """Check that a SOURCE is a readable file of a known kind.

    Raises:
        UserError: naming what is wrong with it.
    """
    path = Path(source)
    if path.is_dir():
        raise UserError(f"{source} is a folder", hint=f"name a file: {' or '.join(READABLE)}")
    if not path.is_file():
        raise UserError(f"there is no file {source}", hint="check the path; relative paths start at the current folder")
    if path.suffix.lower() not in READABLE:
        raise UserError(
            f"{source} is no {' or '.join(READABLE)} file",
            hint="save it as .txt with one sample a line, or as .csv with a text column",
        )
    if path.stat().st_size == 0:
        raise UserError(f"{source} is empty", hint="name a file that holds text")
    return path


def read_samples(path: Path, *, text_field: str) -> Iterator[Sample]:
    """Yield the samples of a file, empty ones included, in their order.

    Raises:
        UserError: for bytes that are not UTF-8, a missing text column, or a damaged table.
    """
    text = _decode(path)
    if path.suffix.lower() == ".csv":
        yield from _rows(path, text, text_field)
    else:
        yield from (Sample(line, number) for number, line in enumerate(_lines(text), start=1))


def _decode(path: Path) -> str:
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8: byte 0x{content[error.start]:02x} at offset {error.start}",
            hint="convert it first, for example: iconv -f CP932 -t UTF-8 OLD > NEW",
        ) from None


def _lines(text: str) -> list[str]:
    """Split at LF, CRLF and CR only: form feeds and Unicode's other separators are part of a text."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def _rows(path: Path, text: str, text_field: str) -> Iterator[Sample]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # a C long on Windows
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader)
        if text_field not in header:
            raise UserError(
                f"{path} has no column {text_field!r}; its columns are {', '.join(map(repr, header))}",
                hint="name the column that holds the samples: --text-field COLUMN",
            )
        column = header.index(text_field)
        line = reader.line_num + 1
        for row in reader:
            if len(row) == len(header):
                yield Sample(row[column], line)
            elif row:  # csv gives [] for a blank line
                raise UserError(
                    f"{path} line {line} has {len(row)} fields where the header has {len(header)}",
                    hint="quote fields that hold commas or line breaks; or save as .txt with one sample a line",
                )
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"{path} is no valid CSV near line {reader.line_num}: {error}",
            hint="write it with a CSV library or a spreadsheet; or save as .txt with one sample a line",
        ) from None
