"""The guide as a web site, in English and Japanese: `python recipes/guide_site.py --out site`.

Needs `pip install '.[docs]'`. The generator builds one language at a time: pages of a language are laid out under the
same names, so that `your-text.ja.md` becomes `ja/your-text/`; a page that has no Japanese stands there in English.
Nothing is fetched from anywhere when the site is read: fonts are the reader's.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

DOCS = Path(__file__).parents[1] / "docs"
JAPANESE = ".ja.md"
CHAPTERS: dict[tuple[str, str], tuple[str, ...]] = {
    ("Begin", "はじめに"): ("index", "install", "first-run"),
    ("Use", "使う"): (
        "your-text",
        "choosing-a-size",
        "reading-the-results",
        "report",
        "generating",
        "serving",
        "resuming",
    ),
    ("More", "さらに"): ("going-further", "from-scratch", "scaling", "python", "coming-from"),
    ("Help", "困ったら"): ("troubleshooting",),
    ("What is claimed", "根拠"): ("benchmarks", "reliability", "limitations", "decisions"),
}
"""Every page, in the order of reading; those that are not there yet are left out."""

OTHER_LANGUAGE = re.compile(r"^\[(?:日本語|English)\]\([^)]*\)\n+", re.MULTILINE)
"""A line that leads to the same page in the other language, where pages are read one by one."""

EXTENSIONS: list[Any] = [
    "tables",
    "attr_list",
    {"toc": {"permalink": True, "slugify": "SLUGIFY"}},
    {"pymdownx.highlight": {"pygments_lang_class": True}},
    "pymdownx.superfences",
]
SLUGIFY = "!!python/object/apply:pymdownx.slugs.slugify {kwds: {case: lower}}"
"""Anchors as GitHub makes them, in any script."""

STYLE = """
.md-typeset table:not([class]) th, .md-typeset table:not([class]) td { padding: .5em .9em; }
.md-typeset table:not([class]) td:nth-child(3) { min-width: 11em; }
.md-typeset table:not([class]) code { white-space: nowrap; }
"""
"""Flags stay whole; a table that is too wide for a phone is scrolled."""


def pages_of(language: str) -> dict[str, Path]:
    """What stands under which name in a language."""
    english = {path.name: path for path in DOCS.glob("*.md") if not path.name.endswith(JAPANESE)}
    if language == "en":
        return english
    return {
        name: path if not (own := DOCS / name.replace(".md", JAPANESE)).exists() else own
        for name, path in english.items()
    }


def lay_out(language: str, folder: Path) -> None:
    """Write the pages of a language into a folder, with pictures, style and notebook."""
    shutil.copytree(DOCS / "images", folder / "images")
    shutil.copyfile(DOCS / "notebook.ipynb", folder / "notebook.ipynb")
    (folder / "style.css").write_text(STYLE)
    for name, path in pages_of(language).items():
        text = OTHER_LANGUAGE.sub("", path.read_text("utf-8")).replace(JAPANESE, ".md")
        (folder / name).write_text(re.sub(r"^```output$", "```text", text, flags=re.MULTILINE), encoding="utf-8")


def settings(language: str) -> dict[str, Any]:
    """The generator's configuration."""
    is_japanese = language == "ja"
    pages = pages_of(language)
    return {
        "site_name": "tunesmith",
        "site_description": "GPT-2 のファインチューニング" if is_japanese else "Fine-tune GPT-2 on the machine you own",
        "docs_dir": "docs",
        "site_dir": "site",
        "extra_css": ["style.css"],
        "use_directory_urls": False,
        "theme": {
            "language": language,
            "font": False,
            "features": [
                "navigation.sections",
                "navigation.top",
                "navigation.footer",
                "content.code.copy",
                "toc.follow",
            ],
            "palette": [
                {"media": "(prefers-color-scheme: light)", "scheme": "default"},
                {"media": "(prefers-color-scheme: dark)", "scheme": "slate"},
            ],
        },
        "extra": {
            "alternate": [
                {"name": "English", "lang": "en", "link": "../index.html" if is_japanese else "./index.html"},
                {"name": "日本語", "lang": "ja", "link": "./index.html" if is_japanese else "ja/index.html"},
            ]
        },
        "markdown_extensions": EXTENSIONS,
        "nav": [
            {titles[is_japanese]: [f"{name}.md" for name in names if f"{name}.md" in pages]}
            for titles, names in CHAPTERS.items()
        ],
    }


def build(out: Path, work: Path) -> None:
    """Both languages; a warning ends it."""
    for language, site in (("en", out), ("ja", out / "ja")):
        docs = work / language / "docs"
        docs.mkdir(parents=True)
        lay_out(language, docs)
        built = work / language / "site"
        text = yaml.safe_dump(settings(language), allow_unicode=True, sort_keys=False)
        file = work / language / "mkdocs.yml"
        file.write_text(text.replace("SLUGIFY", SLUGIFY), encoding="utf-8")
        command = [sys.executable, "-m", "zensical", "build", "--strict", "--config-file", str(file)]
        subprocess.run(command, check=True, cwd=work / language)  # noqa: S603  our own configuration
        shutil.copytree(built, site, dirs_exist_ok=True)


def main() -> None:
    """Build it where it was asked for, which must not exist yet."""
    parser = argparse.ArgumentParser(description="Build the guide in English and Japanese.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the site; it must not exist yet")
    asked = parser.parse_args()
    if asked.out.exists():
        parser.error(f"--out {asked.out} exists already")
    with tempfile.TemporaryDirectory() as work:
        build(asked.out, Path(work))


if __name__ == "__main__":
    main()
