"""tunesmith's cache: hashes of large files, and tokenized text with a size limit, least recently used out first.

    hashes/NAME.json        SHA-256 of a large file, valid while its size, times and place on disk are unchanged
    corpora/KEY/            tokenized text (`tunesmith.data.corpus`): tokens.json, tokens.bin, samples/, splits/
    corpora/.KEY.*.lock     locked by a process that uses the entry, which is not removed meanwhile

Locks are taken and entries removed under one mutex, so that no entry disappears between being found and being locked.
"""

import hashlib
import json
import os
import re
import secrets
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tunesmith.config import CacheConfig
from tunesmith.errors import UserError
from tunesmith.utils.files import new_folder, parse_json, sweep_leftovers, write_json

CACHE_VARIABLE = "TUNESMITH_CACHE"
LIMIT_VARIABLE = "TUNESMITH_CACHE_GB"
DEFAULT_LIMIT_GB = 10.0
TOKENS_INFO = "tokens.json"
"""Describes an entry; its modification time is the entry's last use."""
SPLITS = "splits"
NAME_LETTERS = 32
NAME = re.compile(f"[0-9a-f]{{{NAME_LETTERS}}}")
OWN_FILES = re.compile(rf"{TOKENS_INFO}|tokens\.bin|manifest\.json|\w+\.npy")

LARGE_BYTES = 64 << 20
"""Smaller files are hashed every time."""
SETTLED_S = 2.0
"""The coarsest clock of a file system in use, FAT's."""


def cache_folder() -> Path:
    """Return the folder set by TUNESMITH_CACHE, else the system's place for caches."""
    configured = os.environ.get(CACHE_VARIABLE)
    if configured:
        return Path(configured)
    from platformdirs import user_cache_path

    return user_cache_path("tunesmith")


def max_cache_bytes() -> int:
    """Return the size limit of tokenized text, set by TUNESMITH_CACHE_GB."""
    configured = os.environ.get(LIMIT_VARIABLE) or str(DEFAULT_LIMIT_GB)
    try:
        return int(float(configured) * 1e9)
    except (ValueError, OverflowError):
        raise UserError(
            "{variable} must be a number of gigabytes, not {value}",
            hint="for example {variable}=10",
            variable=LIMIT_VARIABLE,
            value=configured,
        ) from None


def cache_name(settings: dict[str, Any]) -> str:
    """Hash settings to a hexadecimal name of 64 letters."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, allow_nan=False).encode()).hexdigest()


class EntryLock:
    """Keeps an entry of the cache from being removed, as long as the object exists.

    Attributes:
        folder: of the entry.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        lock = FileLock(
            folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.lock"), is_singleton=False, thread_local=False
        )
        with suppress(OSError):  # a read-only cache needs no lock
            lock.acquire(blocking=False)
            weakref.finalize(self, _release, lock, os.getpid())


def _release(lock: FileLock, pid: int) -> None:
    if os.getpid() == pid:  # not in a fork, which shares the lock of its parent
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)


def entry_folder(key: str) -> Path:
    """Return the folder of an entry, which may not exist."""
    return _corpora() / key[:NAME_LETTERS]


def entry_of_split(corpus_folder: Path) -> Path | None:
    """Return the entry that a corpus folder is a split of; None for a folder outside of the cache."""
    entry = corpus_folder.parent.parent
    is_split = corpus_folder.parent.name == SPLITS and (entry / TOKENS_INFO).is_file()
    return entry if is_split else None


def lock_entry(folder: Path) -> EntryLock | None:
    """Lock an entry and mark it as used; None if it does not exist."""
    if not (folder / TOKENS_INFO).is_file():
        return None
    with _mutex(folder.parent):
        try:
            os.utime(folder / TOKENS_INFO)
        except FileNotFoundError:
            return None
        except OSError:  # a read-only cache
            pass
        return EntryLock(folder)


def lock_or_write_entry(key: str, write: Callable[[Path], None]) -> EntryLock:
    """Lock an entry; if it does not exist, let `write` fill its folder, and remove others that are too much.

    Another process may write the same entry at the same time: the first one is used.
    """
    folder = entry_folder(key)
    lock = lock_entry(folder)
    if lock is not None:
        return lock
    while lock is None:  # again, if another process removed it before it was locked
        with suppress(FileExistsError), new_folder(folder, replace=folder.exists()) as temporary:
            write(temporary)
        lock = lock_entry(folder)
    evict()
    return lock


def find_split(fingerprint: str) -> Path | None:
    """Return the corpus folder of a fingerprint if it is in the cache."""
    manifests = _corpora().glob(f"*/{SPLITS}/{fingerprint[:NAME_LETTERS]}/manifest.json")
    return next((path.parent for path in manifests), None)


def evict(limit_bytes: int | None = None) -> tuple[int, int]:
    """Remove the least recently used entries until the rest is within the limit; none that is in use.

    Args:
        limit_bytes: default: `max_cache_bytes`.

    Returns:
        How many were removed, and their bytes.
    """
    limit_bytes = max_cache_bytes() if limit_bytes is None else limit_bytes
    n_removed = removed_bytes = 0
    if not _corpora().is_dir():
        return 0, 0
    with _mutex(_corpora()):
        entries = cache_entries()
        excess_bytes = sum(entry.bytes for entry in entries) - limit_bytes
        for entry in reversed(entries):
            if removed_bytes >= excess_bytes:
                break
            if not entry.in_use:
                _remove_own_files(_corpora() / entry.key)
                n_removed += 1
                removed_bytes += entry.bytes
    return n_removed, removed_bytes


@dataclass(frozen=True)
class CacheEntry:
    """Tokenized text in the cache.

    Attributes:
        key: name of its folder.
        sources: names of the files.
        tokens: number of tokens.
        bytes: on disk.
        last_used: ISO 8601, UTC.
        in_use: by a running process.
    """

    key: str
    sources: tuple[str, ...]
    tokens: int
    bytes: int
    last_used: str
    in_use: bool


@dataclass(frozen=True)
class CacheReport:
    """What `tunesmith cache` shows.

    Attributes:
        path: the cache folder.
        bytes: of all entries.
        max_bytes: size limit.
        entries: most recently used first.
        removed: number of entries that --clear removed.
        removed_bytes: their size.
    """

    path: str
    bytes: int
    max_bytes: int
    entries: tuple[CacheEntry, ...]
    removed: int = 0
    removed_bytes: int = 0


def show_cache(config: CacheConfig) -> CacheReport:
    """Report the tokenized text in the cache, after clearing it with --clear.

    Clearing removes only files that tunesmith wrote, and no entry that is in use.
    """
    removed, removed_bytes = evict(0) if config.clear else (0, 0)
    if config.clear:
        if _corpora().is_dir():
            sweep_leftovers(_corpora())
        for note in _hashes().glob("*.json"):
            if NAME.fullmatch(note.stem):
                note.unlink(missing_ok=True)
    entries = tuple(cache_entries())
    total = sum(entry.bytes for entry in entries)
    return CacheReport(str(cache_folder()), total, max_cache_bytes(), entries, removed, removed_bytes)


def cache_entries() -> list[CacheEntry]:
    """List the entries, most recently used first."""
    entries = []
    for info in _corpora().glob(f"*/{TOKENS_INFO}"):
        if not NAME.fullmatch(info.parent.name):
            continue
        try:
            content, used_ns = _read_note(info), info.stat().st_mtime_ns
            size = sum(path.stat().st_size for path in info.parent.rglob("*") if path.is_file())
        except OSError:  # it is being removed
            continue
        sources = tuple(str(source.get("name", "")) for source in content.get("sources", []))
        last_used = datetime.fromtimestamp(used_ns / 1e9, UTC).isoformat(timespec="seconds")
        entry = CacheEntry(
            info.parent.name, sources, int(content.get("tokens", 0)), size, last_used, _is_in_use(info.parent)
        )
        entries.append((used_ns, entry))
    return [entry for _, entry in sorted(entries, key=lambda pair: (-pair[0], pair[1].key))]


def _is_in_use(folder: Path) -> bool:
    """Whether a process has locked the entry; locks of dead processes are removed."""
    in_use = False
    for path in folder.parent.glob(f".{folder.name}.*.lock"):
        lock = FileLock(path, is_singleton=False)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            in_use = True
            continue
        except OSError:  # read-only
            continue
        lock.release()
        path.unlink(missing_ok=True)
    return in_use


def _remove_own_files(folder: Path) -> None:
    """Remove an entry; files that tunesmith does not write stay, with their folders."""
    (folder / TOKENS_INFO).unlink(missing_ok=True)  # first: without it the rest counts as incomplete
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            with suppress(OSError):
                path.rmdir()
        elif OWN_FILES.fullmatch(path.name):
            path.unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


@contextmanager
def _mutex(folder: Path) -> Iterator[None]:
    """One process at a time; none is needed in a folder that is read-only, because nothing can be removed there."""
    if not os.access(folder, os.W_OK):
        yield
        return
    with FileLock(folder / ".lock"):
        yield


def _corpora() -> Path:
    return cache_folder() / "corpora"


def _hashes() -> Path:
    return cache_folder() / "hashes"


def content_hash(path: Path) -> str:
    """Return the SHA-256 of a file as stored; that of a large file is remembered until the file changes.

    A file that was changed in the last seconds is not remembered: another change within the clock's resolution would
    not be noticed.

    Raises:
        OSError: if it cannot be read.
    """
    status = path.stat()
    if status.st_size < LARGE_BYTES:
        return _read_hash(path)
    identity = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev]
    name = hashlib.sha256(str(path.resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:NAME_LETTERS]
    note = _hashes() / f"{name}.json"
    remembered = _read_note(note)
    if remembered.get("identity") == identity and isinstance(remembered.get("sha256"), str):
        return str(remembered["sha256"])
    is_settled = time.time() - max(status.st_mtime, status.st_ctime) > SETTLED_S
    sha256 = _read_hash(path)
    if is_settled:
        with suppress(OSError):  # a read-only cache
            note.parent.mkdir(parents=True, exist_ok=True)
            write_json(note, {"identity": identity, "sha256": sha256})
    return sha256


def _read_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_note(path: Path) -> dict[str, Any]:
    """Content of a JSON file; empty if it is missing or damaged."""
    try:
        content = parse_json(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
