"""The verb `tokenizer train`: a byte-level BPE, GPT-2's kind of tokenizer, made from the user's own text."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tunesmith.config import TokenizerTrainConfig
from tunesmith.data.read_ahead import read_ahead
from tunesmith.data.source_files import FoundSources, found_sources
from tunesmith.data.sources import ReadingOptions, open_source, reading_options
from tunesmith.data.tokenizer import END_OF_TEXT, TextTokenizer
from tunesmith.errors import UserError
from tunesmith.files import new_folder
from tunesmith.preparation.out_folder import refuse_taken

SMALLEST_VOCAB = 257
"""Every byte and end-of-text."""
MEASURED_CHARACTERS = 1 << 20


def train_tokenizer(config: TokenizerTrainConfig) -> dict[str, Any]:
    """Learn merges from text and write an ordinary tokenizer folder.

    Raises:
        UserError: if the text cannot be read or the folder is taken; nothing is written then.
    """
    if config.vocab_size < SMALLEST_VOCAB:
        raise UserError(
            f"--vocab-size {config.vocab_size} is less than {SMALLEST_VOCAB}: every byte and end-of-text",
            hint="16000 suits one language and a small model; GPT-2 has 50257",
        )
    out = Path(config.out)
    refuse_taken(out)
    with found_sources(config.sources) as found:
        if found.prepared is not None:
            raise UserError(f"{found.prepared} holds tokens, no text", hint="name the text it was prepared from")
        reader = _Reader(found, reading_options(config))
        tokenizer = _learn(reader, config.vocab_size)
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


class _Reader:
    """All samples' texts, counted on the way.

    Attributes:
        samples: read so far.
        characters: read so far.
        beginning: the first texts, to measure the result on.
    """

    def __init__(self, found: FoundSources, options: ReadingOptions) -> None:
        self._found = found
        self._options = options
        self.samples = 0
        self.characters = 0
        self.beginning: list[str] = []

    def lists(self) -> Iterator[list[str]]:
        """Texts, a list at a time."""
        for file in self._found.files:
            _, lists = open_source(file, self._options, end_of_text=END_OF_TEXT)
            for some in lists:
                if self.characters < MEASURED_CHARACTERS:
                    self.beginning += [text[:MEASURED_CHARACTERS] for text in some.texts]
                self.samples += len(some.texts) - some.goes_on
                self.characters += sum(map(len, some.texts))
                yield some.texts


def _learn(reader: _Reader, vocab_size: int) -> Tokenizer:
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
        raise UserError(f"--out {out} was taken meanwhile", hint="name another folder") from None
