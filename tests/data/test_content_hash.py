"""A large file is read once to know its hash, and any change to it is noticed."""

import hashlib
import os
import sys
import time
from pathlib import Path

import pytest

from tunesmith.data import cache as module
from tunesmith.data.cache import content_hash


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that counts as large and was written a while ago."""
    monkeypatch.setattr(module, "LARGE_BYTES", 10)
    monkeypatch.setattr(module, "SETTLED_S", 0.0)
    path = tmp_path / "text.txt"
    path.write_text("night after night, the lamp", encoding="utf-8")
    time.sleep(0.02)
    return path


def refuse_to_read(_path: Path) -> str:
    """In place of reading."""
    raise AssertionError("the file was read again")


def test_an_unchanged_file_is_not_read_again(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second answer comes from the note and is the library's hash."""
    first = content_hash(large)
    monkeypatch.setattr(module, "_read_hash", refuse_to_read)
    assert content_hash(large) == first == hashlib.sha256(large.read_bytes()).hexdigest()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps no time of the last change of an entry")
def test_a_change_that_hides_is_noticed(large: Path) -> None:
    """Same length and the old modification time do not deceive it."""
    first = content_hash(large)
    times = large.stat()
    large.write_bytes(large.read_bytes()[::-1])
    os.utime(large, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert content_hash(large) == hashlib.sha256(large.read_bytes()).hexdigest() != first


def test_a_file_just_written_is_not_remembered(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It could change again within one tick of the clock."""
    monkeypatch.setattr(module, "SETTLED_S", 60.0)
    content_hash(large)
    monkeypatch.setattr(module, "_read_hash", lambda path: f"read {path.name}")
    assert content_hash(large) == "read text.txt"


@pytest.mark.parametrize("content", ["", "[1]", "{", '{"identity": 3}'])
def test_a_damaged_note_is_ignored(content: str, large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the file is simply read."""
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    content_hash(large)
    (note,) = (tmp_path / "cache" / "hashes").iterdir()
    note.write_text(content, encoding="utf-8")
    assert content_hash(large) == hashlib.sha256(large.read_bytes()).hexdigest()
