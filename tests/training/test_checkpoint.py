"""Checksums of a folder: those of today, those of older checkpoints, and kinds that nobody knows."""

import hashlib
import json
from pathlib import Path

import pytest
import xxhash

from tunesmith.training.checkpoint import DamagedError, verify_checksums, write_checksums

CONTENT = bytes(range(256)) * 9000  # more than is read at once


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "weights").write_bytes(CONTENT)
    return tmp_path


def test_every_file_stands_with_its_size_and_its_checksum(folder: Path) -> None:
    """As the library computes it in one go."""
    write_checksums(folder)
    written = json.loads((folder / "checksums.json").read_text("utf-8"))
    assert written["files"] == {"weights": {"bytes": len(CONTENT), "xxh3_128": xxhash.xxh3_128_hexdigest(CONTENT)}}
    verify_checksums(folder)


def test_older_checkpoints_are_checked_by_their_sha256(folder: Path) -> None:
    """Whole ones pass, a changed byte is found."""
    about = {"bytes": len(CONTENT), "sha256": hashlib.sha256(CONTENT).hexdigest()}
    (folder / "checksums.json").write_text(json.dumps({"algorithm": "sha256", "files": {"weights": about}}), "utf-8")
    verify_checksums(folder)
    (folder / "weights").write_bytes(CONTENT[:-1] + b"!")
    with pytest.raises(DamagedError, match=r"weights is not what was written"):
        verify_checksums(folder)


@pytest.mark.parametrize("algorithm", ["md5", None, 7])
def test_an_unknown_kind_is_damage(folder: Path, algorithm: object) -> None:
    """Nothing is taken on trust."""
    about = {"bytes": len(CONTENT), str(algorithm): "0"}
    (folder / "checksums.json").write_text(json.dumps({"algorithm": algorithm, "files": {"weights": about}}), "utf-8")
    with pytest.raises(DamagedError, match="unknown kind"):
        verify_checksums(folder)
