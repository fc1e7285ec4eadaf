"""Prompts from a file or standard input: one a line of text, or one a row of a table."""

import io

from tunesmith.data.encoding import bad_byte, detect_encoding
from tunesmith.data.hub_datasets import HubDataset
from tunesmith.data.source_files import TABLE_KINDS, SourceFile, found_sources
from tunesmith.data.tables import ROWS_LOOKED_AT, Row, choose_field, table_rows, text_of
from tunesmith.errors import UserError

USUAL_FIELD = "prompt"


def read_prompts(source: str, field: str | None) -> list[str]:
    """All prompts, in order; lines without a visible character are none.

    Args:
        source: a file, or - for standard input; a table has a row for each prompt.
        field: of a table that holds them; default: prompt, else text, else the only one that can be meant.

    Raises:
        UserError: if it cannot be read or holds no prompt.
    """
    with found_sources([source]) as found:
        prompts = [prompt for file in found.files for prompt in _prompts_of(file, field) if prompt.strip()]
    if not prompts:
        raise UserError("--prompts-file {source} holds no prompt", hint="write one prompt a line", source=source)
    return prompts


def _prompts_of(file: SourceFile | HubDataset, field: str | None) -> list[str]:
    if isinstance(file, HubDataset):
        return _column(file, list(file.rows()), field)
    encoding = "" if file.kind in {".parquet", ".arrow"} else detect_encoding(file)
    try:
        if file.kind in TABLE_KINDS:
            return _column(file, list(table_rows(file, encoding, "strict")), field)
        with io.TextIOWrapper(file.open(), encoding) as stream:
            return stream.read().split("\n")
    except UnicodeDecodeError:
        raise bad_byte(file, encoding) from None


def _column(file: SourceFile | HubDataset, rows: list[Row], field: str | None) -> list[str]:
    if field is None and any(USUAL_FIELD in row for row in rows):
        field = USUAL_FIELD
    chosen = choose_field(file, rows[:ROWS_LOOKED_AT], field)
    return [text_of(file, row, chosen, number) for number, row in enumerate(rows, start=1)]
