"""`tokenizer train`: train a byte-level BPE, GPT-2's kind of tokenizer, on the user's text."""

from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tunesmith.config import TextConfig, TokenizerTrainConfig
from tunesmith.data.prefetch import prefetch
from tunesmith.data.readers import ReadingOptions, open_source, reading_options
from tunesmith.data.source_files import ResolvedSources, resolve_sources
from tunesmith.data.tokenizer import END_OF_TEXT, TextTokenizer
from tunesmith.errors import UserError
from tunesmith.i18n import say
from tunesmith.tokenization.bpe_extension import count_words, extend_bpe, learn_merges, new_merges
from tunesmith.utils.device import Decision
from tunesmith.utils.files import new_folder

MIN_VOCAB_SIZE = 257
"""Every byte and end-of-text."""
VOCAB_SIZES = ((2_000_000, 1024), (20_000_000, 4096), (200_000_000, 16_384))
"""Vocabulary size by number of characters: every entry has to occur often enough to be trained."""
MAX_VOCAB_SIZE = 32_768
ENTRIES_PER_CHARACTER = 2
"""A script of thousands of characters needs one entry for each, and as many again for combinations."""
VOCAB_MULTIPLE = 128
MANY_CHARACTERS = 500
"""Scripts with more different characters are not alphabets."""
MEASURED_CHARACTERS = 1 << 20
"""Of the first texts, kept to measure a tokenizer on."""


class TextReader:
    """Reads all texts of some sources and counts on the way.

    Attributes:
        samples: read so far.
        characters: read so far.
        alphabet: every character so far.
        beginning: the first texts.
    """

    def __init__(self, resolved: ResolvedSources, options: ReadingOptions) -> None:
        self._resolved = resolved
        self._options = options
        self.samples = 0
        self.characters = 0
        self.alphabet: set[str] = set()
        self.beginning: list[str] = []

    def batches(self) -> Iterator[list[str]]:
        """Yield the texts in batches."""
        for file in self._resolved.files:
            _, batches = open_source(file, self._options, end_of_text=END_OF_TEXT)
            for batch in batches:
                if self.characters < MEASURED_CHARACTERS:
                    self.beginning += [text[:MEASURED_CHARACTERS] for text in batch.texts]
                self.samples += len(batch.texts) - batch.is_partial
                self.alphabet.update(*batch.texts)
                self.characters += sum(map(len, batch.texts))
                yield batch.texts


def train_tokenizer(config: TokenizerTrainConfig) -> dict[str, Any]:
    """Train a tokenizer and write an ordinary tokenizer folder.

    Raises:
        UserError: if the text cannot be read or the folder is taken; nothing is written then.
    """
    if config.vocab_size < MIN_VOCAB_SIZE:
        raise UserError(
            "--vocab-size {vocab_size} is less than {smallest}: every byte and end-of-text",
            hint="16000 suits one language and a small model; GPT-2 has 50257",
            vocab_size=config.vocab_size,
            smallest=MIN_VOCAB_SIZE,
        )
    out = Path(config.out)
    check_out_folder(out)
    with resolve_sources(config.sources) as resolved:
        reader = text_reader(resolved, config)
        tokenizer = train_bpe(reader, config.vocab_size)
    measured = "".join(reader.beginning)
    n_tokens = len(tokenizer.encode(measured).ids)
    end_of_text_id = int(tokenizer.token_to_id(END_OF_TEXT) or 0)
    try:
        with new_folder(out) as folder:
            TextTokenizer(tokenizer, end_of_text_id=end_of_text_id, folder=folder).save(folder)
    except FileExistsError:
        raise UserError("--out {out} was taken meanwhile", hint="name another folder", out=out) from None
    return {
        "vocab_size": tokenizer.get_vocab_size(),
        "samples": reader.samples,
        "characters": reader.characters,
        "tokens_per_character": n_tokens / len(measured),
        "out": str(out),
    }


def check_out_folder(out: Path) -> None:
    """Check that nothing would be overwritten."""
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise UserError("--out {out} already exists", hint="name a folder that does not exist yet", out=out)


def text_reader(resolved: ResolvedSources, config: TextConfig) -> TextReader:
    """Return a reader of the sources of a command."""
    if resolved.prepared is not None:
        raise UserError(
            "{prepared} contains tokens, not text",
            hint="name the text it was prepared from",
            prepared=resolved.prepared,
        )
    return TextReader(resolved, reading_options(config))


def train_bpe(reader: TextReader, vocab_size: int) -> Tokenizer:
    """Train a byte-level BPE.

    Args:
        reader: of the text; it is read to its end.
        vocab_size: including every byte and end-of-text.
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
    tokenizer.train_from_iterator(prefetch(reader.batches()), trainer)
    if not reader.samples:
        raise UserError("No text to train on in the sources", hint="name files that contain text")
    return tokenizer


def train_bpe_of_characters(read: Callable[[], TextReader], alphabet: set[str], vocab_size: int) -> Tokenizer:
    """Train a byte-level BPE in which every character of the text is whole, where there are many.

    Trained on bytes alone, a script of thousands of characters leaves the rare ones in pieces, and some tokens end
    inside of a character: a model then generates broken ones. Here the bytes of each character are merged first, and
    only whole characters are merged further. Characters that are not in the text are still encoded as bytes.

    Args:
        read: starts to read the text again.
        alphabet: every character in it.
        vocab_size: including every byte and end-of-text.
    """
    if len(alphabet) < MANY_CHARACTERS:
        return train_bpe(read(), vocab_size)
    plain = train_bpe(read(), MIN_VOCAB_SIZE)
    end_of_text_id = int(plain.token_to_id(END_OF_TEXT) or 0)
    plain_bytes = TextTokenizer(plain, end_of_text_id=end_of_text_id, folder=Path())
    new = new_merges(plain_bytes)
    learn_merges(new, count_words(plain_bytes, sorted(alphabet)), None)
    n_left = vocab_size - len(new.vocab)
    if n_left < 0:
        return train_bpe(read(), vocab_size)
    whole = extend_bpe(plain_bytes, new, {})
    learn_merges(new, count_words(whole, chain.from_iterable(read().batches())), n_left)
    return Tokenizer.from_str(extend_bpe(plain_bytes, new, {}).json)


def resolve_vocab_size(n_characters: int, n_distinct: int) -> Decision[int]:
    """Choose a vocabulary size.

    Args:
        n_characters: of the text.
        n_distinct: number of different characters.
    """
    by_length = next((size for limit, size in VOCAB_SIZES if n_characters <= limit), MAX_VOCAB_SIZE)
    by_script = 256 + ENTRIES_PER_CHARACTER * n_distinct
    if by_script > by_length:
        size = -(-by_script // VOCAB_MULTIPLE) * VOCAB_MULTIPLE
        return Decision(size, say("for {n_distinct:,} different characters", n_distinct=n_distinct))
    return Decision(by_length, say("for {n_characters:,} characters", n_characters=n_characters))
