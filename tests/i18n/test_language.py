"""Which language is spoken: the flag, the configuration file, the locale; early enough for every error."""

from collections.abc import Callable
from pathlib import Path

import pytest

import tunesmith
from tunesmith.cli import main
from tunesmith.errors import UserError
from tunesmith.i18n import get_language, system_language


@pytest.mark.parametrize(
    ("environment", "language"),
    [
        ({"LC_ALL": "C"}, "en"),
        ({"LANG": "ja_JP.UTF-8"}, "ja"),
        ({"LANG": "ja"}, "ja"),
        ({"LANG": "ja.UTF-8"}, "ja"),
        ({"LANG": "de_DE.UTF-8"}, "en"),
        ({"LANG": "en_US.UTF-8", "LC_MESSAGES": "ja_JP.UTF-8"}, "ja"),
        ({"LANG": "ja_JP.UTF-8", "LC_ALL": "C"}, "en"),
        ({"LANG": "ja_JP.UTF-8", "LC_ALL": ""}, "ja"),
        ({"LANG": "ja_JP.UTF-8", "LC_CTYPE": "C"}, "ja"),
        ({"LANG": "ja_JP.UTF-8", "TERM": "xterm-256color"}, "ja"),
        ({"LANG": "ja_JP.UTF-8", "TERM": "linux"}, "en"),
    ],
)
def test_the_locale_says_it(environment: dict[str, str], language: str) -> None:
    """POSIX's order of variables; an empty one is none; a console that cannot show Japanese gets English."""
    assert system_language(environment) == language


@pytest.mark.parametrize(
    "command",
    [
        ["--lang", "ja", "evaluate", "tiny"],
        ["--lang=ja", "evaluate", "tiny"],
        ["evaluate", "--lang", "ja", "tiny"],
        ["evaluate", "tiny", "--lang=ja"],
    ],
)
def test_the_flag_stands_anywhere(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Before the command, behind it, with or without an equals sign."""
    assert main(command) == 2
    assert "テキストが指定されていません" in capsys.readouterr().err


def test_the_flag_wins_over_the_file_and_the_file_over_the_locale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One wish after another."""
    file = tmp_path / "settings.toml"
    file.write_text('lang = "ja"\n', encoding="utf-8")
    assert main(["evaluate", "tiny", "--config", str(file)]) == 2
    assert get_language() == "ja"
    assert main(["evaluate", "tiny", "--config", str(file), "--lang", "en"]) == 2
    assert get_language() == "en"
    monkeypatch.setenv("LC_ALL", "ja_JP.UTF-8")
    assert main(["evaluate", "tiny"]) == 2
    assert get_language() == "ja"
    capsys.readouterr()


@pytest.mark.parametrize("command", [["evaluate", "tiny", "--lang", "tlh"], ["evaluate", "tiny", "--lang"]])
def test_another_language_is_a_usage_error(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """With the ones there are."""
    assert main(command) == 2
    assert "hint: write --lang en or --lang ja" in capsys.readouterr().err


def test_a_text_behind_two_dashes_is_no_flag(
    make_model_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Two dashes end the flags, as everywhere."""
    assert main(["evaluate", str(make_model_folder()), "--", "--lang", "ja"]) == 1
    assert "--lang" in capsys.readouterr().err
    assert get_language() == "en"


def test_the_library_speaks_it_too() -> None:
    """The same names and defaults as the command line."""
    with pytest.raises(UserError):
        tunesmith.prepare("none.txt", lang="ja")
    assert get_language() == "ja"
    with pytest.raises(UserError):
        tunesmith.prepare("none.txt")
    assert get_language() == "en"
