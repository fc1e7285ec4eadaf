"""The SHA-256 of a file; of a large one remembered, so that an unchanged gigabyte is not read again to be recognised.

What is remembered counts only while the file's size, times, and place on the disk are those it was made from. A file
changed in the last seconds is not remembered: a second change within the clock's resolution would go unnoticed.
"""

import hashlib
import os
import time
from pathlib import Path
from typing import Any

from tunesmith.data.cache_folder import cache_folder
from tunesmith.utils.files import parse_json, write_json

LARGE_BYTES = 64 << 20
"""Smaller ones are read in the blink of an eye."""
SETTLED_S = 2.0
"""The coarsest clock of a file system in use, FAT's."""


def content_hash(path: Path) -> str:
    """Of the file's bytes as stored.

    Raises:
        OSError: if it cannot be read.
    """
    status = path.stat()
    if status.st_size < LARGE_BYTES:
        return _read(path)
    identity = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev]
    name = hashlib.sha256(str(path.resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:32]
    note = cache_folder() / "hashes" / f"{name}.json"
    remembered = _remembered(note)
    if remembered.get("identity") == identity and isinstance(remembered.get("sha256"), str):
        return str(remembered["sha256"])
    is_settled = time.time() - max(status.st_mtime, status.st_ctime) > SETTLED_S
    sha256 = _read(path)
    if is_settled and _can_be_written(note.parent):
        write_json(note, {"identity": identity, "sha256": sha256})
    return sha256


def _read(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remembered(note: Path) -> dict[str, Any]:
    """What a note says; nothing where it is missing or damaged."""
    try:
        content = parse_json(note.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _can_be_written(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)
