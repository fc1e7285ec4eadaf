"""Files with one entry per line or table row: prompts, words."""

import io

from tunesmith.data.encoding import bad_byte, detect_encoding
from tunesmith.data.hf_datasets import HFDataset
from tunesmith.data.source_files import ARROW_KINDS, TABLE_KINDS, SourceFile, resolve_sources
from tunesmith.data.table_readers import ROWS_LOOKED_AT, Row, choose_field, table_rows, text_of
from tunesmith.errors import UserError

DEFAULT_FIELD = "prompt"


def read_prompts(source: str, field: str | None) -> list[str]:
    """Read all prompts, in order; lines without a visible character are skipped.

    Args:
        source: a file, or - for standard input; a table has a row for each prompt.
        field: column of a table; default: prompt, else text, else the only one that looks like text.

    Raises:
        UserError: if it cannot be read or has no prompts.
    """
    with resolve_sources([source]) as resolved:
        prompts = [prompt for file in resolved.files for prompt in _entries(file, field) if prompt.strip()]
    if not prompts:
        raise UserError("No prompts in --prompts-file {source}", hint="write one prompt a line", source=source)
    return prompts


def read_words(source: str) -> list[str]:
    """Read each word once, in order, without blanks around it."""
    with resolve_sources([source]) as resolved:
        lines = [line for file in resolved.files if isinstance(file, SourceFile) for line in _lines(file)]
    words = [word for word in dict.fromkeys(line.strip() for line in lines) if word]
    if not words:
        raise UserError("No words in --words {source}", hint="write one word a line", source=source)
    return words


def _lines(file: SourceFile) -> list[str]:
    encoding = detect_encoding(file).name
    try:
        with io.TextIOWrapper(file.open(), encoding) as stream:
            return stream.read().split("\n")
    except UnicodeDecodeError:
        raise bad_byte(file, encoding) from None


def _entries(file: SourceFile | HFDataset, field: str | None) -> list[str]:
    if isinstance(file, HFDataset):
        return _column(file, list(file.rows()), field)
    if file.kind not in TABLE_KINDS:
        return _lines(file)
    encoding = "" if file.kind in ARROW_KINDS else detect_encoding(file).name
    try:
        return _column(file, list(table_rows(file, encoding, "strict")), field)
    except UnicodeDecodeError:
        raise bad_byte(file, encoding) from None


def _column(file: SourceFile | HFDataset, rows: list[Row], field: str | None) -> list[str]:
    if field is None and any(DEFAULT_FIELD in row for row in rows):
        field = DEFAULT_FIELD
    name = choose_field(file, rows[:ROWS_LOOKED_AT], field)
    return [text_of(file, row, name, number) for number, row in enumerate(rows, start=1)]
