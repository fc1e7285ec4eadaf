"""Words in docstrings, comments and messages: plain technical English that can be searched for, American spelling."""

import ast
import io
import re
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import tunesmith

PACKAGE = Path(tunesmith.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
TEXT_FILES = sorted(PACKAGE.rglob("*.toml"))

FORBIDDEN = {
    r"cards?": "GPU",
    r"processors?": "CPU",
    r"behind": "after",
    r"beside": "next to, in the background",
    r"anew": "again",
    r"go(?:es)? on": "continue, resume",
    r"stands?|stood": "is, are",
    r"is said": "is printed, is shown",
    r"(?<!there )(?:is|are) no(?! longer)": "is not a",
    r"holds?": "contains",
    r"mend(?:s|ed|ing)?": "fix",
    r"by heart": "memorize",
    r"kept apart": "held out",
    r"learns|learnt": "trains on",
    r"so many": "the number",
    r"verbs?": "command",
    r"figures?": "number",
    r"(?<!not )lost:": "rejected:",
    r"(?:named|refused) by name": "reported, rejected",
    r"who|whom|whoever|nobody": "the user, the process, the caller",
    r"the house": "the package",
    r"rooms?": "memory, space",
    r"floors?": "layer",
    r"the guide's script": "the Hugging Face Trainer example",
    r"dealt": "split across",
    r"by chance": "at random",
    r"one sitting": "one session",
}
"""What the style guide forbids, and what to write instead. Words that are right in some sense (takes, texts, writes,
learned) are left to the reviewer."""

ALLOWED = {
    "model card": "the Hugging Face Hub's term",
    "dataset card": "the Hugging Face Hub's term",
    "my-model": "the example's folder",
    "logits processor": "transformers' term",
}
"""Phrases with a forbidden word in them, and why they are right."""

PLACES = {
    "tracking/trackers.py": {"card: the model card": "an argument's name"},
    "doctor/probe_process.py": {"is not lost:": "not an error's label"},
    "reporting/charts.py": {"no peak is lost:": "not an error's label"},
}
"""For a file: a text that must contain a forbidden word, and why."""

AMERICAN = re.compile(
    r"\b(?:\w+(?:is(?:e[sdr]?|ing|ation)|yse[sd]?|ysing)|behaviou?r\w*|colour\w*|centre\w*|licence\w*|favour\w*|catalogue\w*"
    r"|neighbour\w*|cancell(?:ed|ing)|grey|artefacts?|judgement|labell(?:ed|ing)|modell(?:ed|ing)|honour\w*)\b",
    re.IGNORECASE,
)
NOT_BRITISH = re.compile(
    r"(?:\w*(?:wise|noise|raise|rise|advis|promis|premise|precis|concise|exercis|compris|surpris|revis|disguise|expertise"
    r"|supervis|compromis|improvis|enterpris|praise|aris|devis|excis|else|chas|purpos|close|base|case|behavior|imprecis)\w*"
    r"|\w+(?:os|as|us|ns|rs|ps|ls)ing|this|is|his)$",
    re.IGNORECASE,
)
"""Words that end like British ones and are not."""


def prose_of(path: Path) -> Iterator[tuple[int, str]]:
    """Comments, and strings with a blank in them: docstrings, messages, help texts; with their lines."""
    source = path.read_text("utf-8")
    if path.suffix == ".toml":  # the patterns and examples are other programs' words
        for rule in tomllib.loads(source)["rule"]:
            yield from ((0, rule[key]) for key in ("title", "cause", "fix") if key in rule)
        return
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value.strip():
            yield node.lineno, node.value


def findings_in(text: str) -> list[str]:
    """Forbidden words in a text, each with what to write."""
    for phrase in ALLOWED:
        text = re.sub(re.escape(phrase), "", text, flags=re.IGNORECASE)
    words = [
        f"{match[0]!r}: write {instead}"
        for pattern, instead in FORBIDDEN.items()
        for match in re.finditer(rf"(?<![\w`{{<.-])(?:{pattern})(?![\w`}}>-])", text, re.IGNORECASE)
    ]
    spellings = [
        f"{match[0]!r}: write it as Americans do"
        for match in AMERICAN.finditer(text)
        if not NOT_BRITISH.match(match[0])
    ]
    return words + spellings


@pytest.mark.parametrize("path", [*FILES, *TEXT_FILES], ids=lambda path: str(path.relative_to(PACKAGE)))
def test_plain_words(path: Path) -> None:
    """No docstring, comment or message has a word that the style guide forbids."""
    allowed = PLACES.get(str(path.relative_to(PACKAGE).as_posix()), {})
    found = [
        f"{line}: {finding}"
        for line, text in prose_of(path)
        if not any(phrase in text for phrase in allowed)
        for finding in findings_in(text)
    ]
    assert not found


def test_the_check_finds_what_it_forbids() -> None:
    """Each forbidden word is found in a sentence, allowed phrases are not."""
    for sentence in (
        "The card is full.",
        "It stands behind it.",
        "Whoever asks",
        "so many tokens",
        "The result is no number",
    ):
        assert findings_in(sentence)
    assert findings_in("Tokenise the text") == ["'Tokenise': write it as Americans do"]
    assert findings_in("the behaviour of colours") != []
    assert not findings_in("The model card names the dataset; otherwise raise an error, likewise for supervised noise.")
