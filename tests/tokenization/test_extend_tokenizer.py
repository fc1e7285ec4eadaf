"""`tokenizer extend`: new tokens for a checkpoint, and nothing else changes."""

import json
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoTokenizer, GPT2LMHeadModel

import tunesmith
from tunesmith.cli import main
from tunesmith.errors import UserError
from tunesmith.model.attention import PackedLayout, forward_packed
from tunesmith.model.hf_checkpoint import load_gpt2
from tunesmith.model.hub import local_folder
from tunesmith.tokenization.bpe_extension import NewMerges, learn_merges

WORDS = ["spectroscopy", "灯台守", "naïveté"]
TEXTS = [f"灯台守の夜、{number}番目の灯が点いている。" for number in range(30)]
OLD = "The lamp burns, and nobody came; the stairs do not."
SPECIAL = ["<|user|>", "<|bot|>"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The packaged checkpoint with words, entries from a text and special tokens."""
    place = tmp_path_factory.mktemp("extended")
    (place / "words.txt").write_text("\n".join(WORDS), encoding="utf-8")
    (place / "night.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    result = tunesmith.extend_tokenizer(
        "tiny",
        place / "night.txt",
        words=str(place / "words.txt"),
        special_tokens=tuple(SPECIAL),
        new_tokens=20,
        out=place / "out",
    )
    return place / "out", result


def logits_of(folder: Path, ids: list[int]) -> torch.Tensor:
    """Our model's, of one document."""
    model = load_gpt2(folder).eval()
    tokens, positions = np.array(ids), np.arange(len(ids))
    layout = PackedLayout(np.array([0, len(ids)]), len(ids))
    with torch.no_grad():
        return model.logits(forward_packed(model, tokens, positions, layout))


def test_old_text_computes_as_before(made: tuple[Path, dict[str, Any]]) -> None:
    """Text without new words gets the same ids, and in both implementations the same logits to the last bit."""
    out, _ = made
    tiny = local_folder("tiny")
    ids = AutoTokenizer.from_pretrained(out)(OLD)["input_ids"]
    assert ids == AutoTokenizer.from_pretrained(tiny)(OLD)["input_ids"]
    before, after = logits_of(tiny, ids), logits_of(out, ids)
    assert after.shape[1] > before.shape[1]
    assert torch.equal(after[:, : before.shape[1]], before)
    with torch.no_grad():
        theirs = [GPT2LMHeadModel.from_pretrained(folder)(torch.tensor([ids])).logits for folder in (tiny, out)]
    assert torch.equal(theirs[1][..., : before.shape[1]], theirs[0])


@pytest.mark.parametrize("n_tokens", [2, 33])
def test_gpt2s_own_vocabulary_computes_as_before(
    n_tokens: int, make_model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    """Likewise with 50,257 rows and any number of tokens; only transformers adds up its odd last column otherwise."""
    old = make_model_folder(vocab_size=50_257, n_layer=1)
    tunesmith.extend_tokenizer(old, special_tokens="<|user|>", out=tmp_path / "one")
    assert json.loads((tmp_path / "one" / "config.json").read_text())["vocab_size"] == 50_257  # it had rows to spare
    vocab = json.loads((old / "tokenizer.json").read_text())
    filler = {f"filler{number}": number for number in range(300, 50_257)}
    vocab["model"]["vocab"] |= filler
    (old / "tokenizer.json").write_text(json.dumps(vocab))
    words = tmp_path / "words.txt"
    words.write_text("spectroscopy\n", encoding="utf-8")
    tunesmith.extend_tokenizer(old, words=str(words), out=tmp_path / "more")
    ids = list(range(1, n_tokens + 1))
    before, after = logits_of(old, ids), logits_of(tmp_path / "more", ids)
    assert after.shape[1] > 50_257 == before.shape[1]
    assert torch.equal(after[:, :50_257], before)
    with torch.no_grad():
        theirs = [
            GPT2LMHeadModel.from_pretrained(folder)(torch.tensor([ids])).logits for folder in (old, tmp_path / "more")
        ]
    exact = 50_257 if n_tokens >= 8 else 50_256
    assert torch.equal(theirs[1][..., :exact], theirs[0][..., :exact])
    torch.testing.assert_close(theirs[1][..., :50_257], theirs[0])


def test_rows_are_means_and_the_head_stays_tied(made: tuple[Path, dict[str, Any]]) -> None:
    """The row of a new token is the mean of the rows that its text had before; old rows are untouched."""
    out, result = made
    old, new = (load_file(folder / "model.safetensors") for folder in (local_folder("tiny"), out))
    before = Tokenizer.from_file(str(local_folder("tiny") / "tokenizer.json"))
    after = Tokenizer.from_file(str(out / "tokenizer.json"))
    table, grown = old["transformer.wte.weight"], new["transformer.wte.weight"]
    assert set(new) == set(old)
    assert torch.equal(grown[: len(table)], table)
    assert len(grown) == result["vocab_size"] == json.loads((out / "config.json").read_text())["vocab_size"]
    for word in [*WORDS, *(f" {word}" for word in ("spectroscopy", "naïveté")), *SPECIAL]:
        (token_id,) = after.encode(word).ids
        assert token_id >= len(table)
        torch.testing.assert_close(grown[token_id], table[before.encode(word).ids].mean(dim=0))


def test_it_says_what_was_gained(made: tuple[Path, dict[str, Any]]) -> None:
    """Counts add up, and the fit is what the library measures before and after."""
    out, result = made
    together = "".join(TEXTS)
    for key, folder in (("tokens_per_character_before", local_folder("tiny")), ("tokens_per_character", out)):
        n_tokens = sum(len(Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids) for text in TEXTS)
        assert result[key] == pytest.approx(n_tokens / len(together), rel=0.02)
    assert result["tokens_per_character"] < result["tokens_per_character_before"] / 2
    assert (result["from_text"], result["special_tokens"], result["several_tokens"]) == (20, 2, [])
    assert result["vocab_size"] == result["vocab_size_before"] + result["from_words"] + 20 + 2
    assert set(WORDS) <= set(result["examples"])


PIECES = st.one_of(st.sampled_from([*WORDS, *SPECIAL, "<|", " ", "\n", "の夜、", "lamp", "é"]), st.text(max_size=8))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(PIECES, max_size=12).map("".join))
def test_any_text_comes_back_and_transformers_agrees(made: tuple[Path, dict[str, Any]], text: str) -> None:
    """The same ids as transformers gives, and from them the same text, whatever it holds."""
    theirs = _loaded(made[0])
    ours = tokenizer_of(made[0])
    (ids,) = ours.encode([text])
    plain = text.replace(ours.end_of_text, "")
    if plain == text:
        assert theirs(text)["input_ids"] == ids
        assert theirs.decode(ids, clean_up_tokenization_spaces=False) == text
    assert ours.decode(ids) == text


_LOADED: dict[Path, Any] = {}


def _loaded(folder: Path) -> Any:
    if folder not in _LOADED:
        _LOADED[folder] = AutoTokenizer.from_pretrained(folder)
    return _LOADED[folder]


def tokenizer_of(folder: Path) -> Any:
    """Ours."""
    from tunesmith.data.tokenizer import load_tokenizer

    return load_tokenizer(folder, json.loads((folder / "config.json").read_text()))


@given(st.dictionaries(st.text("abc", min_size=1, max_size=7), st.integers(1, 5), min_size=1, max_size=8))
def test_merges_are_those_of_the_plain_algorithm(words: dict[str, int]) -> None:
    """The queue finds what counting everything anew after each merge finds."""
    new = NewMerges({"a": 0, "b": 1, "c": 2}, 3)
    learn_merges(new, {tuple("abc".index(letter) for letter in word): times for word, times in words.items()}, 6)
    vocab, expected = {"a": 0, "b": 1, "c": 2}, []
    cut = {word: list(word) for word in words}
    while len(vocab) < 9:
        counts: Counter[tuple[str, str]] = Counter()
        for word, parts in cut.items():
            for pair in pairwise(parts):
                counts[pair] += words[word]
        best = min(counts, key=lambda pair: (-counts[pair], vocab[pair[0]], vocab[pair[1]]), default=None)
        if best is None or counts[best] < 2:
            break
        expected.append(best)
        vocab.setdefault("".join(best), len(vocab))
        for word, parts in cut.items():
            joined: list[str] = []
            place = 0
            while place < len(parts):
                step = 2 if tuple(parts[place : place + 2]) == best else 1
                joined.append("".join(parts[place : place + step]))
                place += step
            cut[word] = joined
    assert new.pairs == expected


def test_it_is_an_ordinary_model(
    made: tuple[Path, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is trained, measured and exported like any other, and learns its new rows."""
    out, _ = made
    text = tmp_path / "night.txt"
    text.write_text("\n".join(TEXTS), encoding="utf-8")
    tuned = tmp_path / "tuned"
    assert main(["train", str(text), "--model", str(out), "--out", str(tuned), "--max-steps", "8", "--quiet"]) == 0
    rows = [load_file(folder / "model.safetensors")["transformer.wte.weight"][-30:-2] for folder in (out, tuned)]
    assert (rows[0] != rows[1]).any(dim=1).any()
    capsys.readouterr()
    assert main(["evaluate", str(tuned), str(text), "--base", "tiny", "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert measured["tokens"] < measured["base"]["tokens"]
    assert main(["export", str(tuned), "--format", "safetensors", "--out", str(tmp_path / "exported"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verified"]["equal_texts"] > 0


def test_what_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The table names what was added, what stays in parts, and a next command."""
    words = tmp_path / "words.txt"
    words.write_text("spectroscopy\nCOVID-19\n\nspectroscopy\n", encoding="utf-8")
    command = ["tokenizer", "extend", "tiny", "--words", str(words), "--special-tokens", "<|user|>"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert "for the words, 1 special" in shown
    assert "spectroscopy" in shown
    assert "COVID-19 (1): spaces, digits and signs always part tokens" in shown
    assert f"tunesmith train FILE --model {tmp_path / 'out'} --out my-model" in shown


def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing to add, what cannot be added, a taken folder: one line each, and nothing is written."""
    known = tmp_path / "known.txt"
    known.write_text("the\n", encoding="utf-8")
    blank = tmp_path / "blank.txt"
    blank.write_text("\n\n", encoding="utf-8")
    for named, options in [
        ("nothing to add was named", {}),
        ("there is nothing to add", {"words": str(known)}),
        ("No words in", {"words": str(blank)}),
        ("the vocabulary has it already", {"special_tokens": "<|endoftext|>"}),
        ("no spaces", {"special_tokens": "<| user |>"}),
        ("no spaces", {"special_tokens": "利用者"}),
        ("less than 1", {"special_tokens": "<|user|>", "new_tokens": 0}),
    ]:
        with pytest.raises(UserError, match=named):
            tunesmith.extend_tokenizer("tiny", out=tmp_path / "new", **options)
    with pytest.raises(UserError, match="already exists"):
        tunesmith.extend_tokenizer("tiny", special_tokens="<|user|>", out=tmp_path)
    assert main(["tokenizer", "extend", "tiny", "--out", str(tmp_path / "new")]) == 2
    assert "nothing to add was named" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["blank.txt", "known.txt"]


def test_other_kinds_are_refused(make_model_folder: Callable[..., Path], tmp_path: Path) -> None:
    """A vocabulary that is not a byte-level BPE is left alone."""
    from tokenizers import models

    folder = make_model_folder(tokenizer=False)
    pieces = [("<|endoftext|>", 0.0), *((chr(97 + number), -1.0) for number in range(26))]
    Tokenizer(models.Unigram(pieces, unk_id=0)).save(str(folder / "tokenizer.json"))
    with pytest.raises(UserError, match="not a byte-level BPE"):
        tunesmith.extend_tokenizer(folder, special_tokens="<|user|>", out=tmp_path / "new")
