"""Pages of Markdown as the tests need them: blocks of code, headings, links, what is written as code."""

import re
import shlex
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
JAPANESE = ".ja.md"
ENGLISH_ONLY = {"decisions.md", "benchmarks.md", "scaling.md"}
"""For those who build this, and tables that a program writes."""

RUN, WRITTEN, PARSED, SHOWN = {"bash", "python"}, {"toml", "csv", "jsonl", "text"}, {"shell", "powershell"}, {"output"}
"""Languages of blocks: run here; files, where they have a title; commands of other machines, whose flags must exist;
and what a command shows."""

FENCE = re.compile(r"^( *)```(\w*)(?: title=\"([^\"]+)\")?[^\n]*\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"^(#{1,6}) (.+)$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: its language, the file that it is (if any), and what stands in it."""

    page: str
    language: str
    title: str
    text: str


def english_pages() -> list[Path]:
    """The README and every English page of the guide."""
    return [ROOT / "README.md", *sorted(path for path in DOCS.glob("*.md") if not path.name.endswith(JAPANESE))]


def japanese_of(page: Path) -> Path:
    """The same page in Japanese."""
    return page.with_name(page.stem + JAPANESE)


def all_pages() -> list[Path]:
    """In both languages."""
    return sorted([*ROOT.glob("README*.md"), *DOCS.glob("*.md")])


def blocks_of(page: Path) -> list[Block]:
    """Every fenced block of a page, in order."""
    found = FENCE.findall(page.read_text("utf-8"))
    return [Block(page.name, language, title, dedent(text)) for _, language, title, text in found]


def shown_on(page: Path) -> list[tuple[Block, Block]]:
    """Every block that shows what a command prints, behind the block of that command."""
    blocks = blocks_of(page)
    return [(before, block) for before, block in pairwise(blocks) if block.language in SHOWN]


def prose_of(page: Path) -> str:
    """A page without its blocks."""
    return FENCE.sub("", page.read_text("utf-8"))


def without_comments(text: str) -> str:
    """What a program sees of a block: comments are in the reader's language."""
    return "\n".join(re.sub(r"(^|\s+)#(?: |SBATCH).*$", "", line).rstrip() for line in text.splitlines()).strip()


def headings_of(page: Path) -> list[tuple[int, str]]:
    """Level and text of every heading."""
    return [(len(marks), text) for marks, text in HEADING.findall(prose_of(page))]


def anchor_of(heading: str) -> str:
    """The anchor of a heading, as GitHub and the site make it."""
    kept = re.sub(r"[^\w\- ]", "", re.sub(r"[`*]", "", heading.strip().lower()))
    return kept.replace(" ", "-")


def commands_of(text: str) -> list[str]:
    """The commands of a block of shell lines: comments off, continued lines joined, && taken apart."""
    joined = re.sub(r"\s*[\\`]\n\s*", " ", without_comments(text))
    return [command.strip() for line in joined.splitlines() for command in line.split("&&") if command.strip()]


def arguments_of(command: str) -> list[str] | None:
    """What tunesmith is given in a command that starts it, in whatever way; None where it does not."""
    words = shlex.split(command)
    for position, word in enumerate(words):
        if word == "tunesmith" and (position == 0 or words[position - 1] in {"-m", "|"}):
            return words[position + 1 :]
    return None
