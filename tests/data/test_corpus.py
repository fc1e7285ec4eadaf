"""Tokens on disk: exact, complete, found again, never half-written."""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tunesmith.data.corpus import Corpus, open_corpus, prepare_corpus
from tunesmith.data.readers import ReadingOptions, join_partials, open_source
from tunesmith.data.source_files import ResolvedSources, resolve_sources, tokens_path
from tunesmith.data.tokenizer import TextTokenizer, load_tokenizer
from tunesmith.errors import UserError

SHARED = Path(__file__).resolve().parents[3] / "shared"
REAL_TEXT, GPT2_TOKENIZER = SHARED / "data", SHARED / "gpt2-tokenizer"
needs_real_text = pytest.mark.skipif(not REAL_TEXT.is_dir(), reason="the real texts are not beside this checkout")


def sources_of(*sources: Path) -> ResolvedSources:
    """What SOURCEs stand for."""
    with resolve_sources([str(source) for source in sources]) as found:
        return found


@pytest.fixture
def tokenizer(small_tokenizer: Tokenizer, tmp_path: Path) -> TextTokenizer:
    """Byte-level, so that any text survives the round trip."""
    return TextTokenizer(small_tokenizer, end_of_text_id=0, folder=tmp_path)


@pytest.fixture
def prepare(tokenizer: TextTokenizer, tmp_path: Path) -> Callable[..., Corpus]:
    """A function from file content to a corpus."""

    def make(content: str, **options: Any) -> Corpus:
        path = tmp_path / "text.txt"
        path.write_text(content, encoding="utf-8", newline="")
        return prepare_corpus(
            sources_of(path),
            tokenizer,
            ReadingOptions(split_on="line", encoding="utf-8"),
            **{"val_fraction": 0.1, "seed": 1, **options},
        )

    return make


def sample_tokens(corpus: Corpus) -> list[list[int]]:
    """Every sample's tokens, in file order; learned and kept apart together are all of them, once."""
    parts = (corpus.train, corpus.validation)
    rows = sorted(
        (int(start), int(end))
        for split in parts
        for start, end in zip(split.spans.starts, split.spans.ends, strict=True)
    )
    assert [1, *(end for _, end in rows)] == [*(start for start, _ in rows), len(corpus.train.tokens)]
    return [corpus.train.tokens[start:end].tolist() for start, end in rows]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), max_size=30), min_size=2))
def test_decoding_gives_every_sample_back(
    prepare: Callable[..., Corpus], tokenizer: TextTokenizer, texts: list[str]
) -> None:
    """Stored tokens are the text and one end-of-text, for all unicode; empty samples are counted, not stored."""
    texts = [text.lstrip("\ufeff") for text in texts]
    kept = [text for text in texts if text.strip()]
    if len(kept) < 2:
        return
    corpus = prepare("".join(f"{text}\n" for text in texts))
    rows = sample_tokens(corpus)
    assert [row[-1] for row in rows] == [0] * len(rows)
    assert [tokenizer.decode(row[:-1]) for row in rows] == kept
    assert corpus.manifest["empty_samples"] == len(texts) - len(kept)
    assert corpus.manifest["bytes"] == sum(len(text.encode()) for text in kept)
    assert corpus.train.tokens[0] == 0


BORDERS = {"line": "\n", "blank-line": "\n\n", "=====": "\n=====\n"}
UNICODE = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r"), max_size=30)


def is_one_sample(text: str, mode: str) -> bool:
    """Whether a text holds no border of the mode, is not empty, and neither begins nor ends with a line end."""
    holds_border = {
        "line": "\n" in text,
        "blank-line": re.search(r"\n\s*\n", text),
        "document": False,
        "=====": "=" in text,
    }
    return bool(text.strip()) and not holds_border[mode] and text == text.strip("\n") and text[0] != "\ufeff"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    mode=st.sampled_from([*BORDERS, "document"]),
    line_end=st.sampled_from(["\n", "\r\n", "\r"]),
    texts=st.lists(UNICODE, min_size=2, max_size=8),
)
def test_every_split_mode_gives_every_sample_back(
    tokenizer: TextTokenizer, mode: str, line_end: str, texts: list[str]
) -> None:
    """Whatever stands between borders is stored token by token, in every mode and with every kind of line end."""
    texts = [text for text in texts if is_one_sample(text, mode)]
    if len(texts) < 2:
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = texts if mode == "document" else [BORDERS[mode].join(texts) + "\n"]
        for number, content in enumerate(files):
            (folder / f"{number}.txt").write_bytes(content.replace("\n", line_end).encode())
        options = ReadingOptions(split_on=mode, encoding="utf-8")
        corpus = prepare_corpus(sources_of(folder), tokenizer, options, val_fraction=0.3, seed=1, out=folder / "tokens")
        assert [tokenizer.decode(row[:-1]) for row in sample_tokens(corpus)] == texts


@needs_real_text
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(path.name, marks=[pytest.mark.slow] if path.name == "aozora-modern" else [])  # 52 MB
        for path in sorted(REAL_TEXT.glob("*/"))
    ],
)
def test_real_texts_have_the_librarys_ids(name: str) -> None:
    """Every file of real text has, sample by sample, the ids that `tokenizers` gives to it."""
    tokenizer = load_tokenizer(GPT2_TOKENIZER, {})
    found = sources_of(*(path for path in sorted((REAL_TEXT / name).iterdir()) if path.name != "SOURCES.tsv"))
    corpus = prepare_corpus(found, tokenizer, ReadingOptions(), val_fraction=0.1, seed=1)
    library = Tokenizer.from_file(str(GPT2_TOKENIZER / "tokenizer.json"))
    texts: list[str] = []
    for file in found.files:
        _, lists = open_source(file, ReadingOptions(), end_of_text=tokenizer.end_of_text)
        for some in join_partials(lists):
            if some.prompt_characters:
                texts += [part for pair in zip(*some.parts(), strict=True) for part in pair]
            else:
                texts += some.texts
    expected = [encoding.ids for encoding in library.encode_batch_fast(texts, add_special_tokens=False)]
    if corpus.manifest["prompt_tokens"]:
        expected = [before + after for before, after in zip(expected[::2], expected[1::2], strict=True)]
    if corpus.train.n_samples == len(expected):  # long documents, each learned but for its end
        stretches = zip(corpus.train.spans.starts, corpus.validation.spans.ends, strict=True)
        rows = [corpus.train.tokens[start : end - 1].tolist() for start, end in stretches]
    else:
        rows = [row[:-1] for row in sample_tokens(corpus)]
    assert rows == expected


def test_validation_is_apart_and_seeded(prepare: Callable[..., Corpus]) -> None:
    """A tenth of the samples, none of them trained on, the same ones for the same seed."""
    content = "".join(f"sample {number}\n" for number in range(100))
    corpus, again, other = prepare(content), prepare(content), prepare(content, seed=2)
    assert corpus.validation.n_samples == 10
    assert corpus.train.n_samples == 90
    assert not set(corpus.validation.spans.starts) & set(corpus.train.spans.starts)
    assert (corpus.validation.spans.starts == again.validation.spans.starts).all()
    assert (corpus.validation.spans.starts != other.validation.spans.starts).any()
    assert corpus.train.n_tokens + corpus.validation.n_tokens == corpus.manifest["tokens"]


@pytest.mark.parametrize(("n_samples", "fraction", "expected"), [(2, 0.1, 1), (2, 0.9, 1), (3, 0.01, 1), (5, 1, 5)])
def test_neither_part_is_empty(n_samples: int, fraction: float, expected: int, prepare: Callable[..., Corpus]) -> None:
    """However small the text, something is kept apart and something is learned, unless all of it is to be measured."""
    corpus = prepare("".join(f"{number}\n" for number in range(n_samples)), val_fraction=fraction)
    assert corpus.validation.n_samples == expected


def test_end_of_text_in_a_text_is_a_border(prepare: Callable[..., Corpus], tokenizer: TextTokenizer) -> None:
    """A literal marker separates two samples and never becomes a token inside one."""
    corpus = prepare("one<|endoftext|>two\n<|endoftext|>three\n")
    assert [tokenizer.decode(row[:-1]) for row in sample_tokens(corpus)] == ["one", "two", "three"]


def test_nothing_is_tokenized_twice(
    prepare: Callable[..., Corpus], tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same content is opened, a changed one is noticed."""
    first = prepare("one\ntwo\n")

    def refuse(_texts: list[str]) -> None:
        raise AssertionError("tokenized again")

    monkeypatch.setattr(tokenizer, "encode_packed", refuse)
    assert prepare("one\ntwo\n").fingerprint == first.fingerprint
    with pytest.raises(AssertionError, match="tokenized again"):
        prepare("one\ntwp\n")


def test_a_failure_leaves_nothing_behind(prepare: Callable[..., Corpus], tmp_path: Path) -> None:
    """A second file that is damaged leaves the cache as it was."""
    with pytest.raises(UserError, match="are needed"):
        prepare("only one\n")
    cache = Path(os.environ["TUNESMITH_CACHE"])
    assert [path for path in cache.rglob("*") if path.is_file()] == []
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


@pytest.mark.parametrize("damage", ["truncate", "garble", "remove"])
def test_damaged_corpora_are_named(damage: str, prepare: Callable[..., Corpus]) -> None:
    """A cut token file, a broken manifest and a missing part are errors, not wrong batches."""
    folder = prepare("one\ntwo\nthree\n").folder
    if damage == "truncate":
        tokens = tokens_path(folder)
        tokens.write_bytes(tokens.read_bytes()[:-4])
    elif damage == "garble":
        (folder / "manifest.json").write_text("{", encoding="utf-8")
    else:
        (folder / "train" / "starts.npy").unlink()
    with pytest.raises(UserError, match="prepared text"):
        open_corpus(folder)


def test_the_manifest_tells_what_it_was_made_from(prepare: Callable[..., Corpus], tmp_path: Path) -> None:
    """Sources with their hashes, counts, and the dtype of the tokens."""
    manifest = prepare("one\n\ntwo\n").manifest
    assert manifest["samples"] == 2
    assert manifest["dtype"] == "uint16"
    assert [source["name"] for source in manifest["sources"]] == ["text.txt"]
    assert len(manifest["sources"][0]["sha256"]) == 64
    assert str(tmp_path) not in json.dumps(manifest)
    assert np.dtype(manifest["dtype"]).itemsize == 2


def test_prompts_are_given_and_completions_learned(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    """A pair is stored as prompt, completion and end-of-text, with the border between the first two."""
    path = tmp_path / "pairs.jsonl"
    rows = [{"question": f"What comes after {n}?", "answer": f"{n + 1}, of course"} for n in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    corpus = prepare_corpus(sources_of(path), tokenizer, ReadingOptions(), val_fraction=0.1, seed=1)
    learned = set()
    for split in (corpus.train, corpus.validation):
        for start, end, prompt in zip(split.spans.starts, split.spans.ends, split.spans.prompt_tokens, strict=True):
            question = tokenizer.decode(split.tokens[start : start + prompt].tolist())
            answer = tokenizer.decode(split.tokens[start + prompt : end - 1].tolist())
            number = int(question.removeprefix("What comes after ").removesuffix("?\n"))
            assert answer == f"{number + 1}, of course"
            learned.add(answer)
    assert len(learned) == 40
    assert corpus.manifest["bytes"] == sum(len(row["answer"]) for row in rows)
    assert corpus.validation.text_bytes + corpus.train.text_bytes == corpus.manifest["bytes"]


@pytest.mark.parametrize("may_be_cut", [True, False])
def test_long_documents_are_read_in_parts(
    may_be_cut: bool,  # noqa: FBT001  parametrized
    tokenizer: TextTokenizer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Documents many times longer than a part have the ids of the whole text, one end-of-text each, and all counts."""
    documents = ["".join(f"Word{n} {n * k}\n" + "\n " * (n % 3) for n in range(300)) for k in (1, 7)] + ["short"]
    folder = tmp_path / "documents"
    folder.mkdir()
    for number, document in enumerate(documents):
        (folder / f"{number}.md").write_text(f"\n\n{document}\n\n", encoding="utf-8")
    monkeypatch.setattr("tunesmith.data.segmentation.PART_CHARACTERS", 500)
    monkeypatch.setattr("tunesmith.data.segmentation.LAST_BORDER_CHARACTERS", 100)
    monkeypatch.setattr("tunesmith.data.readers.CHARACTERS_AT_A_TIME", 77)
    monkeypatch.setattr(tokenizer, "may_be_cut", may_be_cut)
    corpus = prepare_corpus(sources_of(folder), tokenizer, ReadingOptions(), val_fraction=1, seed=0)
    texts = [document.strip("\n") for document in documents]
    assert sample_tokens(corpus) == [[*ids, 0] for ids in tokenizer.encode(texts)]
    manifest = corpus.manifest
    assert manifest["bytes"] == manifest["characters"] == sum(map(len, texts))
    assert manifest["samples"] == sum(source["samples"] for source in manifest["sources"]) == 3
    assert manifest["duplicate_samples"] == 0


def test_what_a_kill_left_behind_is_swept(
    prepare: Callable[..., Corpus],
) -> None:
    """A half-written folder of a dead process goes when the same text is prepared again; a living one's stays."""
    folder = prepare("one\ntwo\n").folder
    shutil.rmtree(folder)
    dead = folder.with_name(f".{folder.name}.999999999.tmp")
    living = folder.with_name(f".{folder.name}.{os.getppid()}.tmp")
    other = folder.with_name(".other.999999999.tmp")
    for leftover in (dead, living, other):
        leftover.mkdir()
    assert prepare("one\ntwo\n").folder == folder
    assert [path.exists() for path in (dead, living, other)] == [False, True, True]
