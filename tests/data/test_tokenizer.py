"""A checkpoint's own tokenizer, exactly."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from tunesmith.data.tokenizer import SAFE_BORDER, TextTokenizer, load_tokenizer, safe_pieces
from tunesmith.errors import UserError

SHARED = Path(__file__).resolve().parents[3] / "shared" / "gpt2-tokenizer"
needs_real_tokenizer = pytest.mark.skipif(not SHARED.is_dir(), reason="GPT-2's tokenizer is not beside this checkout")
CONFIG = {"vocab_size": 300, "eos_token_id": 0}
AWKWARD = [
    "",
    " ",
    "  two  spaces  ",
    "it's we'll I'd they've DON'T",
    "tabs\t\tand\nlines\n\n\n  indented",
    "12345 6.789e-10 1,000,000",
    "caf\u00e9 na\u00efve \u00df \u0130",
    "\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8\u3001\u5409\u7530\u3055\u3093",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 \u2602\ufe0f",
    "a\u00a0b\u2009c\u3000d\u2028e\x85f\x0cg",
    "<|endoftex|> <|im_start|> [MASK]",
    "\x00\x01\x7f",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
]
TEXTS = ["the lamp burns", " two  spaces", "no such word: zyx", "日本語 ☂ é", "", "<|endoftext|>"]


@pytest.fixture
def folder(small_tokenizer: Tokenizer, tmp_path: Path) -> Path:
    """A folder with nothing but tokenizer.json."""
    path = tmp_path / "model"
    path.mkdir()
    small_tokenizer.save(str(path / "tokenizer.json"))
    return path


def test_old_vocabulary_files_give_the_same_ids(folder: Path, small_tokenizer: Tokenizer, tmp_path: Path) -> None:
    """vocab.json with merges.txt is the same tokenizer as tokenizer.json."""
    old = tmp_path / "old"
    old.mkdir()
    small_tokenizer.model.save(str(old))
    assert {path.name for path in old.iterdir()} == {"vocab.json", "merges.txt"}
    assert load_tokenizer(old, CONFIG).encode(TEXTS) == load_tokenizer(folder, CONFIG).encode(TEXTS)


def test_text_never_becomes_a_special_token(folder: Path) -> None:
    """A marker in a text is encoded letter by letter and decodes to itself."""
    tokenizer = load_tokenizer(folder, CONFIG)
    (ids,) = tokenizer.encode(["<|endoftext|>"])
    assert 0 not in ids
    assert tokenizer.decode(ids) == "<|endoftext|>"


@pytest.mark.parametrize(
    ("hf_config", "tokenizer_config", "expected"),
    [
        ({"eos_token_id": 5}, {"eos_token": "a"}, 5),
        ({"eos_token_id": [7, 8]}, None, 7),
        ({"eos_token_id": None}, {"eos_token": {"content": "a"}}, "a"),
        ({}, {"eos_token": "a"}, "a"),
        ({}, None, "<|endoftext|>"),
        ({"eos_token_id": 100_000}, None, "<|endoftext|>"),
    ],
)
def test_end_of_text_is_the_checkpoints(
    hf_config: dict[str, Any],
    tokenizer_config: dict[str, Any] | None,
    expected: int | str,
    folder: Path,
    small_tokenizer: Tokenizer,
) -> None:
    """config.json decides, then tokenizer_config.json, then GPT-2's marker."""
    if tokenizer_config:
        (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config), encoding="utf-8")
    wanted = small_tokenizer.token_to_id(expected) if isinstance(expected, str) else expected
    assert load_tokenizer(folder, {"vocab_size": 300, **hf_config}).end_of_text_id == wanted


def test_no_end_of_text_is_an_error(tmp_path: Path) -> None:
    """A tokenizer that knows no end-of-text is refused."""
    from tokenizers.models import WordLevel

    Tokenizer(WordLevel({"a": 0, "b": 1}, unk_token="a")).save(str(tmp_path / "tokenizer.json"))  # noqa: S106
    with pytest.raises(UserError, match="names no end-of-text token"):
        load_tokenizer(tmp_path, {"vocab_size": 2})


def test_tokenizer_of_another_model_is_refused(folder: Path) -> None:
    """Ids beyond the embedding table would crash in the middle of a run."""
    with pytest.raises(UserError, match="has ids up to 299, the model only 200"):
        load_tokenizer(folder, {"vocab_size": 200, "eos_token_id": 0})


@pytest.mark.parametrize("content", [None, "{", '{"model": {"type": "Unknown"}}'])
def test_missing_or_damaged_tokenizers(content: str | None, tmp_path: Path) -> None:
    """No tokenizer and a broken one are one clear error each."""
    if content:
        (tmp_path / "tokenizer.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"cannot be read|has no tokenizer"):
        load_tokenizer(tmp_path, CONFIG)


def test_saved_files_are_what_transformers_needs(
    folder: Path, tmp_path: Path, make_model_folder: Callable[..., Path]
) -> None:
    """AutoTokenizer loads a saved folder offline and agrees on ids and on end-of-text."""
    out = make_model_folder("out", tokenizer=False)
    load_tokenizer(folder, CONFIG).save(out)
    theirs = AutoTokenizer.from_pretrained(out)
    texts = TEXTS[:-1]  # transformers does read a marker in a text as the token
    assert [theirs(text)["input_ids"] for text in texts] == load_tokenizer(out, CONFIG).encode(texts)
    assert theirs.eos_token_id == 0
    assert out != tmp_path


def test_fingerprint_follows_the_content(folder: Path, small_tokenizer: Tokenizer, tmp_path: Path) -> None:
    """The same tokenizer elsewhere has the same fingerprint; another end-of-text or vocabulary another one."""
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    first = load_tokenizer(folder, CONFIG).fingerprint
    assert load_tokenizer(copy, CONFIG).fingerprint == first
    assert load_tokenizer(copy, {**CONFIG, "eos_token_id": 3}).fingerprint != first
    changed = Tokenizer.from_str(small_tokenizer.to_str())
    changed.add_tokens(["lighthouse"])
    changed.save(str(copy / "tokenizer.json"))
    assert load_tokenizer(copy, {"vocab_size": 301, "eos_token_id": 0}).fingerprint != first


@needs_real_tokenizer
def test_gpt2s_own_tokenizer() -> None:
    """Every checked encoding of GPT-2's tokenizer, from tokenizer.json and from vocab.json with merges.txt."""
    tokenizer = load_tokenizer(SHARED, {"vocab_size": 50257, "eos_token_id": 50256})
    cases = json.loads((SHARED / "cases.json").read_text("utf-8"))
    rows = cases["cases"] if isinstance(cases, dict) else cases
    assert len(rows) == 79
    ordinary = [row for row in rows if "<|endoftext|>" not in row["text"]]
    assert len(ordinary) >= 70
    assert tokenizer.encode([row["text"] for row in ordinary]) == [row["ids"] for row in ordinary]


@pytest.fixture(scope="module")
def byte_level(small_tokenizer: Tokenizer) -> TextTokenizer:
    """The small byte-level tokenizer."""
    return TextTokenizer(small_tokenizer, end_of_text_id=0, folder=Path())


def as_lists(ids: np.ndarray, counts: np.ndarray) -> list[list[int]]:
    """Ids text by text."""
    return [part.tolist() for part in np.split(ids, np.cumsum(counts)[:-1])]


@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=60), min_size=1, max_size=20))
def test_batches_give_the_same_ids(byte_level: TextTokenizer, texts: list[str]) -> None:
    """Any unicode text has the ids that `tokenizers` gives it alone."""
    assert as_lists(*byte_level.encode_packed(texts)) == byte_level.encode(texts)


def test_long_texts_are_cut_where_nothing_changes(byte_level: TextTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of a long document have together the ids of the whole, around every kind of blank."""
    blanks = ["\n", "\n\n", " \n", "\n ", "\n\n\n", "\t\n", "  "]
    document = "".join(f"{AWKWARD[n % len(AWKWARD)]}word{n}{blanks[n % len(blanks)]}" for n in range(400))
    pieces, counts = safe_pieces([document, "short"], 50)
    assert counts[0] > 20
    assert "".join(pieces[:-1]) == document
    assert SAFE_BORDER.search(document)
    monkeypatch.setattr("tunesmith.data.tokenizer.PIECE_CHARACTERS", 50)
    texts = [document, "", "short", ""]
    assert as_lists(*byte_level.encode_packed(texts)) == byte_level.encode(texts)
