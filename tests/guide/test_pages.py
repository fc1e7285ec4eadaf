"""Links lead somewhere, and flags that are named exist."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

import tunesmith
from tunesmith.commands import CONFIGS

from .pages import CODE, DOCS, LINK, ROOT, all_pages, anchor_of, headings_of, prose_of

FLAGS = {f"--{flag.name.replace('_', '-')}" for config in CONFIGS for flag in fields(config)} | {
    "--config",
    "--help",
    "--version",
    "--no-include-prompt",
}
OF_OTHERS = {"--fp", "--nproc-per-node", "--nnodes", "--update", "--install"}
"""Flags of other programs: the guide's script, torchrun, wsl."""
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
    named = {flag for code in CODE.findall(text) for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]+", code)}
    assert sorted(named - FLAGS - OF_OTHERS) == []


def test_the_readme_links_the_guide() -> None:
    """Both front doors lead to it in their language."""
    assert "docs/index.md" in (ROOT / "README.md").read_text("utf-8")
    assert "docs/index.ja.md" in (ROOT / "README.ja.md").read_text("utf-8")


@pytest.mark.parametrize("name", ["python.md", "python.ja.md"])
def test_every_public_name_is_on_the_page_of_the_library(name: str) -> None:
    """Who reads the page knows what there is."""
    named = set(re.findall(r"\w+", " ".join(CODE.findall(prose_of(DOCS / name)))))
    assert sorted(set(tunesmith.__all__) - named - {"__version__"}) == []
