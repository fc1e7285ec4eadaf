"""Writes docs/troubleshooting.md and its Japanese from the table: `python recipes/troubleshooting_page.py`."""

from pathlib import Path

from tunesmith.messages.catalogue import say, speak
from tunesmith.symptoms.table import CHAPTERS

DOCS = Path(__file__).parents[1] / "docs"
PAGES = {"en": "troubleshooting.md", "ja": "troubleshooting.ja.md"}
HEADS = {
    "en": "# Troubleshooting\n\n`tunesmith doctor` checks the machine; `tunesmith explain` finds a row of this page by a message, a log or a "
    "run folder. This page is made from the same table.",
    "ja": "# 困ったときは\n\n`tunesmith doctor` はマシンを調べ、`tunesmith explain` はメッセージ、ログ、実行フォルダからこのページの項目を"
    "見つけます。このページも同じ表から作られています。",
}
CHAPTERS_JA = {
    "Cards, drivers, CUDA": "カード、ドライバー、CUDA",
    "Memory": "メモリ",
    "NaN and precision": "NaN と精度",
    "Text, tables, tokenizers": "テキスト、表、トークナイザー",
    "Models and the hub": "モデルとハブ",
    "Training and writing": "学習と生成",
    "Scripts of your own": "自分のスクリプト",
    "Compiling": "コンパイル",
    "Disks and files": "ディスクとファイル",
    "Windows, WSL, shells": "Windows、WSL、シェル",
    "Python packages": "Python のパッケージ",
}


def page(language: str) -> str:
    """The whole page in a language."""
    speak(language)
    try:
        parts = [HEADS[language]]
        for chapter, symptoms in CHAPTERS.items():
            parts.append(f"## {CHAPTERS_JA[chapter] if language == 'ja' else chapter}")
            for symptom in symptoms:
                messages = "\n".join(f"    {line}" for example in symptom.examples for line in example.splitlines())
                fix = say("mend") if language == "ja" else "Mend"
                parts.append(f"### {say(symptom.cause)}\n\n{messages}\n\n**{fix}:** {say(symptom.fix)}")
        return "\n\n".join(parts) + "\n"
    finally:
        speak("en")


def main() -> None:
    """Write both pages."""
    for language, name in PAGES.items():
        (DOCS / name).write_text(page(language), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
