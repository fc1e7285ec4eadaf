"""Errors show names and values as they are, however they are spelled, on one line of any terminal."""

import contextlib
import sys
from pathlib import Path

import pytest

import tunesmith
from tunesmith.cli import main
from tunesmith.errors import UserError
from tunesmith.model.hub import local_folder

NAMES = {
    "several   spaces.txt": "several   spaces.txt",
    "tab\tin it.txt": "tab\\tin it.txt",
    "new\nline.txt": "new\\nline.txt",
    "carriage\rreturn.txt": "carriage\\rreturn.txt",
    "bell\x07 and \x1b[31mred.txt": "bell\\x07 and \\x1b[31mred.txt",
    "\u5168\u89d2\u3000\uff21\uff22.txt": "\u5168\u89d2\u3000\uff21\uff22.txt",
    "[bold]brackets[red].txt": "[bold]brackets[red].txt",
    "{braces} {0} {path}.txt": "{braces} {0} {path}.txt",
    "percent %s 100%.txt": "percent %s 100%.txt",
    ":smile:.txt": ":smile:.txt",
    "separator\u2028of lines.txt": "separator\\u2028of lines.txt",
    "a-very-long-name-" * 12 + "  two spaces.txt": "a-very-long-name-" * 12 + "  two spaces.txt",
}
"""Of files, and how they are shown."""


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_file_is_named_exactly(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One `error:` line and one `hint:` line, whatever is in the name."""
    for command in (["prepare", name, "--tokenizer", "tiny"], ["evaluate", "tiny", name]):
        assert main(command) == 1
        error, hint = capsys.readouterr().err.split("\n")[:-1]
        assert error == f"error: no such file: {NAMES[name]}"
        assert hint.startswith("hint: ")


@pytest.mark.skipif(sys.platform == "win32", reason="such names are none there")
@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_is_there_is_named_exactly(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the error about its bytes, and in a value that the parser of the command line refuses."""
    path = tmp_path / name[-100:]
    path.write_bytes(b"fine\nnot \x82 fine\n")
    shown = f"{tmp_path}/{NAMES[name][-100:]}"
    assert main(["prepare", str(path), "--tokenizer", "tiny", "--encoding", "utf-8"]) == 1
    assert f"error: {shown} is not utf-8 throughout" in capsys.readouterr().err
    assert main(["prepare", str(path), "--tokenizer", "tiny", "--dedupe", name]) == 2
    assert f'error: --dedupe "{NAMES[name]}": choose from none, exact, near\n' in capsys.readouterr().err


@pytest.mark.parametrize(("name", "shown"), [(" before.txt", '" before.txt"'), ("behind.txt  ", '"behind.txt  "')])
def test_blanks_at_the_ends_are_seen(name: str, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A name that begins or ends with blanks stands between quotes."""
    assert main(["prepare", name, "--tokenizer", "tiny"]) == 1
    assert capsys.readouterr().err.startswith(f"error: no such file: {shown}\n")
    with pytest.raises(UserError) as caught:
        tunesmith.prepare(Path(name), tokenizer="tiny")
    assert caught.value.message == f"no such file: {shown}"


def test_python_sees_the_same() -> None:
    """The exception's text is one line, with every blank."""
    with pytest.raises(UserError) as caught:
        tunesmith.prepare("two  spaces\nand a line.txt", tokenizer="tiny")
    assert str(caught.value).startswith("no such file: two  spaces\\nand a line.txt (")


def test_a_plan_names_the_model_exactly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Brackets in a folder's name are no markup, and a word between colons no picture."""
    folder = tmp_path / "[red]  :smile:"
    folder.mkdir()
    for file in local_folder("tiny").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    command = ["plan", "--model", "[red]  :smile:", "--vram", "12GB"]
    with contextlib.chdir(tmp_path):
        assert main(command) == 0
    assert "[red]  :smile:" in capsys.readouterr().out
