"""`spiece.model`: the ids of the sentencepiece library, in a folder that transformers can read."""

import io
import json
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from tunesmith.data.sentencepiece import SENTENCEPIECE_FILE
from tunesmith.data.tokenizer import TextTokenizer, load_tokenizer
from tunesmith.errors import UserError

SENTENCES = [
    "灯台の灯は今夜も点いている。",
    "風は北から吹き、波は高い。カモメが騒いでいる。",
    "油は九晩ぶん残っている、縄はもうない。",
    "The lamp burns and the wind is in the north.",
    "夜明けに船が一隻、霧の中を通りすぎた。パンとビールが届いた。",
]
BLANKS = [" ", "  ", "\n", "\t", "\u3000"]
CONFIG = {"vocab_size": 400, "eos_token_id": 2}


def make_folder(folder: Path, **settings: object) -> Path:
    """A folder with a small sentencepiece model, trained here."""
    folder.mkdir()
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 20),
        model_writer=written,
        vocab_size=150,
        hard_vocab_limit=False,
        minloglevel=2,
        **settings,
    )
    (folder / SENTENCEPIECE_FILE).write_bytes(written.getvalue())
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the settings of the Japanese GPT-2 family."""
    return make_folder(tmp_path_factory.mktemp("spiece") / "model")


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> TextTokenizer:
    """As a checkpoint's."""
    return load_tokenizer(folder, CONFIG)


@pytest.fixture(scope="module")
def oracle(folder: Path) -> sentencepiece.SentencePieceProcessor:
    """The library that such checkpoints were trained with."""
    return sentencepiece.SentencePieceProcessor(str(folder / SENTENCEPIECE_FILE))


@given(
    text=st.lists(
        st.sampled_from([*"".join(SENTENCES), *BLANKS, "ｶﾞ", "ﾊﾟ", "ﾊ", "ﾞ", "\uff21", "①", "㍻", "😀"])
        | st.characters(categories=["L", "N", "P", "Z"])
    ).map("".join)
)
def test_ids_are_those_of_sentencepiece(
    text: str, tokenizer: TextTokenizer, oracle: sentencepiece.SentencePieceProcessor
) -> None:
    """Any letters, digits, signs and blanks, normalized and not, known and unknown."""
    ids, counts = tokenizer.encode_packed([text])
    assert ids.tolist() == oracle.encode(text)
    assert counts.tolist() == [len(ids)]


def test_text_comes_back(tokenizer: TextTokenizer) -> None:
    """Known text decodes to itself, and the marker is the checkpoint's."""
    assert [tokenizer.decode(ids) for ids in tokenizer.encode(SENTENCES)] == SENTENCES
    assert tokenizer.end_of_text == "</s>"
    assert tokenizer.bytes_of_token is None


def test_text_never_becomes_a_control_piece(tokenizer: TextTokenizer) -> None:
    """What reads like a marker is text."""
    (ids,) = tokenizer.encode(["<s>灯</s> <unk>"])
    assert not {1, 2} & set(ids)
    assert "灯" in tokenizer.decode(ids)


@pytest.mark.parametrize("named", [{}, {"tokenizer_class": "T5Tokenizer", "eos_token": "</s>", "unk_token": "<unk>"}])
def test_transformers_reads_what_is_saved(named: dict[str, str], tmp_path: Path) -> None:
    """A model folder that a run leaves has the same tokenizer, for everybody."""
    folder = make_folder(tmp_path / "model")
    if named:
        (folder / "tokenizer_config.json").write_text(json.dumps(named), encoding="utf-8")
    tokenizer = load_tokenizer(folder, CONFIG)
    out = tmp_path / "out"
    out.mkdir()
    tokenizer.save(out)
    assert (out / SENTENCEPIECE_FILE).is_file()
    saved = AutoTokenizer.from_pretrained(out)
    assert saved(SENTENCES, add_special_tokens=False)["input_ids"] == tokenizer.encode(SENTENCES)
    assert saved.eos_token_id == 2


def test_other_settings(tmp_path: Path) -> None:
    """Pieces across words, no dummy prefix, lower-casing beside the file."""
    texts = ["The Lamp 😀", "THE lamp burns  in the north", "é\u3042"]
    for number, settings in enumerate(
        [{"split_by_whitespace": False}, {"add_dummy_prefix": False}, {"normalization_rule_name": "identity"}]
    ):
        folder = make_folder(tmp_path / str(number), **settings)
        oracle = sentencepiece.SentencePieceProcessor(str(folder / SENTENCEPIECE_FILE))
        assert load_tokenizer(folder, CONFIG).encode(texts) == oracle.encode(texts)
    lowered = make_folder(tmp_path / "lowered")
    (lowered / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}), encoding="utf-8")
    oracle = sentencepiece.SentencePieceProcessor(str(lowered / SENTENCEPIECE_FILE))
    assert load_tokenizer(lowered, CONFIG).encode(texts) == oracle.encode([text.lower() for text in texts])


def test_other_kinds_and_damage_are_named(tmp_path: Path) -> None:
    """A BPE model and a cut file are errors with a hint, not other ids."""
    with pytest.raises(UserError, match="not a unigram"):
        load_tokenizer(make_folder(tmp_path / "bpe", model_type="bpe"), CONFIG)
    folder = make_folder(tmp_path / "cut")
    (folder / SENTENCEPIECE_FILE).write_bytes((folder / SENTENCEPIECE_FILE).read_bytes()[:-3])
    with pytest.raises(UserError, match="cannot be read"):
        load_tokenizer(folder, CONFIG)
