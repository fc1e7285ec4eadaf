"""One folder, one run: a lock that the system itself takes back when the process ends, however it ends."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from tunesmith.errors import UserError

LOCK = ".lock"


@contextmanager
def locked(run_folder: Path, lock_folder: Path) -> Iterator[None]:
    """Keep every other process from writing a run folder.

    Args:
        run_folder: what is locked, for the error.
        lock_folder: an existing folder for the lock's file, which stays: deleting it would let two processes in.

    Raises:
        UserError: if another process holds the lock.
    """
    path = lock_folder / LOCK
    lock = FileLock(path, is_singleton=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        number = _number(path)
        raise UserError(
            "another process (number {number}) is training in {run_folder}"
            if number
            else "another process is training in {run_folder}",
            hint="wait for it, stop it with Ctrl-C where it runs, or name another --out",
            number=number,
            run_folder=run_folder,
        ) from None
    try:
        with suppress(OSError):  # no more than a help for people; Windows lets nobody write a locked file
            path.write_text(f"{os.getpid()}\n", "utf-8")
        yield
    finally:
        lock.release()


def is_locked(lock_folder: Path) -> bool:
    """Whether a process writes there now; nothing is written to find out."""
    path = lock_folder / LOCK
    if not path.is_file():
        return False
    lock = FileLock(path, is_singleton=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return True
    except OSError:  # a folder that may only be read
        return False
    lock.release()
    return False


def _number(path: Path) -> str:
    """Of the process that holds the lock, where it says so."""
    try:
        number = path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""
    return number if number.isdigit() else ""
