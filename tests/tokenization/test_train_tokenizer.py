"""`tokenizer train`: an ordinary byte-level BPE, made from sources of every kind."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoTokenizer

import tunesmith
from tunesmith.cli import main
from tunesmith.errors import UserError

TEXTS = [f"The lamp burns, night {number}; 灯台の灯は点いている。" for number in range(40)]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A table of texts."""
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS), encoding="utf-8")
    return path


def test_it_is_the_librarys_tokenizer(source: Path, tmp_path: Path) -> None:
    """The same merges as the library's trainer finds on the same texts; transformers reads the folder."""
    out = tmp_path / "tokenizer"
    result = tunesmith.train_tokenizer(source, out=out, vocab_size=300)
    plain = Tokenizer(models.BPE())
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    plain.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(
            vocab_size=300, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
        ),
    )
    assert json.loads((out / "tokenizer.json").read_text("utf-8"))["model"] == json.loads(plain.to_str())["model"]
    loaded = AutoTokenizer.from_pretrained(out)
    assert loaded.decode(loaded(TEXTS[0])["input_ids"]) == TEXTS[0]
    assert loaded.eos_token_id == 0
    assert (result["vocab_size"], result["samples"], result["characters"]) == (300, 40, sum(map(len, TEXTS)))
    together = "".join(TEXTS)
    assert result["tokens_per_character"] == len(plain.encode(together).ids) / len(together)


def test_it_prepares_text(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command that is proposed next works: a folder with a tokenizer and no model is enough to prepare."""
    out = tmp_path / "tokenizer"
    assert main(["tokenizer", "train", str(source), "--out", str(out), "--vocab-size", "400"]) == 0
    proposed = capsys.readouterr().out.splitlines()[-1].split()
    assert proposed[:2] == ["tunesmith", "prepare"]
    assert main([*proposed[1:], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["samples"] == 40


def test_mistakes(source: Path, tmp_path: Path) -> None:
    """A taken folder, a tiny vocabulary, sources without text: nothing is written."""
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "thesis.doc").touch()
    blank = tmp_path / "blank.txt"
    blank.write_text("\n\n", encoding="utf-8")
    for named, of, options in [
        ("already exists", source, {"out": taken}),
        ("less than 257", source, {"out": tmp_path / "new", "vocab_size": 100}),
        ("No text to train on", blank, {"out": tmp_path / "new"}),
    ]:
        with pytest.raises(UserError, match=named):
            tunesmith.train_tokenizer(of, **options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["blank.txt", "log.jsonl", "taken"]
