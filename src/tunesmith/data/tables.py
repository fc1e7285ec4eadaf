"""Tables into texts: .csv, .tsv, .jsonl, .json, .parquet, .arrow; one row is one sample.

The text is in the field that was named, else in `text`, else in the only field that can be meant; where several can,
the error lists them. Rows stream: a table may be larger than memory (.json, which is one value, may not).
"""

import csv
import io
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, BinaryIO, TextIO

from tunesmith.data.hub_datasets import HubDataset
from tunesmith.data.samples import SampleList
from tunesmith.data.source_files import SourceFile
from tunesmith.errors import UserError
from tunesmith.utils.files import parse_json, shown_json

Row = dict[str, Any]
KNOWN_PAIRS = (("prompt", "completion"), ("question", "answer"), ("instruction", "output"), ("input", "output"))
"""Fields that hold a prompt and its completion wherever they stand together without a `text`."""

ROWS_A_TIME = 8192
ROWS_LOOKED_AT = 200
DEFAULT_FIELD = "text"
SHORTEST_TYPICAL_TEXT = 12
"""A field whose values are typically shorter holds labels, not texts."""


@dataclass(frozen=True)
class Fields:
    """Which fields of a table make a sample, as they were asked for.

    Attributes:
        text: the whole sample; None chooses.
        prompt: what is given, in a pair.
        completion: what is to be predicted, in a pair.
        template: how a pair becomes a text; holds {prompt} and, behind it, {completion}.
    """

    text: str | None = None
    prompt: str | None = None
    completion: str | None = None
    template: str = "{prompt}\n{completion}"


def read_table(file: SourceFile, encoding: str, errors: str, fields: Fields) -> Iterator[SampleList]:
    """The samples of a table, a list at a time.

    Raises:
        UserError: for a damaged table, or if it is not clear which field holds the text.
    """
    yield from samples_of(file, table_rows(file, encoding, errors), fields)


def table_rows(file: SourceFile, encoding: str, errors: str) -> Iterator[Row]:
    """The rows of a table as they stream.

    Raises:
        UserError: for a damaged table.
    """
    with file.open() as binary:
        if file.kind in ARROW_TABLES:
            yield from _arrow_rows(file, binary)
            return
        line_ends = "" if file.kind in {".csv", ".tsv"} else None  # csv finds its own
        with io.TextIOWrapper(binary, encoding, errors, newline=line_ends) as stream:
            yield from TEXT_TABLES[file.kind](file, stream)


def samples_of(file: SourceFile | HubDataset, rows: Iterator[Row], fields: Fields) -> Iterator[SampleList]:
    """The samples that rows hold, a list at a time.

    Raises:
        UserError: if it is not clear which field holds the text, or one holds something else.
    """
    first = list(islice(rows, ROWS_LOOKED_AT))
    if not first:
        raise UserError("{path} has no rows", hint="name a table that holds text", path=file.path)
    names = list(dict.fromkeys(name for row in first for name in row))
    pair = choose_pair(file, names, fields)
    field = None if pair else choose_field(file, first, fields.text)
    given_part, _, rest = fields.template.partition("{completion}")
    rows = chain(first, rows)
    number = 0
    while some := list(islice(rows, ROWS_A_TIME)):
        numbered = list(enumerate(some, start=number + 1))
        number += len(some)
        if field is not None:
            yield SampleList([text_of(file, row, field, at) for at, row in numbered], [])
            continue
        assert pair is not None
        prompts, completions = ([text_of(file, row, name, at) for at, row in numbered] for name in pair)
        given = [given_part.replace("{prompt}", prompt) for prompt in prompts]
        learned = [completion + rest if completion else "" for completion in completions]
        yield SampleList(
            [before + after if after else "" for before, after in zip(given, learned, strict=True)],
            [len(before) for before in given],
        )


def choose_pair(file: SourceFile | HubDataset, names: list[str], fields: Fields) -> tuple[str, str] | None:
    """The fields of prompt and completion, or None where a sample is one text.

    Raises:
        UserError: if an asked field is not there, or only one of the two was named.
    """
    asked = (fields.prompt, fields.completion)
    if asked == (None, None):
        known = [pair for pair in KNOWN_PAIRS if set(pair) <= set(names)]
        return known[0] if known and fields.text is None and DEFAULT_FIELD not in names else None
    if None in asked:
        raise UserError(
            "--prompt-field and --completion-field go together", hint="name both, or --text-field for whole texts"
        )
    for name in asked:
        if name not in names:
            raise UserError(
                "{path} has no column {name!r}; its columns are {columns}",
                hint="--prompt-field and --completion-field name two of them",
                path=file.path,
                name=name,
                columns=", ".join(map(repr, names)),
            )
    return str(fields.prompt), str(fields.completion)


def choose_field(file: SourceFile | HubDataset, rows: list[Row], asked: str | None) -> str:
    """Which field holds the text.

    Raises:
        UserError: if the asked one is not there, or several could be meant.
    """
    fields = list(dict.fromkeys(name for row in rows for name in row))
    columns = ", ".join(map(repr, fields))
    if asked is not None and asked not in fields:
        raise UserError(
            "{path} has no column {name!r}; its columns are {columns}",
            hint="--text-field names one of them",
            path=file.path,
            name=asked,
            columns=columns,
        )
    if asked is not None or DEFAULT_FIELD in fields:
        return asked or DEFAULT_FIELD
    plausible = [name for name in fields if _looks_like_text([row.get(name) for row in rows])]
    if len(plausible) == 1:
        return plausible[0]
    raise UserError(
        "{path} has no column 'text'; its columns are {columns}, and {plausible} could be meant"
        if plausible
        else "{path} has no column 'text'; its columns are {columns}, and none of them looks like text",
        hint="name the column that holds the samples: --text-field COLUMN",
        path=file.path,
        columns=columns,
        plausible=", ".join(map(repr, plausible)),
    )


def _looks_like_text(values: list[object]) -> bool:
    texts = [value for value in values if isinstance(value, str) and value]
    if len(texts) < len(values) / 2:
        return False
    typical = sorted(map(len, texts))[len(texts) // 2]
    return typical >= SHORTEST_TYPICAL_TEXT and any(" " in text.strip() or not text.isascii() for text in texts)


def text_of(file: SourceFile | HubDataset, row: Row, field: str, number: int) -> str:
    """A field of a row; "" where it is missing.

    Raises:
        UserError: if it holds something else than text.
    """
    value = row.get(field)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UserError(
            "{path} row {number:,}: {field!r} is {value}, not text",
            hint="name the column that holds the samples: --text-field COLUMN",
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
                        hint="quote fields that hold separators or line breaks; or save as .txt, one sample a line",
                        path=file.path,
                        line=line,
                        n_fields=len(row),
                        n_columns=len(header),
                    )
                line = reader.line_num + 1
        except csv.Error as error:
            raise UserError(
                "{path} is no valid table near line {line}: {error}",
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
                    "{path} line {number:,} is no JSON: {error}",
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
            "{path} is no JSON: {error}", hint="for one object a line use .jsonl", path=file.path, error=error
        ) from None
    if isinstance(value, dict):
        arrays = [part for part in value.values() if isinstance(part, list)]
        if len(arrays) != 1:
            raise UserError(
                "{path} holds an object with {n_arrays} arrays",
                hint="it needs exactly one array of samples",
                path=file.path,
                n_arrays=len(arrays),
            )
        value = arrays[0]
    if not isinstance(value, list):
        raise UserError("{path} holds no array", hint="write an array of objects or of strings", path=file.path)
    yield from (_row(file, entry, number) for number, entry in enumerate(value, start=1))


def _row(file: SourceFile, value: object, number: int) -> Row:
    if isinstance(value, str):
        return {DEFAULT_FIELD: value}
    if not isinstance(value, dict):
        raise UserError(
            "{path} entry {number:,} is no object",
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

    yield from parquet.ParquetFile(binary).iter_batches(ROWS_A_TIME)


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
