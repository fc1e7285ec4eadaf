"""Links lead somewhere; flags, their values, files and tests that are named exist."""

import re
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
from babel.messages.pofile import read_po

import tunesmith
from tunesmith.commands import CONFIGS

from .pages import CODE, DOCS, LINK, ROOT, all_pages, anchor_of, headings_of, prose_of

FLAGS = {f"--{flag.name.replace('_', '-')}" for config in CONFIGS for flag in fields(config)} | {
    "--config",
    "--help",
    "--version",
    "--no-include-prompt",
}
OF_OTHERS = {"--fp16", "--nproc-per-node", "--nnodes", "--update", "--install"}
"""Flags of other programs: the guide's script, torchrun, wsl."""
NO_VALUES = {"or", "orders", "out"}
"""Words that follow a flag in a message without being its value."""
PLACEHOLDERS = {"convert/export_FORMAT.py", "sample.py", "llama.cpp", "llm.c", "run.toml"}
"""Files of other programs and of readers."""
FOLDERS = ("src", "tests", "benchmarks", "recipes")
TESTS = sorted((ROOT / "tests").rglob("test_*.py"))
OF_OUR_PROGRAMS = {"reliability", "benchmarks", "decisions", "serving", "scaling"}
"""Pages that also name flags of programs below tests/ and benchmarks/."""


@pytest.mark.parametrize("page", all_pages(), ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Every file that a page links to exists, and every heading."""
    broken = []
    for target in LINK.findall(prose_of(page)):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name) if name else page
        if not file.exists() or (anchor and anchor not in {anchor_of(heading) for _, heading in headings_of(file)}):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_pages_link_within_the_guide(page: Path) -> None:
    """The guide is a site of its own: what lies outside of it is not linked by a path."""
    outside = [target for target in LINK.findall(prose_of(page)) if target.startswith("../")]
    assert outside == []


@pytest.mark.parametrize(
    "page", [page for page in all_pages() if page.name.split(".")[0] not in OF_OUR_PROGRAMS], ids=lambda page: page.name
)
def test_flags_that_are_named_exist(page: Path) -> None:
    """In running text and in tables; those of other programs are left out."""
    text = prose_of(page)
    if page.name.startswith("coming-from"):  # its first column is what others call it
        text = re.sub(r"^\|[^|]*\|", "|", text, flags=re.MULTILINE)
    named = {flag for code in CODE.findall(text) for flag in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", code)}
    assert sorted(named - FLAGS - OF_OTHERS) == []


def choices_of(kind: Any) -> set[str] | None:
    """The values of a flag that takes no others."""
    if get_origin(kind) is Literal:
        return {str(value) for value in get_args(kind)}
    parts = [choices_of(part) for part in get_args(kind) if part is not type(None)]
    return None if None in parts or not parts else set[str]().union(*(part for part in parts if part))


def wrong_values(text: str) -> list[str]:
    """Flags in a text with a value that no command takes."""
    choices: dict[str, set[str] | None] = {}
    for config in CONFIGS:
        for name, kind in get_type_hints(config).items():
            flag, values = f"--{name.replace('_', '-')}", choices_of(kind)
            choices[flag] = values and values | (choices.get(flag) or set())
    found = re.findall(r"(?<![\w-])(--[a-z0-9-]+)[ =]([\w|-]+)", text)
    return [
        f"{flag} {value}"
        for flag, values in found
        for value in values.split("|")
        if choices.get(flag) and not value.startswith("-") and value not in (choices[flag] or set()) | NO_VALUES
    ]


@pytest.mark.parametrize("page", all_pages(), ids=lambda page: page.name)
def test_values_of_flags_exist(page: Path) -> None:
    """Where a flag takes certain words only, no page names another one."""
    assert [wrong for code in CODE.findall(page.read_text("utf-8")) for wrong in wrong_values(code)] == []


def test_values_in_messages_exist() -> None:
    """No message and no known issue advises a value that the command line rejects."""
    with (ROOT / "src" / "tunesmith" / "i18n" / "locales" / "ja.po").open("rb") as file:
        texts = [str(message.id) for message in read_po(file)]
    assert [wrong for text in texts for wrong in wrong_values(text)] == []
    assert wrong_values("--memory-mode fp16 or --compile yes") == ["--memory-mode fp16"]


@pytest.mark.parametrize("page", [*all_pages(), ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_files_and_tests_that_are_named_exist(page: Path) -> None:
    """Each module, program and test function in backticks is there, below the root or below a folder of it."""
    files = [path.relative_to(ROOT).as_posix() for name in FOLDERS for path in (ROOT / name).rglob("*.*")]
    tests = set(re.findall(r"def (test_\w+)", "".join(path.read_text("utf-8") for path in TESTS)))
    codes = CODE.findall(prose_of(page))
    named = {name for code in codes for name in re.findall(r"[\w/-]+\.(?:py|js|c|cpp|toml)\b", code)}
    missing = {name for name in named if not any(f"/{file}".endswith(f"/{name}") for file in files)}
    wrong = {name for code in codes for name in re.findall(r"^test_\w+$", code) if name not in tests}
    assert (missing - PLACEHOLDERS) | wrong == set()


def test_the_readme_links_the_guide() -> None:
    """Both front doors lead to it in their language."""
    assert "docs/index.md" in (ROOT / "README.md").read_text("utf-8")
    assert "docs/index.ja.md" in (ROOT / "README.ja.md").read_text("utf-8")


@pytest.mark.parametrize("name", ["python.md", "python.ja.md"])
def test_every_public_name_is_on_the_page_of_the_library(name: str) -> None:
    """Who reads the page knows what there is."""
    named = set(re.findall(r"\w+", " ".join(CODE.findall(prose_of(DOCS / name)))))
    assert sorted(set(tunesmith.__all__) - named - {"__version__"}) == []
