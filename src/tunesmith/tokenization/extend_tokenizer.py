"""`tokenizer extend`: add words to the vocabulary of a model, with rows of its embedding table for them.

Text without new words is tokenized as before, and what the model computes for it stays bitwise the same; new rows start
as the mean of the tokens they replace.
"""

import shutil
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from tunesmith.config import TokenizerExtendConfig
from tunesmith.data.line_files import read_words
from tunesmith.data.source_files import resolve_sources
from tunesmith.data.tokenizer import TextTokenizer, load_tokenizer
from tunesmith.errors import UsageError, UserError
from tunesmith.model.hf_checkpoint import load_gpt2, resize_token_embeddings, save_gpt2
from tunesmith.model.hf_config import read_hf_config
from tunesmith.model.hub import local_folder
from tunesmith.tokenization.bpe_extension import (
    NewMerges,
    Words,
    check_is_byte_level_bpe,
    check_special_tokens,
    count_words,
    extend_bpe,
    learn_merges,
    new_merges,
)
from tunesmith.tokenization.train_tokenizer import TextReader, check_out_folder, text_reader
from tunesmith.utils.files import new_folder

MAX_CHARACTERS = 50_000_000
"""Read at most this much of the sources: the rest has the same frequent words."""
SHOWN = 12
STORED_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def extend_tokenizer(config: TokenizerExtendConfig) -> dict[str, Any]:
    """Extend the vocabulary and write the model as an ordinary model folder.

    Raises:
        UserError: if there is nothing to add or the tokenizer is of another kind; nothing is written then.
    """
    _check_config(config)
    out = Path(config.out)
    check_out_folder(out)
    origin = local_folder(config.model)
    hf_config = read_hf_config(origin)
    old = load_tokenizer(origin, hf_config)
    check_is_byte_level_bpe(old)
    check_special_tokens(config.special_tokens, old)
    new = new_merges(old)
    words = read_words(config.words) if config.words else []
    learn_merges(new, count_words(old, _forms(words)), None)
    from_words = len(new.pieces)
    reader = None
    if config.sources:
        reader = _learn_from_text(config, extend_bpe(old, new, {}), new)
    from_text = len(new.pieces) - from_words
    special = {token: new.next_id + number for number, token in enumerate(config.special_tokens)}
    if not new.pieces and not special:
        raise UserError(
            "there is nothing to add: the vocabulary has all of it already", hint="name other --words or other text"
        )
    tokenizer = extend_bpe(old, new, special)
    pieces = {**new.pieces, **{token_id: tuple(old.encode([token])[0]) for token, token_id in special.items()}}
    model = resize_token_embeddings(load_gpt2(origin), pieces)
    sizes = {"vocab_size": model.config.vocab_size}
    with new_folder(out) as folder:
        dtype = STORED_DTYPES.get(str(hf_config.get("dtype") or hf_config.get("torch_dtype")), torch.float32)
        save_gpt2(model, folder, hf_config={**hf_config, **sizes}, dtype=dtype)
        _save_tokenizer(tokenizer, origin, folder)
        load_tokenizer(folder, {**hf_config, **sizes})
    measured = "".join(reader.beginning) if reader else ""
    return {
        "out": str(out),
        "vocab_size_before": old.vocab_size,
        "vocab_size": tokenizer.vocab_size,
        "from_words": from_words,
        "from_text": from_text,
        "special_tokens": len(special),
        "parameters_added": (model.config.vocab_size - hf_config.get("vocab_size", model.config.vocab_size))
        * model.config.n_embd
        * (1 if model.config.tie_word_embeddings else 2),
        "characters": reader.characters if reader else 0,
        "tokens_per_character_before": _tokens_per_character(old, measured),
        "tokens_per_character": _tokens_per_character(tokenizer, measured),
        "examples": _examples(tokenizer, new, [*words, *special], has_text=reader is not None),
        "several_tokens": [word for word in words if len(tokenizer.encode([word])[0]) > 1],
    }


def _check_config(config: TokenizerExtendConfig) -> None:
    if not (config.sources or config.words or config.special_tokens):
        raise UsageError(
            "nothing to add was named",
            hint="name text, words or tokens: tunesmith tokenizer extend MODEL FILE --words FILE --out DIR",
        )
    if config.new_tokens < 1:
        raise UserError(
            "--new-tokens {count} is less than 1", hint="leave the text out, or set more", count=config.new_tokens
        )


def _learn_from_text(config: TokenizerExtendConfig, tokenizer: TextTokenizer, new: NewMerges) -> TextReader:
    with resolve_sources(config.sources) as resolved:
        reader = text_reader(resolved, config)
        words = Words()
        for texts in reader.batches():
            words += count_words(tokenizer, texts)
            if reader.characters >= MAX_CHARACTERS:
                break
    if not words:
        raise UserError("No text to train on in the sources", hint="name files that contain text")
    learn_merges(new, words, config.new_tokens)
    return reader


def _forms(words: Iterable[str]) -> list[str]:
    """Each word alone and after a space, where its script has spaces."""
    return [form for word in words for form in ((word,) if _is_wide(word) else (word, f" {word}"))]


def _is_wide(word: str) -> bool:
    return unicodedata.east_asian_width(word[0]) in "WF"


def _tokens_per_character(tokenizer: TextTokenizer, text: str) -> float | None:
    return len(tokenizer.encode([text])[0]) / len(text) if text else None


def _examples(tokenizer: TextTokenizer, new: NewMerges, first: list[str], *, has_text: bool) -> list[str]:
    """Requested words first, then those that replace the most pieces."""
    whole = [word for word in first if len(tokenizer.encode([word])[0]) == 1]
    longest = sorted(new.pieces, key=lambda token_id: -len(new.pieces[token_id])) if has_text else []
    texts = [tokenizer.decode([token_id]) for token_id in longest[: 4 * SHOWN]]
    readable = [text.strip() for text in texts if "\ufffd" not in text and text.strip()]
    shown: list[str] = []
    for text in [*whole, *readable]:
        if not any(text in longer for longer in shown):  # parts of a word became tokens as well
            shown.append(text)
    return shown[:SHOWN]


def _save_tokenizer(tokenizer: TextTokenizer, origin: Path, folder: Path) -> None:
    """Write one file with all of it, and the settings for its use."""
    for name in ("tokenizer_config.json", "generation_config.json"):
        if (origin / name).is_file():
            shutil.copyfile(origin / name, folder / name)
    TextTokenizer(Tokenizer.from_str(tokenizer.json), end_of_text_id=tokenizer.end_of_text_id, folder=folder).save(
        folder
    )
