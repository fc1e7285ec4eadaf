"""Checksums of a folder's files, so that a damaged one is recognised before anything is read from it.

A disk, a copy or a crash can change or shorten a file without any error: safetensors notices a missing end, not a
flipped bit in the weights. `checksums.json` names every file of the folder with its size and SHA-256.
"""

import hashlib
from pathlib import Path

from tunesmith.files import parse_json, write_json

CHECKSUMS = "checksums.json"


class DamagedError(Exception):
    """A folder is not what was written; the text says in which file and how."""


def write_checksums(folder: Path) -> None:
    """Name every file that is in the folder now."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    write_json(
        folder / CHECKSUMS,
        {
            "algorithm": "sha256",
            "files": {
                path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256(path)}
                for path in files
            },
        },
    )


def verify_checksums(folder: Path) -> None:
    """Check that every file is as it was written.

    Raises:
        DamagedError: naming the first one that is not.
    """
    try:
        files = parse_json((folder / CHECKSUMS).read_text("utf-8"))["files"]
        expected = {str(name): (int(about["bytes"]), str(about["sha256"])) for name, about in files.items()}
    except FileNotFoundError:
        raise DamagedError(f"{CHECKSUMS} is missing") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise DamagedError(f"{CHECKSUMS} cannot be read: {error}") from None
    for name, (n_bytes, digest) in expected.items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise DamagedError(f"{CHECKSUMS} names a file outside: {name!r}")
        try:
            found = path.stat().st_size
            if found != n_bytes:
                raise DamagedError(f"{name} has {found:,} bytes, and {n_bytes:,} were written")
            if sha256(path) != digest:
                raise DamagedError(f"{name} is not what was written (its checksum differs)")
        except OSError as error:
            raise DamagedError(f"{name}: {error.strerror or error}") from None


def sha256(path: Path) -> str:
    """Of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
