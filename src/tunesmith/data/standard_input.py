"""`-` as a SOURCE: standard input, kept in a file, because text is looked at before it is read."""

import shutil
import sys
from pathlib import Path

from tunesmith.errors import UserError
from tunesmith.utils.files import parse_json

STANDARD_INPUT = ("-", "stdin:")
"""Its names; the second is what the command line makes of the first, which a parser takes for a flag."""
FIRST_LINE_BYTES = 1 << 20


def spool(folder: Path) -> Path:
    """Copy standard input into a file whose suffix says what it holds: lines of JSON, or plain text.

    Raises:
        UserError: if nothing came.
    """
    if sys.stdin is None or sys.stdin.isatty():
        raise UserError("- is standard input, and nothing is piped into it", hint="cat FILE | tunesmith prepare -")
    path = folder / "standard-input"
    with path.open("wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
    if not path.stat().st_size:
        raise UserError("standard input is empty", hint="cat FILE | tunesmith prepare -")
    return path.rename(path.with_suffix(".jsonl" if _begins_with_json(path) else ".txt"))


def _begins_with_json(path: Path) -> bool:
    with path.open("rb") as file:
        first = file.readline(FIRST_LINE_BYTES)
    try:
        return isinstance(parse_json(first), dict)
    except ValueError:
        return False
