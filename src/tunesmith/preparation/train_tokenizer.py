"""The verb `tokenizer train`: a byte-level BPE, GPT-2's kind of tokenizer, made from the user's own text."""

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tunesmith.config import TokenizerTrainConfig
from tunesmith.data.read_ahead import read_ahead
from tunesmith.data.source_files import found_sources
from tunesmith.data.sources import reading_options
from tunesmith.data.tokenizer import END_OF_TEXT, TextTokenizer
from tunesmith.errors import UserError
from tunesmith.preparation.out_folder import refuse_taken
from tunesmith.preparation.text_reader import TextReader
from tunesmith.utils.files import new_folder

SMALLEST_VOCAB = 257
"""Every byte and end-of-text."""


def train_tokenizer(config: TokenizerTrainConfig) -> dict[str, Any]:
    """Learn merges from text and write an ordinary tokenizer folder.

    Raises:
        UserError: if the text cannot be read or the folder is taken; nothing is written then.
    """
    if config.vocab_size < SMALLEST_VOCAB:
        raise UserError(
            "--vocab-size {vocab_size} is less than {smallest}: every byte and end-of-text",
            hint="16000 suits one language and a small model; GPT-2 has 50257",
            vocab_size=config.vocab_size,
            smallest=SMALLEST_VOCAB,
        )
    out = Path(config.out)
    refuse_taken(out)
    with found_sources(config.sources) as found:
        if found.prepared is not None:
            raise UserError(
                "{prepared} holds tokens, no text", hint="name the text it was prepared from", prepared=found.prepared
            )
        reader = TextReader(found, reading_options(config))
        tokenizer = learn_tokenizer(reader, config.vocab_size)
    measured = "".join(reader.beginning)
    n_tokens = len(tokenizer.encode(measured).ids)
    _save(tokenizer, out)
    return {
        "vocab_size": tokenizer.get_vocab_size(),
        "samples": reader.samples,
        "characters": reader.characters,
        "tokens_per_character": n_tokens / len(measured),
        "out": str(out),
    }


def learn_tokenizer(reader: TextReader, vocab_size: int) -> Tokenizer:
    """Learn merges.

    Args:
        reader: of the text; it is read to its end.
        vocab_size: every byte and end-of-text among them.

    Raises:
        UserError: if there is no text.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(read_ahead(reader.lists()), trainer)
    if not reader.samples:
        raise UserError("the sources hold no text to learn from", hint="name files that hold text")
    return tokenizer


def _save(tokenizer: Tokenizer, out: Path) -> None:
    """The folder is whole or not there."""
    end_of_text_id = int(tokenizer.token_to_id(END_OF_TEXT) or 0)
    try:
        with new_folder(out) as folder:
            TextTokenizer(tokenizer, end_of_text_id=end_of_text_id, folder=folder).save(folder)
    except FileExistsError:
        raise UserError("--out {out} was taken meanwhile", hint="name another folder", out=out) from None
