"""Checksums of a folder's files, so that a damaged one is recognised before anything is read from it.

A disk, a copy or a crash can change or shorten a file without any error: safetensors notices a missing end, not a
flipped bit in the weights. `checksums.json` names every file of the folder with its size and its XXH3 (128 bits), which
takes a tenth of the time of SHA-256 from a processor that is training; checkpoints of before have the latter.
Reference: https://github.com/Cyan4973/xxHash. It recognises accidents, and no malice: nothing is unpickled anyway.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import xxhash

from tunesmith.messages.catalogue import say
from tunesmith.messages.system_errors import said_by_system
from tunesmith.utils.files import parse_json, write_json

CHECKSUMS = "checksums.json"
ALGORITHM = "xxh3_128"
ALGORITHMS: dict[str, Callable[[], Any]] = {ALGORITHM: xxhash.xxh3_128, "sha256": hashlib.sha256}
BYTES_AT_ONCE = 1 << 20


class DamagedError(Exception):
    """A folder is not what was written; the text says in which file and how."""


def write_checksums(folder: Path) -> None:
    """Name every file that is in the folder now."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    write_json(
        folder / CHECKSUMS,
        {
            "algorithm": ALGORITHM,
            "files": {
                path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, ALGORITHM: digest(path, ALGORITHM)}
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
        written = parse_json((folder / CHECKSUMS).read_text("utf-8"))
        algorithm = str(written.get("algorithm"))
        expected = {str(name): (int(about["bytes"]), str(about[algorithm])) for name, about in written["files"].items()}
    except FileNotFoundError:
        raise DamagedError(say("{file} is missing", file=CHECKSUMS)) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise DamagedError(say("{path} cannot be read: {error}", path=CHECKSUMS, error=said_by_system(error))) from None
    if algorithm not in ALGORITHMS:
        raise DamagedError(say("{file} has checksums of an unknown kind: {kind!r}", file=CHECKSUMS, kind=algorithm))
    for name, (n_bytes, expected_digest) in expected.items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise DamagedError(say("{file} names a file outside: {name!r}", file=CHECKSUMS, name=name))
        try:
            found = path.stat().st_size
            if found != n_bytes:
                raise DamagedError(
                    say(
                        "{file} has {found:,} bytes, and {written:,} were written",
                        file=name,
                        found=found,
                        written=n_bytes,
                    )
                )
            if digest(path, algorithm) != expected_digest:
                raise DamagedError(say("{file} is not what was written (its checksum differs)", file=name))
        except FileNotFoundError:
            raise DamagedError(say("{file} is missing, or misspelt in {list}", file=name, list=CHECKSUMS)) from None
        except OSError as error:
            raise DamagedError(f"{name}: {said_by_system(error)}") from None


def digest(path: Path, algorithm: str) -> str:
    """Of a file's content by one of `ALGORITHMS`, in hexadecimal digits."""
    found = ALGORITHMS[algorithm]()
    with path.open("rb", buffering=0) as file:
        while piece := file.read(BYTES_AT_ONCE):
            found.update(piece)
    return str(found.hexdigest())
