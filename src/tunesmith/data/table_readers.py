"""Read tables: .csv, .tsv, .jsonl, .json, .parquet, .arrow; one row is one sample.

The text is in the named column, else in `text`, else in the only one that looks like text; if several do, the error
lists them. Rows stream: a table may be larger than memory (.json, which is one value, may not).
"""

import csv
import io
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, BinaryIO, TextIO

from tunesmith.data.hf_datasets import HFDataset
from tunesmith.data.segmentation import TextBatch
from tunesmith.data.source_files import ARROW_KINDS, SourceFile
from tunesmith.errors import UserError
from tunesmith.utils.files import parse_json, shown_json

Row = dict[str, Any]
KNOWN_PAIRS = (("prompt", "completion"), ("question", "answer"), ("instruction", "output"), ("input", "output"))
"""Columns that are used as prompt and completion in a table without a `text` column."""

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


def table_rows(file: SourceFile, encoding: str, errors: str) -> Iterator[Row]:
    """Stream the rows of a table."""
    with file.open() as binary:
        if file.kind in ARROW_KINDS:
            yield from _arrow_rows(file, binary)
            return
        line_ends = "" if file.kind in {".csv", ".tsv"} else None  # csv finds its own
        with io.TextIOWrapper(binary, encoding, errors, newline=line_ends) as stream:
            yield from TEXT_TABLES[file.kind](file, stream)


def samples_of(file: SourceFile | HFDataset, rows: Iterator[Row], columns: TableColumns) -> Iterator[TextBatch]:
    """Convert rows to samples."""
    first = list(islice(rows, ROWS_LOOKED_AT))
    if not first:
        raise UserError("{path} has no rows", hint="name a table that contains text", path=file.path)
    pair = choose_pair(file, list(dict.fromkeys(name for row in first for name in row)), columns)
    field = "" if pair else choose_field(file, first, columns.text)
    prompt_part, _, rest = columns.template.partition("{completion}")
    rows = chain(first, rows)
    number = 0
    while batch := list(islice(rows, ROWS_AT_A_TIME)):
        numbered = list(enumerate(batch, start=number + 1))
        number += len(batch)
        if pair is None:
            yield TextBatch([text_of(file, row, field, index) for index, row in numbered], [])
            continue
        prompts, completions = ([text_of(file, row, name, index) for index, row in numbered] for name in pair)
        given = [prompt_part.replace("{prompt}", prompt) for prompt in prompts]
        predicted = [completion + rest if completion else "" for completion in completions]
        yield TextBatch(
            [before + after if after else "" for before, after in zip(given, predicted, strict=True)],
            [len(before) for before in given],
        )


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


def _delimited(delimiter: str) -> Callable[[SourceFile, TextIO], Iterator[Row]]:
    def rows(file: SourceFile, stream: TextIO) -> Iterator[Row]:
        csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # a C long, which Windows keeps at 32 bits
        reader = csv.reader(stream, delimiter=delimiter, strict=True)
        try:
            header = next(reader, [])
            line = reader.line_num + 1
            for row in reader:
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

    return rows


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
    ".csv": _delimited(","),
    ".tsv": _delimited("\t"),
    ".jsonl": _json_lines,
    ".json": _json_array,
}
