"""Files and folders are whole or not there, whoever else wants the same name."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tunesmith.utils.files import new_folder, sweep_leftovers, write_atomically

DEAD_PROCESS = 999_999_999


def test_a_failed_folder_leaves_nothing(tmp_path: Path) -> None:
    """An exception in the block takes the temporary folder with it."""

    def fill() -> None:
        with new_folder(tmp_path / "made") as folder:
            (folder / "part").touch()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fill()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_name_taken_meanwhile_is_not_overwritten(kind: str, tmp_path: Path) -> None:
    """What came into being while the folder was filled stays as it is, and the error names it."""
    target = tmp_path / "made"

    def fill() -> None:
        with new_folder(target) as folder:
            (folder / "ours").touch()
            if kind == "folder":
                target.mkdir()
                (target / "theirs").touch()
            else:
                target.touch()

    with pytest.raises(FileExistsError) as error:
        fill()
    assert error.value.filename == str(target)
    assert sorted(path.name for path in tmp_path.rglob("*")) == (["made", "theirs"] if kind == "folder" else ["made"])


def test_an_empty_folder_of_the_name_is_taken(tmp_path: Path) -> None:
    """A folder that somebody made to hold the result becomes the result."""
    (tmp_path / "made").mkdir()
    with new_folder(tmp_path / "made") as folder:
        (folder / "ours").touch()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["made", "ours"]


def test_leftovers_of_the_dead_are_swept(tmp_path: Path) -> None:
    """Files and folders of killed processes go, also where a younger process got the same number; others stay."""
    alive = f".a.1234.{os.getppid()}.tmp"
    reborn = f".b.1234.{os.getpid()}.tmp"
    for name in (f".[c].1234.{DEAD_PROCESS}.tmp", alive, reborn, ".other.tmp", "mine.tmp"):
        (tmp_path / name).touch()
    (tmp_path / f".d.1234.{DEAD_PROCESS}.tmp").mkdir()
    os.utime(tmp_path / reborn, (1e9, 1e9))
    sweep_leftovers(tmp_path, "[c]")
    assert len(list(tmp_path.iterdir())) == 5
    sweep_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([alive, ".other.tmp", "mine.tmp"])


def test_a_killed_write_leaves_the_old_file(tmp_path: Path) -> None:
    """SIGKILL in the middle of writing: the file is the old one, and what was half-written can be swept."""
    path = tmp_path / "file"
    write_atomically(path, lambda temporary: temporary.write_text("old", "utf-8"))
    code = (
        "import os, signal; from pathlib import Path; from tunesmith.utils.files import write_atomically;"
        f"write_atomically(Path({str(path)!r}),"
        " lambda t: (t.write_text('new', 'utf-8'), os.kill(os.getpid(), signal.SIGKILL)))"
    )
    killed = subprocess.run([sys.executable, "-c", code], check=False)
    assert killed.returncode == -9
    assert path.read_text("utf-8") == "old"
    assert len(list(tmp_path.iterdir())) == 2
    sweep_leftovers(tmp_path)
    assert [found.name for found in tmp_path.iterdir()] == ["file"]
