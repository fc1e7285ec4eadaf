"""Read tables: .csv, .tsv, .jsonl, .json, .parquet, .arrow; one row is one sample.

The text is in the named column, else in `text`, else in a known pair of columns, else in the only one that looks like
text; if several do, the error lists them. Rows stream: a table may be larger than memory (.json, which is one value,
may not). Whether a delimited file has a header row, and what separates its fields, is read from its first rows.
"""

import csv
import io
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, BinaryIO, TextIO

from tunesmith.data.hf_datasets import HFDataset
from tunesmith.data.segmentation import TextBatch
from tunesmith.data.source_files import ARROW_KINDS, SourceFile
from tunesmith.errors import UserError
from tunesmith.utils.files import parse_json, shown_json

Row = dict[str, Any]
KNOWN_PAIRS = (
    ("prompt", "completion"),
    ("question", "answer"),
    ("instruction", "output"),
    ("instruction", "response"),
    ("input", "output"),
    ("prompt", "response"),
)
"""Columns that are used as prompt and completion in a table without a `text` column."""
PROMPT_PARTS = {
    ("instruction", "output"): ("instruction", "input"),
    ("instruction", "response"): ("instruction", "context"),
    ("question", "answer"): ("context", "question"),
}
"""Columns whose text together is the prompt of a known pair, one a line, where the table has them (Alpaca, Dolly)."""
DELIMITERS = (",", ";", "\t", "|")
USUAL_DELIMITER = {".csv": ",", ".tsv": "\t"}
HEADER_NAMES = frozenset(
    {"text", "prompt", "completion", "question", "answer", "instruction", "output", "input", "response", "context"}
    | {"title", "body", "content", "message", "tweet", "comment", "sentence", "id", "label", "url", "date", "author"}
    | {"本文", "テキスト", "タイトル", "題名", "質問", "回答"}
)
"""A first row with one of these is a header row."""
SENTENCE_ENDS = (".", "!", "?", "\u2026", "\u3002", "\uff01", "\uff1f", "\u300d")
HEAD_CHARACTERS = 1 << 18
MIN_TABLE_ROWS = 10
"""A .txt file with at least this many lines, all with the same three or more fields, looks like a table."""

ROWS_AT_A_TIME = 8192
ROWS_LOOKED_AT = 200
DEFAULT_FIELD = "text"
MIN_TYPICAL_CHARACTERS = 12
"""A column with shorter typical values contains labels, not texts."""


@dataclass(frozen=True)
class TableColumns:
    """The columns of a table that make a sample, as set by the user.

    Attributes:
        text: the whole sample; None chooses.
        prompt: what is given, in a pair.
        completion: what is predicted, in a pair.
        template: turns a pair into a text; contains {prompt} and after it {completion}.
    """

    text: str | None = None
    prompt: str | None = None
    completion: str | None = None
    template: str = "{prompt}\n{completion}"


@dataclass(frozen=True)
class ChosenColumns:
    """The columns of a table that make a sample, as found.

    Attributes:
        text: the whole sample; "" for a pair.
        prompt: their texts, one a line, are given; () without a pair.
        completion: what is predicted; "" without a pair.
        unused: all other columns.
    """

    text: str
    prompt: tuple[str, ...]
    completion: str
    unused: tuple[str, ...]

    @property
    def used(self) -> tuple[str, ...]:
        """The columns that are read."""
        return (self.text,) if self.text else (*self.prompt, self.completion)


@dataclass(frozen=True)
class TableFormat:
    """How a delimited file is written.

    Attributes:
        delimiter: between fields.
        has_header: whether the first row has the names of the columns; without one they are 1, 2, ...
    """

    delimiter: str
    has_header: bool


def table_rows(file: SourceFile, encoding: str, errors: str) -> Iterator[Row]:
    """Stream the rows of a table."""
    with file.open() as binary:
        if file.kind in ARROW_KINDS:
            yield from _arrow_rows(file, binary)
            return
        line_ends = "" if file.kind in {".csv", ".tsv"} else None  # csv finds its own
        with io.TextIOWrapper(binary, encoding, errors, newline=line_ends) as stream:
            yield from TEXT_TABLES[file.kind](file, stream)


def samples_of(
    file: SourceFile | HFDataset, rows: Iterable[Row], columns: ChosenColumns, template: str
) -> Iterator[TextBatch]:
    """Convert rows to samples.

    Args:
        file: named in errors.
        rows: of the table.
        columns: to be read.
        template: turns a pair into a text; contains {prompt} and after it {completion}.
    """
    prompt_part, _, rest = template.partition("{completion}")
    numbers = enumerate(rows, start=1)
    while numbered := list(islice(numbers, ROWS_AT_A_TIME)):
        if columns.text:
            yield TextBatch([text_of(file, row, columns.text, number) for number, row in numbered], [])
            continue
        given, texts = [], []
        for number, row in numbered:
            parts = [text_of(file, row, name, number) for name in columns.prompt]
            prompt = prompt_part.replace("{prompt}", "\n".join(part for part in parts if part))
            completion = text_of(file, row, columns.completion, number)
            given.append(len(prompt))
            texts.append(prompt + completion + rest if completion else "")
        yield TextBatch(texts, given)


def choose_columns(file: SourceFile | HFDataset, rows: list[Row], requested: TableColumns) -> ChosenColumns:
    """Choose the columns that make a sample, from the first rows of a table.

    Raises:
        UserError: if there are no rows, a requested column does not exist, or none or several could be meant.
    """
    if not rows:
        raise UserError("{path} has no rows", hint="name a table that contains text", path=file.path)
    names = list(dict.fromkeys(name for row in rows for name in row))
    pair = choose_pair(file, names, requested)
    if pair is None:
        text = choose_field(file, rows, requested.text)
        return ChosenColumns(text, (), "", tuple(name for name in names if name != text))
    prompt: tuple[str, ...] = (pair[0],)
    if requested.prompt is None:
        prompt = tuple(name for name in PROMPT_PARTS.get(pair, prompt) if name in names)
    return ChosenColumns("", prompt, pair[1], tuple(name for name in names if name not in {*prompt, pair[1]}))


def choose_pair(file: SourceFile | HFDataset, names: list[str], columns: TableColumns) -> tuple[str, str] | None:
    """Return the columns of prompt and completion, or None if a sample is one text."""
    requested = (columns.prompt, columns.completion)
    if requested == (None, None):
        known = [pair for pair in KNOWN_PAIRS if set(pair) <= set(names)]
        return known[0] if known and columns.text is None and DEFAULT_FIELD not in names else None
    if None in requested:
        raise UserError(
            "--prompt-field and --completion-field go together", hint="name both, or --text-field for whole texts"
        )
    for name in requested:
        if name not in names:
            raise UserError(
                "{path} has no column {name!r}; its columns are {columns}",
                hint="--prompt-field and --completion-field name two of them",
                path=file.path,
                name=name,
                columns=", ".join(map(repr, names)),
            )
    return str(columns.prompt), str(columns.completion)


def choose_field(file: SourceFile | HFDataset, rows: list[Row], requested: str | None) -> str:
    """Return the column that is the text."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = ", ".join(map(repr, names))
    if requested is not None and requested not in names:
        raise UserError(
            "{path} has no column {name!r}; its columns are {columns}",
            hint="--text-field names one of them",
            path=file.path,
            name=requested,
            columns=columns,
        )
    if requested is not None or DEFAULT_FIELD in names:
        return requested or DEFAULT_FIELD
    plausible = [name for name in names if _looks_like_text([row.get(name) for row in rows])]
    if len(plausible) == 1:
        return plausible[0]
    raise UserError(
        "{path} has no column 'text'; its columns are {columns}, and {plausible} could be meant"
        if plausible
        else "{path} has no column 'text'; its columns are {columns}, and none of them looks like text",
        hint="name the column with the samples: --text-field COLUMN",
        path=file.path,
        columns=columns,
        plausible=", ".join(map(repr, plausible)),
    )


def _looks_like_text(values: list[object]) -> bool:
    texts = [value for value in values if isinstance(value, str) and value]
    if len(texts) < len(values) / 2:
        return False
    typical = sorted(map(len, texts))[len(texts) // 2]
    return typical >= MIN_TYPICAL_CHARACTERS and any(" " in text.strip() or not text.isascii() for text in texts)


def text_of(file: SourceFile | HFDataset, row: Row, field: str, number: int) -> str:
    """Return a column of a row; "" where it is missing."""
    value = row.get(field)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UserError(
            "{path} row {number:,}: {field!r} is {value}, not text",
            hint="name the column with the samples: --text-field COLUMN",
            path=file.path,
            number=number,
            field=field,
            value=shown_json(value)[:60],
        )
    return value


def read_head(stream: TextIO) -> str:
    """Read the beginning of a file, up to the end of a line."""
    return stream.read(HEAD_CHARACTERS) + stream.readline()


def detect_table_format(head: str, kind: str) -> TableFormat:
    """Read from the first rows of a delimited file how it is written.

    The kind's usual delimiter counts unless another one, and it alone, gives all rows the same number of fields.

    Args:
        head: whole lines from the beginning of the file.
        kind: .csv or .tsv.
    """
    usual = USUAL_DELIMITER[kind]
    widths = {delimiter: _width(_records(head, delimiter)) for delimiter in DELIMITERS}
    widest = max(DELIMITERS, key=lambda delimiter: widths[delimiter])
    delimiter = usual if widths[usual] > 1 or widths[widest] < 2 else widest
    return TableFormat(delimiter, has_header_row(_records(head, delimiter)))


def has_header_row(records: list[list[str]]) -> bool:
    """Whether the first row has names of columns: no numbers, nothing twice, no text like those below it."""
    if len(records) < 2:
        return True
    first, *others = records
    names = [cell.strip().casefold() for cell in first]
    if HEADER_NAMES.intersection(names):
        return True
    filled = [name for name in names if name]
    if len(set(filled)) < len(filled) or any(map(_is_number, filled)):
        return False
    return not any(_is_one_of(cell, [row[i] for row in others if i < len(row)]) for i, cell in enumerate(first))


def text_table_kind(head: str) -> str:
    """Return ".csv", ".tsv" or ".jsonl" for a table that was saved as .txt; "" for text.

    Only a table with known names of columns is one for certain; `looks_like_table` tells the others.
    """
    lines = [line for line in head.splitlines() if line.strip()]
    if len(lines) > 1 and all(_is_json_object(line) for line in lines[:ROWS_LOOKED_AT]):
        return ".jsonl"
    known = {DEFAULT_FIELD, *(name for pair in KNOWN_PAIRS for name in pair)}
    for delimiter in DELIMITERS:
        records = _records(head, delimiter)
        if len(records) > 2 and _width(records) > 1 and known.intersection(map(str.strip, records[0])):
            return ".tsv" if delimiter == "\t" else ".csv"
    return ""


def looks_like_table(head: str) -> bool:
    """Whether all lines have the same number of fields, three or more, below a row that is not a sentence."""
    found = [_records(head, delimiter) for delimiter in DELIMITERS]
    return any(
        len(rows) >= MIN_TABLE_ROWS
        and _width(rows) > 2
        and has_header_row(rows)
        and all(cell == cell.strip() and not cell.endswith(SENTENCE_ENDS) for cell in rows[0])
        for rows in found
    )


def _records(head: str, delimiter: str) -> list[list[str]]:
    """Return the first records of a delimited text; none where its quoting does not go with the delimiter."""
    reader = csv.reader(io.StringIO(head, newline=""), delimiter=delimiter, strict=True)
    records: list[list[str]] = []
    try:
        for record in reader:
            if record:
                records.append(record)
            if len(records) == ROWS_LOOKED_AT:
                break
    except csv.Error:
        if len(head) < HEAD_CHARACTERS or records == []:  # else a quoted field may end after the head
            return []
    return records


def _width(records: list[list[str]]) -> int:
    """Return the number of fields that all records have; 0 if it is not the same in all."""
    widths = set(map(len, records))
    return widths.pop() if len(widths) == 1 else 0


def _is_number(cell: str) -> bool:
    return bool(re.fullmatch(r"[-+]?[\d.,]*\d[\d.,]*%?", cell.strip()))


def _is_one_of(cell: str, column: list[str]) -> bool:
    """Whether a cell is a text like those of a column of texts."""
    if not _looks_like_text(list(column)):
        return False
    typical = sorted(map(len, column))[len(column) // 2]
    return cell.strip().endswith(SENTENCE_ENDS) or len(cell) > typical / 2


def _is_json_object(line: str) -> bool:
    try:
        return isinstance(parse_json(line), dict)
    except ValueError:
        return False


def _delimited(file: SourceFile, stream: TextIO) -> Iterator[Row]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # a C long, which Windows keeps at 32 bits
    head = read_head(stream)
    found = detect_table_format(head, file.kind)
    reader = csv.reader(chain(io.StringIO(head, newline=""), stream), delimiter=found.delimiter, strict=True)
    try:
        header = next(reader, [])
        rows: Iterator[list[str]] = reader
        if not found.has_header:
            rows, header = chain([header], reader), [str(number) for number in range(1, len(header) + 1)]
        line = reader.line_num + 1 if found.has_header else 1
        for row in rows:
            if len(row) == len(header):
                yield dict(zip(header, row, strict=True))
            elif row:  # csv gives [] for a blank line
                raise UserError(
                    "{path} line {line} has {n_fields} fields where the header has {n_columns}",
                    hint="quote fields that contain separators or line breaks; or save as .txt, one sample a line",
                    path=file.path,
                    line=line,
                    n_fields=len(row),
                    n_columns=len(header),
                )
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            "{path} is not a valid table near line {line}: {error}",
            hint="write it with a CSV library or a spreadsheet; or save as .txt with one sample a line",
            path=file.path,
            line=reader.line_num,
            error=error,
        ) from None


def _json_lines(file: SourceFile, stream: TextIO) -> Iterator[Row]:
    for number, line in enumerate(stream, start=1):
        if line.strip():
            try:
                value = parse_json(line)
            except ValueError as error:
                raise UserError(
                    "{path} line {number:,} is not JSON: {error}",
                    hint="a .jsonl file has one JSON object a line",
                    path=file.path,
                    number=number,
                    error=error,
                ) from None
            yield _row(file, value, number)


def _json_array(file: SourceFile, stream: TextIO) -> Iterator[Row]:
    try:
        value = parse_json(stream.read())
    except ValueError as error:
        raise UserError(
            "{path} is not JSON: {error}", hint="for one object a line use .jsonl", path=file.path, error=error
        ) from None
    if isinstance(value, dict):
        arrays = [part for part in value.values() if isinstance(part, list)]
        if len(arrays) != 1:
            raise UserError(
                "{path} is an object with {n_arrays} arrays",
                hint="it needs exactly one array of samples",
                path=file.path,
                n_arrays=len(arrays),
            )
        value = arrays[0]
    if not isinstance(value, list):
        raise UserError("{path} has no array", hint="write an array of objects or of strings", path=file.path)
    yield from (_row(file, entry, number) for number, entry in enumerate(value, start=1))


def _row(file: SourceFile, value: object, number: int) -> Row:
    if isinstance(value, str):
        return {DEFAULT_FIELD: value}
    if not isinstance(value, dict):
        raise UserError(
            "{path} entry {number:,} is not an object",
            hint='write {{"text": "..."}} for each sample',
            path=file.path,
            number=number,
        )
    return value


def _arrow_rows(file: SourceFile, binary: BinaryIO) -> Iterator[Row]:
    try:
        for batch in ARROW_TABLES[file.kind](binary):
            batch.validate(full=True)  # offsets in a damaged file point anywhere in memory
            yield from batch.to_pylist()
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001  damaged files make the library raise errors of all kinds
        raise UserError(
            "{path} cannot be read as {kind}: {error}",
            hint="the file is damaged or of another kind; write it again",
            path=file.path,
            kind=file.kind[1:],
            error=(str(error) or type(error).__name__).splitlines()[0],
        ) from None


def _parquet_batches(binary: BinaryIO) -> Iterator[Any]:
    from pyarrow import parquet

    yield from parquet.ParquetFile(binary).iter_batches(ROWS_AT_A_TIME)


def _arrow_batches(binary: BinaryIO) -> Iterator[Any]:
    """Both forms of Arrow's format: the file form ends in an index, the stream form does not."""
    import pyarrow as pa

    try:
        reader = pa.ipc.open_file(binary)
    except pa.ArrowInvalid:
        binary.seek(0)
        yield from pa.ipc.open_stream(binary)
        return
    yield from (reader.get_batch(number) for number in range(reader.num_record_batches))


ARROW_TABLES: dict[str, Callable[[BinaryIO], Iterator[Any]]] = {".parquet": _parquet_batches, ".arrow": _arrow_batches}
TEXT_TABLES: dict[str, Callable[[SourceFile, TextIO], Iterator[Row]]] = {
    ".csv": _delimited,
    ".tsv": _delimited,
    ".jsonl": _json_lines,
    ".json": _json_array,
}
