"""Hundreds of files in the encodings that people have, whole and damaged: read right, or asked about, never misread."""

import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.data.encoding import detect_encoding
from tunesmith.data.source_files import SourceFile
from tunesmith.errors import UserError

from .encoding_texts import ENCODINGS, TEXTS, UNICODE

FORMS = ("short", "long", "mixed line ends", "single line")
DAMAGES = (0, 1, 5)
BAD_BYTES = (0x81, 0x8D, 0x9D, 0xFE, 0xFF)


def text_of(language: str, form: str, seed: int) -> str:
    """Sentences in random order: one, or about four kilobytes."""
    random_ = random.Random(seed)
    sentences = [random_.choice(TEXTS[language]) for _ in range(40)]
    if form == "short":
        return sentences[0] + "\n"
    if form == "single line":
        return " ".join(sentences)
    ends = ["\n", "\r\n", "\r"] if form == "mixed line ends" else ["\n"]
    return "".join(sentence + random_.choice(ends) for sentence in sentences)


def damaged(content: bytes, count: int, seed: int) -> bytes:
    """With bytes put between others."""
    random_ = random.Random(seed)
    out = bytearray(content)
    for _ in range(count):
        out.insert(random_.randrange(len(out)), random_.choice(BAD_BYTES))
    return bytes(out)


def outcome(content: bytes, encoding: str, path: Path, n_bad: int, seed: int) -> str:
    """Read right, asked about, or wrong. Right is an encoding that gives the text as it was before the damage."""
    path.write_bytes(damaged(content, n_bad, seed))
    try:
        name = detect_encoding(SourceFile(path, path.name, ".txt")).name
    except UserError:
        return "asked"
    found, right = (content.decode(it, errors="replace").removeprefix("\ufeff") for it in (name, encoding))
    return "right" if found == right else f"wrong: {name}"


CASES = [
    (language, encoding, form, n_bad)
    for language, names in ENCODINGS.items()
    for encoding in (*names, *UNICODE)
    for form in FORMS
    for n_bad in DAMAGES
    if not (n_bad and encoding.startswith(("utf-16", "utf-32", "iso2022")))
    and not (encoding in UNICODE and form in {"mixed line ends", "single line"})
]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Counter[tuple[str, str, str]]:
    """What became of each kind of file."""
    path = tmp_path_factory.mktemp("corpus") / "text.txt"
    found: Counter[tuple[str, str, str]] = Counter()
    for seed, (language, encoding, form, n_bad) in enumerate(CASES):
        content = text_of(language, form, seed).encode(encoding, errors="ignore")
        size = "short" if form == "short" else "long"
        found[size, f"{language} in {encoding}, {n_bad} bad", outcome(content, encoding, path, n_bad, seed)] += 1
    return found


def test_no_file_is_misread(table: Counter[tuple[str, str, str]]) -> None:
    """Of more than 400 files none."""
    assert sum(table.values()) > 400
    assert {key: n for key, n in table.items() if key[2].startswith("wrong")} == {}


def test_nearly_all_longer_files_are_read(table: Counter[tuple[str, str, str]]) -> None:
    """At least 97 % of those over 2 kB are read right; the others are asked about."""
    longer = Counter({key: n for key, n in table.items() if key[0] == "long"})
    right = sum(n for key, n in longer.items() if key[2] == "right")
    assert right >= 0.97 * sum(longer.values()), [key for key in longer if key[2] != "right"]


@given(
    case=st.sampled_from([(language, name) for language, names in ENCODINGS.items() for name in (*names, "utf-8")]),
    seed=st.integers(0, 1 << 30),
    n_bad=st.integers(0, 5),
)
def test_damage_changes_nothing_around_it(
    tmp_path_factory: pytest.TempPathFactory, case: tuple[str, str], seed: int, n_bad: int
) -> None:
    """With any order of sentences and any damage: read in the right encoding, or the run stops."""
    language, encoding = case
    if encoding == "iso2022_jp":
        n_bad = 0
    content = text_of(language, "long", seed).encode(encoding, errors="ignore")
    path = tmp_path_factory.mktemp("any") / "text.txt"
    assert outcome(content, encoding, path, n_bad, seed) in {"right", "asked"}
