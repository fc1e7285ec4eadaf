"""The cache of tokenized text: a different split tokenizes nothing, and what is too much is removed, oldest first."""

import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

import tunesmith
from tunesmith.cli import main
from tunesmith.config import CacheConfig
from tunesmith.data.cache import cache_entries, cache_folder, evict, show_cache
from tunesmith.data.corpus import Corpus, cached_corpus, prepare_corpus
from tunesmith.data.readers import ReadingOptions
from tunesmith.data.source_files import is_prepared, resolve_sources
from tunesmith.data.table_readers import TableColumns
from tunesmith.data.tokenizer import TextTokenizer
from tunesmith.errors import UserError

Prepare = Callable[..., Corpus]
COLUMNS = ("starts", "lengths", "prompt_tokens", "sources")
SPLITS: list[dict[str, Any]] = [
    {"seed": 2},
    {"val_fraction": 0.3},
    {"val_fraction": 1, "seed": 0},
    {"val_fraction": 0},
    {"dedupe": "exact"},
    {"dedupe": "near"},
    {"weights": (0.5, 2.0)},
]


@pytest.fixture
def tokenizer(small_tokenizer: Tokenizer, tmp_path: Path) -> TextTokenizer:
    """The small byte-level tokenizer."""
    return TextTokenizer(small_tokenizer, end_of_text_id=0, folder=tmp_path)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many texts each call of the tokenizer got."""
    counted: list[int] = []
    encode = TextTokenizer.encode_packed

    def counting(tokenizer: TextTokenizer, texts: list[str]) -> Any:
        counted.append(len(texts))
        return encode(tokenizer, texts)

    monkeypatch.setattr(TextTokenizer, "encode_packed", counting)
    return counted


@pytest.fixture
def prepare(tokenizer: TextTokenizer, tmp_path: Path) -> Prepare:
    """A function that prepares two files, or the named ones."""
    for name in ("one", "two"):
        lines = [f"{name} {number % 30}: the lamp burns, the wind is in the north" for number in range(40)]
        (tmp_path / f"{name}.txt").write_text("\n".join(lines), encoding="utf-8")

    def make(*names: str, out: Path | None = None, val_fraction: float = 0.1, seed: int = 1, **options: Any) -> Corpus:
        paths = [str(tmp_path / name) for name in names or ("one.txt", "two.txt")]
        with resolve_sources(paths) as resolved:
            reading = ReadingOptions(**{"split_on": "line", **options})
            return prepare_corpus(resolved, tokenizer, reading, val_fraction=val_fraction, seed=seed, out=out)

    return make


def assert_equal(one: Corpus, other: Corpus) -> None:
    """Same tokens, same split, same manifest."""
    assert one.manifest == other.manifest
    assert (one.train.tokens == other.train.tokens).all()
    for left, right in ((one.train, other.train), (one.validation, other.validation)):
        assert (left.text_bytes, left.weights) == (right.text_bytes, right.weights)
        for name in COLUMNS:
            ours, theirs = getattr(left.spans, name), getattr(right.spans, name)
            assert ours.dtype == theirs.dtype
            assert (ours == theirs).all()


@pytest.mark.parametrize("split", SPLITS, ids=str)
@pytest.mark.parametrize("in_folder", [False, True])
def test_another_split_tokenizes_nothing(
    split: dict[str, Any],
    in_folder: bool,  # noqa: FBT001  parametrized
    prepare: Prepare,
    calls: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Seed, validation fraction, weights and deduplication reuse the tokens; the result is that of an empty cache."""
    out = tmp_path / "first" if in_folder else None
    first = prepare(out=out)
    n_calls = len(calls)
    out = tmp_path / "second" if in_folder else None
    reused = prepare(out=out, **split)
    assert len(calls) == n_calls > 0
    assert reused.fingerprint != first.fingerprint
    assert len(cache_entries()) == 1
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "empty"))
    fresh = prepare(out=tmp_path / "third" if in_folder else None, **split)
    assert len(calls) > n_calls
    assert_equal(reused, fresh)


@pytest.mark.parametrize(
    "reading",
    [
        {"split_on": "document"},
        {"encoding": "latin-1"},
        {"encoding_errors": "replace"},
        {"columns": TableColumns(template="{prompt} {completion}")},
    ],
    ids=str,
)
def test_other_tokens_are_another_entry(reading: dict[str, Any], prepare: Prepare, calls: list[int]) -> None:
    """Whatever may change a token tokenizes again."""
    prepare()
    n_calls = len(calls)
    prepare(**reading)
    assert len(calls) > n_calls
    assert len(cache_entries()) == 2


def test_a_renamed_file_has_the_same_tokens_under_its_new_name(
    prepare: Prepare, calls: list[int], tmp_path: Path
) -> None:
    """The content counts; reports show the current name. Another kind of file is read differently."""
    first = prepare("one.txt")
    n_calls = len(calls)
    (tmp_path / "one.txt").rename(tmp_path / "renamed.txt")
    renamed = prepare("renamed.txt")
    assert len(calls) == n_calls
    assert [source["name"] for source in renamed.manifest["sources"]] == ["renamed.txt"]
    assert (first.validation.spans.starts == renamed.validation.spans.starts).all()
    (tmp_path / "renamed.txt").rename(tmp_path / "renamed.md")
    prepare("renamed.md", split_on="auto")
    assert len(calls) > n_calls


def test_near_duplicates_are_looked_for_once(prepare: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    """They depend on the tokens only, so they are kept with them."""
    first = prepare(dedupe="near")

    def refuse(*_arguments: object) -> None:
        raise AssertionError("looked for again")

    monkeypatch.setattr("tunesmith.data.tokenize_corpus.near_duplicate_of", refuse)
    again = prepare(dedupe="near", seed=5)
    assert again.manifest["duplicates_left_out"] == first.manifest["duplicates_left_out"] > 0
    (entry,) = cache_entries()
    np.save(cache_folder() / "corpora" / entry.key / "near_duplicate_of.npy", np.zeros(3, np.int64))
    with pytest.raises(AssertionError, match="looked for again"):
        prepare(dedupe="near", seed=6)


def test_evaluation_reuses_what_training_tokenized(
    calls: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`evaluate` on the file that `train` read, with the model that it saved."""
    text = tmp_path / "log.txt"
    text.write_text("".join(f"Night {number}, lamp steady.\n" for number in range(60)), encoding="utf-8")
    out = str(tmp_path / "model")
    tunesmith.train(str(text), model="tiny", out=out, max_steps=1, device="cpu", quiet=True)
    monkeypatch.setattr(TextTokenizer, "encode_packed", None)
    result = tunesmith.evaluate(out, str(text), device="cpu")
    assert result["perplexity"] > 1
    assert calls


def test_the_least_recently_used_entry_is_removed_first(prepare: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening counts as use; the limit is kept when something new comes."""
    fingerprints = {name: prepare(f"{name}.txt", out=None).fingerprint for name in ("one", "two")}
    gc.collect()
    entries = cache_entries()
    for age, entry in enumerate(entries):
        os.utime(cache_folder() / "corpora" / entry.key / "tokens.json", (1e9 - age, 1e9 - age))
    prepare("one.txt")  # used: now the other one is the oldest
    gc.collect()
    assert [entry.sources for entry in cache_entries()] == [("one.txt",), ("two.txt",)]
    monkeypatch.setenv("TUNESMITH_CACHE_GB", str(sum(entry.bytes for entry in cache_entries()) / 1e9))
    newest = prepare("one.txt", split_on="document")
    assert {entry.sources for entry in cache_entries()} == {("one.txt",)}
    assert len(cache_entries()) == 2
    assert cached_corpus(fingerprints["two"]) is None
    assert cached_corpus(fingerprints["one"]) is not None
    assert cached_corpus(newest.fingerprint) is not None


def test_an_entry_in_use_stays(prepare: Prepare) -> None:
    """In this process and in others, whatever the limit; a dead process keeps nothing."""
    corpus = prepare("one.txt")
    prepare("two.txt")
    gc.collect()
    assert evict(0)[0] == 1
    (entry,) = cache_entries()
    assert (entry.sources, entry.in_use) == (("one.txt",), True)
    code = (
        "import sys; from pathlib import Path; from tunesmith.data.corpus import open_corpus;"
        "corpus = open_corpus(Path(sys.argv[1])); print('open', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(corpus.folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline()
        del corpus
        gc.collect()
        assert evict(0) == (0, 0)
        other.kill()
    assert [found.in_use for found in cache_entries()] == [False]
    assert evict(0)[0] == 1
    assert cache_entries() == []
    assert [path.name for path in (cache_folder() / "corpora").iterdir()] == [".lock"]


def test_a_prepared_folder_does_not_need_the_cache(prepare: Prepare, tmp_path: Path, tokenizer: TextTokenizer) -> None:
    """It has tokens of its own, which share the disk's space with the cache; a split in the cache is a folder, too."""
    out = prepare(out=tmp_path / "tokens")
    cached = prepare()
    assert is_prepared(str(out.folder))
    assert is_prepared(str(cached.folder))
    assert_equal(out, cached)
    assert sorted(path.name for path in out.folder.iterdir()) == ["manifest.json", "tokens.bin", "train", "validation"]
    del cached
    gc.collect()
    assert evict(0)[0] == 1
    with resolve_sources([str(out.folder)]) as resolved:
        again = prepare_corpus(resolved, tokenizer, ReadingOptions(), val_fraction=0.1, seed=1)
    assert_equal(out, again)


def test_clearing_removes_only_own_files(
    prepare: Prepare, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a user has put into the folder stays, and so does an entry in use."""
    monkeypatch.setattr("tunesmith.data.cache.LARGE_BYTES", 10)
    monkeypatch.setattr("tunesmith.data.cache.SETTLED_S", -1.0)
    kept = prepare("one.txt")
    prepare("two.txt")
    gc.collect()
    corpora = cache_folder() / "corpora"
    unused = next(entry for entry in cache_entries() if not entry.in_use)
    foreign = [cache_folder() / "mine.txt", corpora / "mine" / "tokens.json", corpora / unused.key / "mine.txt"]
    foreign += [cache_folder() / "hashes" / "mine.json", cache_folder() / "memory_calibration.json"]
    for path in foreign:
        path.parent.mkdir(exist_ok=True)
        path.write_text("{}", encoding="utf-8")
    assert main(["cache", "--clear", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["removed"], report["removed_bytes"]) == (1, unused.bytes + 2)
    assert [(entry["sources"], entry["in_use"]) for entry in report["entries"]] == [(["one.txt"], True)]
    assert all(path.is_file() for path in foreign)
    assert [path.name for path in (cache_folder() / "hashes").iterdir()] == ["mine.json"]
    assert [path.name for path in (corpora / unused.key).iterdir()] == ["mine.txt"]
    assert kept.validation.n_samples == 4


def test_the_command_shows_entries(prepare: Prepare, capsys: pytest.CaptureFixture[str]) -> None:
    """Path, size, sources and use; in Python and an empty cache as well."""
    assert tunesmith.cache()["entries"] == ()
    assert main(["cache"]) == 0
    assert str(cache_folder()) in capsys.readouterr().out
    corpus = prepare()
    assert main(["cache"]) == 0
    shown = capsys.readouterr().out
    assert "one.txt, two.txt" in shown
    assert f"{len(corpus.train.tokens):,}" in shown
    assert "in use" in shown
    assert show_cache(CacheConfig()).bytes == sum(entry.bytes for entry in cache_entries()) > 0


def test_a_limit_that_is_not_a_number_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the name of the variable."""
    monkeypatch.setenv("TUNESMITH_CACHE_GB", "ten")
    with pytest.raises(UserError, match="TUNESMITH_CACHE_GB must be a number"):
        show_cache(CacheConfig())


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_cache_can_be_used(prepare: Prepare) -> None:
    """No lock is needed where nothing can be removed."""
    first = prepare()
    corpora = cache_folder() / "corpora"
    corpora.chmod(0o500)
    try:
        assert_equal(prepare(), first)
    finally:
        corpora.chmod(0o700)
