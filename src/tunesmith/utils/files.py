"""Files and folders that are either whole or not there: written next to their place, synced, then moved onto it.

What is being written is called `.NAME.TOKEN.PROCESS.tmp`; a killed process leaves it in place, and the next
process that writes the same thing, or owns the folder, removes it.
"""

import errno
import glob
import json
import math
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from tunesmith.errors import UserError
from tunesmith.i18n import LazyString

CLOCK_LEEWAY_S = 60.0
"""Start times of processes and times of files come from different clocks."""

_OS_ERRORS = {
    errno.EACCES: LazyString("Permission denied"),
    errno.EPERM: LazyString("Operation not permitted"),
    errno.ENOENT: LazyString("No such file or directory"),
    errno.EEXIST: LazyString("File exists"),
    errno.EISDIR: LazyString("Is a directory"),
    errno.ENOTDIR: LazyString("Not a directory"),
    errno.ENOSPC: LazyString("No space left on device"),
    errno.EROFS: LazyString("Read-only file system"),
    errno.EIO: LazyString("Input/output error"),
    errno.EMFILE: LazyString("Too many open files"),
    errno.ENAMETOOLONG: LazyString("File name too long"),
}


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file next to `path`, sync it and move it onto `path`.

    A crash at any instant leaves the old file or the new one. If `write` raises, nothing is left.
    """
    temporary = _beside(path)
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # what the user's umask gives any new file; libraries may be stricter
        write(temporary)
        temporary.chmod(mode)
        sync_file(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextmanager
def new_folder(folder: Path, *, replace: bool = False) -> Iterator[Path]:
    """A temporary folder to fill, which takes the name at the end; if the block raises, it goes without a trace.

    Every file in it is synced before. An empty folder of that name is replaced.

    Args:
        folder: to be made.
        replace: whether one of that name that is not empty is replaced too; it is whole until the new one is.

    Raises:
        FileExistsError: if meanwhile something else took the name; that is not touched.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    sweep_leftovers(folder.parent, folder.name)
    temporary = _beside(folder)
    temporary.mkdir()
    try:
        yield temporary
        _sync_everything_in(temporary)
        before = _beside(folder)
        if replace and folder.is_dir():
            folder.rename(before)
        _take_name(temporary, folder)
        shutil.rmtree(before, ignore_errors=True)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(folder.parent)


def _take_name(temporary: Path, folder: Path) -> None:
    """Rename; of two processes that do so at once one wins, and the other one raises."""
    taken = FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(folder))
    try:
        if folder.exists():
            folder.rmdir()  # an empty one; any other stays
        temporary.rename(folder)
    except OSError as error:
        if error.errno in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR} or folder.is_dir():
            raise taken from None
        raise


def remove_folder(folder: Path) -> None:
    """Delete a folder of ours; if a crash comes between, it is a leftover and not a folder that lacks something."""
    leaving = _beside(folder)
    folder.rename(leaving)
    shutil.rmtree(leaving)


def sweep_leftovers(folder: Path, name: str | None = None) -> None:
    """Remove what killed processes left half-written in a folder; what a process still writes is left alone.

    Args:
        folder: where to look.
        name: of what was being written; None means anything.
    """
    for leftover in folder.glob(f".{'*' if name is None else glob.escape(name)}.*.tmp"):
        if not _is_being_written(leftover):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    """A name for the time of writing; the token keeps it new where process numbers repeat, as in containers."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.{os.getpid()}.tmp")


def _is_being_written(leftover: Path) -> bool:
    """Whether the process in its name is alive and not a younger one with the same number."""
    process = leftover.name.split(".")[-2]
    if not process.isdigit():
        return True  # not one of ours
    try:
        return psutil.Process(int(process)).create_time() < leftover.stat().st_mtime + CLOCK_LEEWAY_S
    except psutil.AccessDenied:
        return True
    except (psutil.Error, FileNotFoundError, OverflowError):
        return False


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Give the system's errors about an open file (no space, a bad disk) the name of the file."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise


def check_is_new(path: Path) -> None:
    """Check that an output file does not exist yet, before any work is done for it.

    Raises:
        UserError: if the name is taken or its folder is not there.
    """
    if path.exists():
        raise UserError(
            "--out {path} is already there", hint="name a file that does not exist yet, or remove it", path=path
        )
    if not path.parent.is_dir():
        raise UserError(
            "--out {path}: folder not found: {parent}", hint="make the folder first", path=path, parent=path.parent
        )


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 with LF line ends on every system, atomically."""
    write_atomically(path, lambda temporary: temporary.write_bytes(text.encode("utf-8")))


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write indented JSON a person can read, atomically."""
    write_text(path, to_json(value, indent=2) + "\n")


def to_json(
    value: object,
    *,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    default: Callable[[Any], object] | None = None,
) -> str:
    """JSON as every parser reads it: NaN and infinity, which JSON does not have, are null.

    Args:
        value: of what JSON knows.
        indent: blanks a level.
        separators: as for `json.dumps`.
        default: likewise, for what JSON does not know.
    """

    def dumped(what: object) -> str:
        return json.dumps(
            what, ensure_ascii=False, allow_nan=False, indent=indent, separators=separators, default=default
        )

    try:
        return dumped(value)
    except ValueError:  # hardly ever: only then each number is looked at
        return dumped(_finite(value))


def shown_json(value: object) -> str:
    """Show a value of a user's file in a message: also what JSON does not have."""
    try:
        return json.dumps(value, allow_nan=False, default=str)
    except ValueError:
        return str(value)


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {(str(name) if isinstance(name, float) else name): _finite(one) for name, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, list | tuple) else value


def parse_json(text: str | bytes) -> Any:  # noqa: ANN401
    """`json.loads` whose every error is a ValueError, also for what is nested deeper than Python can follow."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def sync_file(path: Path) -> None:
    """Make a file's content survive a power cut."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _sync_everything_in(folder: Path) -> None:
    for parent, _, names in os.walk(folder):
        for name in names:
            sync_file(Path(parent) / name)
        sync_folder(Path(parent))


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` survive a power cut, where the system allows it (Windows does not)."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def describe_os_error(error: Exception) -> LazyString:
    """Return the reason of a failed read or write on one line, without the file's name."""
    if isinstance(error, OSError) and error.errno in _OS_ERRORS:
        return _OS_ERRORS[error.errno]
    words = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return LazyString("{words}", {"words": " ".join(str(words).split())})
