"""Models from scratch: a shape and a tokenizer, written as a model folder without weights to the cache.

A run reads the folder once; its own checkpoints contain everything that a resume needs.
"""

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from tunesmith.config import TrainingConfig
from tunesmith.data.cache import cache_folder
from tunesmith.data.readers import reading_options
from tunesmith.data.source_files import STDIN_NAMES, resolve_sources
from tunesmith.data.tokenizer import END_OF_TEXT, TextTokenizer, load_tokenizer
from tunesmith.errors import UserError
from tunesmith.model.gpt2_config import GPT2Config
from tunesmith.model.hf_config import parse_hf_config, read_hf_config, to_hf_config
from tunesmith.model.hub import POSITIONS, preset_shape
from tunesmith.tokenization.train_tokenizer import TextReader, resolve_vocab_size, train_bpe_of_characters
from tunesmith.utils.files import new_folder, write_json

SCRATCH_FLAGS = ("size", "n_layer", "n_embd", "n_head", "tokenizer", "vocab_size")
"""That describe a model which does not exist yet."""
HEAD_CHANNELS = 64
"""Of every published GPT-2."""

Config = TypeVar("Config", bound=TrainingConfig)


def materialize_scratch_model(config: Config, find: Callable[[str], Path]) -> Config:
    """Write the model folder that `SCRATCH_FLAGS` describe, and return the configuration with it as the model.

    Args:
        config: validated; one that describes no model is returned unchanged.
        find: returns the folder of a MODEL.

    Raises:
        UserError: if the shape is not possible, or there is no text for a tokenizer.
    """
    if not is_custom_shape(config):
        return config
    tokenizer = load_tokenizer(find(config.tokenizer), {}) if config.tokenizer else _train_own_tokenizer(config)
    shape = replace(scratch_shape(config, find), vocab_size=tokenizer.vocab_size)
    hf_config = to_hf_config(shape, tokenizer.end_of_text_id)
    digest = hashlib.sha256(f"{json.dumps(hf_config, allow_nan=False)}{tokenizer.json}".encode()).hexdigest()[:8]
    name = config.size or f"gpt2-{shape.n_layer}x{shape.n_embd}"
    folder = cache_folder() / "scratch_models" / f"{name}-{digest}"
    if not folder.is_dir():
        with suppress(FileExistsError), new_folder(folder) as filling:  # by another process
            write_json(filling / "config.json", hf_config)
            tokenizer.save(filling)
    return replace(config, model=str(folder))


def is_custom_shape(config: TrainingConfig) -> bool:
    """Whether the configuration describes a model that does not exist yet."""
    return config.from_scratch and any(getattr(config, flag) is not None for flag in SCRATCH_FLAGS)


def display_name(config: TrainingConfig) -> str:
    """Return a name of the model for people: the path of a folder in the cache is none."""
    if not is_custom_shape(config):
        return config.model
    folder = Path(config.model)
    return folder.name.rsplit("-", 1)[0] if folder.is_dir() else _name(config)


def _name(config: TrainingConfig) -> str:
    if config.n_layer or config.n_embd:
        return "gpt2-" + "x".join(str(size) for size in (config.n_layer, config.n_embd) if size)
    return config.size or config.model


def scratch_shape(config: TrainingConfig, find: Callable[[str], Path]) -> GPT2Config:
    """Return the described shape, with the vocabulary of the named model.

    Args:
        config: validated.
        find: returns the folder of a MODEL.

    Raises:
        UserError: if it is not possible.
    """
    named = preset_shape("gpt2" if config.size == "gpt2-small" else config.size or config.model)
    if named is None:
        folder = find(config.model)
        named = parse_hf_config(read_hf_config(folder), origin=str(folder))
    positions = POSITIONS if config.context_length == "auto" else config.context_length
    width = config.n_embd or named.n_embd
    heads = config.n_head or (max(width // HEAD_CHANNELS, 1) if config.n_embd else named.n_head)
    if width % heads:
        raise UserError(
            "--n-embd {width} is not a multiple of {heads} heads",
            hint="use a width that is a multiple of 64, or set --n-head",
            width=width,
            heads=heads,
        )
    return replace(
        named,
        n_positions=positions,
        n_embd=width,
        n_layer=config.n_layer or named.n_layer,
        n_head=heads,
        n_inner=4 * width,
    )


def _train_own_tokenizer(config: TrainingConfig) -> TextTokenizer:
    """Train a tokenizer on the sources."""
    if set(STDIN_NAMES) & set(config.sources):
        raise UserError(
            "standard input can be read once only, and a tokenizer of its own needs it twice",
            hint="save the text as a file, or name a tokenizer: --tokenizer gpt2",
        )
    with resolve_sources(config.sources) as found:
        if found.prepared is not None:
            raise UserError(
                "{prepared} contains tokens of an existing tokenizer",
                hint="name it with --tokenizer, or name the text itself",
                prepared=found.prepared,
            )
        options = reading_options(config)
        counting = TextReader(found, options)
        for _ in counting.batches():
            pass
        size = config.vocab_size or resolve_vocab_size(counting.characters, len(counting.alphabet)).value
        tokenizer = train_bpe_of_characters(lambda: TextReader(found, options), counting.alphabet, size)
    return TextTokenizer(tokenizer, end_of_text_id=int(tokenizer.token_to_id(END_OF_TEXT) or 0), folder=Path())
