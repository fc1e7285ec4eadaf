"""Files that are either whole or not there: written beside their place, synced, then moved onto it."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tunesmith.errors import UserError


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, sync it and move it onto `path`.

    A crash at any instant leaves the old file or the new one. If `write` raises, nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # what the user's umask gives any new file; libraries may be stricter
        write(temporary)
        temporary.chmod(mode)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Give the system's errors about an open file (no space, a bad disk) the name of the file."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise


def refuse_existing(path: Path) -> None:
    """Make sure that a file which a verb is to write takes nobody's place, before any work is done for it.

    Raises:
        UserError: if the name is taken or its folder is not there.
    """
    if path.exists():
        raise UserError(f"--out {path} is already there", hint="name a file that does not exist yet, or remove it")
    if not path.parent.is_dir():
        raise UserError(f"--out {path}: there is no folder {path.parent}", hint="make the folder first")


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 with LF line ends on every system, atomically."""
    write_atomically(path, lambda temporary: temporary.write_bytes(text.encode("utf-8")))


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write indented JSON a person can read, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` survive a power cut, where the system allows it (Windows does not)."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
