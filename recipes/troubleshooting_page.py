"""Writes docs/troubleshooting.md and its Japanese from the rules of `explain`: `python recipes/troubleshooting_page.py`."""

from pathlib import Path

from tunesmith.diagnostics.matcher import chapters
from tunesmith.i18n import say, set_language

DOCS = Path(__file__).parents[1] / "docs"
PAGES = {"en": "troubleshooting.md", "ja": "troubleshooting.ja.md"}
HEADS = {
    "en": "# Troubleshooting\n\n`tunesmith doctor` checks the machine; `tunesmith explain` finds a row of this page by a message, a log or a "
    "run folder. This page is generated from the same rules.",
    "ja": "# 困ったときは\n\n`tunesmith doctor` はマシンを調べ、`tunesmith explain` はメッセージ、ログ、実行フォルダからこのページの項目を"
    "見つけます。このページも同じデータから作られています。",
}


def page(language: str) -> str:
    """The whole page in a language."""
    set_language(language)
    try:
        parts = [HEADS[language]]
        for chapter in chapters():
            parts.append(f"## {say(chapter.title)}")
            for rule in chapter.rules:
                messages = "\n".join(f"    {line}" for example in rule.examples for line in example.splitlines())
                fix = say("fix") if language == "ja" else "Fix"
                parts.append(f"### {say(rule.cause)}\n\n{messages}\n\n**{fix}:** {say(rule.fix)}")
        return "\n\n".join(parts) + "\n"
    finally:
        set_language("en")


def main() -> None:
    """Write both pages."""
    for language, name in PAGES.items():
        (DOCS / name).write_text(page(language), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
