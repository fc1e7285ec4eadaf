"""Every block of the guide and of the READMEs is run, or parsed where it is for another machine."""

import json
import re
import shlex
import shutil
import tomllib
from contextlib import suppress
from pathlib import Path

import pytest
from cyclopts import MissingArgumentError
from huggingface_hub import constants

import tunesmith
from tunesmith.cli import app, main
from tunesmith.ui.argv import with_plain_dashes

from .kitchen import Kitchen, hub_cache
from .pages import (
    CODE,
    ENGLISH_ONLY,
    JAPANESE,
    PARSED,
    ROOT,
    RUN,
    SHOWN,
    WRITTEN,
    all_pages,
    arguments_of,
    blocks_of,
    commands_of,
    english_pages,
    headings_of,
    japanese_of,
    prose_of,
    shown_on,
    without_comments,
)

CLOSINGS = (
    "Lamp steady.",
    "All well.",
    "Lamp lit until dawn.",
    "No ship in danger.",
    "Oil enough.",
    "Logged and signed.",
)
WITH_BLOCKS = [page for page in english_pages() if any(block.language in RUN for block in blocks_of(page))]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared text, which a reader has prepared once."""
    return tmp_path_factory.mktemp("prepared")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """The first command of the README, run as it is printed."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "examples", folder / "examples")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("TUNESMITH_CACHE", str(cache))
        patch.setenv("LC_ALL", "C.UTF-8")
        first = commands_of(blocks_of(ROOT / "README.md")[0].text)[1]
        assert main((arguments_of(first) or []) + ["--lang", "en"]) == 0
    return folder / "my-model"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of the hub's library, filled."""
    return hub_cache(tmp_path_factory.mktemp("hub"))


@pytest.fixture(scope="module")
def runs_before(trained: Path) -> dict[str, Path]:
    """What was trained on earlier pages."""
    first = commands_of(blocks_of(ROOT / "README.md")[0].text)[1]
    return {" ".join(arguments_of(first) or []): trained}


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_BLOCKS, ids=lambda page: page.name)
def test_every_block_runs(
    page: Path,
    trained: Path,
    hub: Path,
    cache: Path,
    runs_before: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As printed, in the page's order, in the folder of a reader who has text and read the pages before."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("TUNESMITH_CACHE", str(cache))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.chdir(tmp_path)
    resumed = set(re.findall(r"train --resume --out (\S+)", page.read_text("utf-8")))
    made_here = set(re.findall(r"tunesmith train .*--out (\S+)", page.read_text("utf-8")))
    earlier = tuple(name for name in ("my-model", "my-model-2") if name not in made_here)
    with Kitchen(tmp_path, trained, runs_before, resumed, earlier) as kitchen:
        done = [kitchen.do(block) for block in blocks_of(page)]
    assert done


@pytest.mark.parametrize(
    "page",
    [page for page in all_pages() if page.name.endswith(JAPANESE) and shown_on(page)],
    ids=lambda page: page.name,
)
def test_what_is_shown_in_japanese_is_what_is_said(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A block of output on a Japanese page is what the command above it says to a Japanese reader."""
    monkeypatch.setenv("LC_ALL", "ja_JP.UTF-8")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.chdir(tmp_path)
    with Kitchen(tmp_path, trained=tmp_path, runs_before={}, resumed=set(), earlier=()) as kitchen:
        for command, output in shown_on(page):
            kitchen.do(command)
            kitchen.do(output)
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.slow
def test_the_first_command_does_what_the_readme_says(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The example is learned clearly, and samples in its style end by themselves."""
    monkeypatch.chdir(trained.parent)
    capsys.readouterr()
    outcome = json.loads((trained / "run.json").read_text("utf-8"))["result"]
    assert outcome["perplexity"] < outcome["base_perplexity"] / 10
    assert main(["generate", "my-model", "-n", "5"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 5
    texts = tunesmith.generate("my-model", num_samples=30)
    assert sum(text.finish_reason == "stop" for text in texts) >= 27
    assert sum(text.text.endswith(CLOSINGS) for text in texts) >= 24


@pytest.mark.parametrize("page", all_pages(), ids=lambda page: page.name)
def test_every_block_says_what_it_is(page: Path) -> None:
    """A block is run, a file, a command of another machine, or what a command shows; nothing else."""
    languages = {block.language for block in blocks_of(page)}
    assert languages <= RUN | WRITTEN | PARSED | SHOWN


@pytest.mark.parametrize("page", all_pages(), ids=lambda page: page.name)
def test_commands_have_these_flags(page: Path) -> None:
    """The command line's own parser takes every command, those of other systems and those in the text as well."""
    for block in blocks_of(page):
        if block.language not in PARSED | {"bash"}:
            continue
        for command in commands_of(block.text):
            arguments = arguments_of(command)
            if arguments and arguments[-1] not in {"--help", "--version"}:
                parse(arguments)
    for code in CODE.findall(prose_of(page)):
        if code.startswith("tunesmith ") and "--help" not in code:
            with suppress(MissingArgumentError):  # shortened to what the sentence is about
                parse(shlex.split(code)[1:])


def parse(arguments: list[str]) -> None:
    """Raise what the parser raises; --lang, --config, pipes and redirections are taken off."""
    words = with_plain_dashes(arguments)
    for flag in ("--config", "--lang"):
        if flag in words:
            del words[words.index(flag) : words.index(flag) + 2]
            words += [] if "--out" in words or words[0] != "train" else ["--out", "in-the-file"]
    ends = [words.index(word) for word in (">", "|", "2>", "<") if word in words]
    app.parse_args(words[: min(ends, default=len(words))], exit_on_error=False, print_error=False)


@pytest.mark.parametrize("page", all_pages(), ids=lambda page: page.name)
def test_what_is_installed_has_a_name(page: Path) -> None:
    """Every extra that `pip install` is given stands in pyproject.toml."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    text = page.read_text("utf-8")
    named = {name for names in re.findall(r"(?:tunesmith|\'\.)\[([\w,]+)\]", text) for name in names.split(",")}
    assert named <= set(extras)


@pytest.mark.parametrize(
    "page", [page for page in english_pages() if page.name not in ENGLISH_ONLY], ids=lambda page: page.name
)
def test_the_japanese_page_is_not_behind(page: Path) -> None:
    """It has the same headings by number and level, and the same blocks but for comments and what is shown."""
    japanese = japanese_of(page)
    assert japanese.is_file()
    assert [level for level, _ in headings_of(page)] == [level for level, _ in headings_of(japanese)]
    english_blocks, japanese_blocks = (
        [
            (block.language, block.title, without_comments(block.text))
            for block in blocks_of(one)
            if block.language not in SHOWN
        ]
        for one in (page, japanese)
    )
    assert english_blocks == japanese_blocks
