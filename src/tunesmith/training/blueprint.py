"""What a model from scratch begins as: a shape and a tokenizer, kept as a folder like that of any other model.

The folder stands in the cache. A run reads it once; its own checkpoints hold everything that a resume needs.
"""

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from tunesmith.config import TrainConfig
from tunesmith.data.cache_folder import cache_folder
from tunesmith.data.source_files import found_sources
from tunesmith.data.sources import reading_options
from tunesmith.data.standard_input import STANDARD_INPUT
from tunesmith.data.tokenizer import END_OF_TEXT, TextTokenizer, load_tokenizer
from tunesmith.errors import UserError
from tunesmith.model.gpt2_config import GPT2Config
from tunesmith.model.hf_config import parse_hf_config, read_hf_config, to_hf_config
from tunesmith.model.hub import POSITIONS, preset_shape
from tunesmith.preparation.text_reader import TextReader
from tunesmith.preparation.vocabulary_size import vocabulary_size
from tunesmith.preparation.whole_characters import tokenizer_for_script
from tunesmith.utils.files import new_folder, write_json

FLAGS = ("shape", "layers", "width", "heads", "tokenizer", "vocab_size")
"""That mean a model which is nowhere yet."""
HEAD_CHANNELS = 64
"""Of all GPT-2s."""

Config = TypeVar("Config", bound=TrainConfig)


def with_blueprint(config: Config, find: Callable[[str], Path]) -> Config:
    """The configuration with the folder of what was described by `FLAGS` as its model; any other one as it is.

    Args:
        config: checked by `refuse_impossible`.
        find: the folder of a MODEL.

    Raises:
        UserError: if the shape cannot be, or there is no text for a tokenizer.
    """
    if not is_described(config):
        return config
    tokenizer = load_tokenizer(find(config.tokenizer), {}) if config.tokenizer else _own_tokenizer(config)
    shape = replace(blueprint_shape(config, find), vocab_size=tokenizer.vocab_size)
    hf_config = to_hf_config(shape, tokenizer.end_of_text_id)
    digest = hashlib.sha256(f"{json.dumps(hf_config, allow_nan=False)}{tokenizer.json}".encode()).hexdigest()[:8]
    name = config.shape or f"gpt2-{shape.n_layer}x{shape.n_embd}"
    folder = cache_folder() / "fresh" / f"{name}-{digest}"
    if not folder.is_dir():
        with suppress(FileExistsError), new_folder(folder) as filling:  # another process may have been faster
            write_json(filling / "config.json", hf_config)
            tokenizer.save(filling)
    return replace(config, model=str(folder))


def is_described(config: TrainConfig) -> bool:
    """Whether the model is one that is nowhere yet."""
    return config.from_scratch and any(getattr(config, flag) is not None for flag in FLAGS)


def shown_model(config: TrainConfig) -> str:
    """What to call the model: the path of a folder in the cache tells nobody anything."""
    if not is_described(config):
        return config.model
    folder = Path(config.model)
    return folder.name.rsplit("-", 1)[0] if folder.is_dir() else _name(config)


def _name(config: TrainConfig) -> str:
    if config.layers or config.width:
        return "gpt2-" + "x".join(str(size) for size in (config.layers, config.width) if size)
    return config.shape or config.model


def blueprint_shape(config: TrainConfig, find: Callable[[str], Path]) -> GPT2Config:
    """The shape that was described; its vocabulary is the named model's.

    Args:
        config: what was asked.
        find: the folder of a MODEL.

    Raises:
        UserError: if it cannot be.
    """
    named = preset_shape("gpt2" if config.shape == "gpt2-small" else config.shape or config.model)
    if named is None:
        folder = find(config.model)
        named = parse_hf_config(read_hf_config(folder), origin=str(folder))
    positions = POSITIONS if config.context_tokens == "auto" else config.context_tokens
    width = config.width or named.n_embd
    heads = config.heads or (max(width // HEAD_CHANNELS, 1) if config.width else named.n_head)
    if width % heads:
        raise UserError(
            "--width {width} is not a multiple of {heads} heads",
            hint="take a width that is a multiple of 64, or name --heads",
            width=width,
            heads=heads,
        )
    return replace(
        named,
        n_positions=positions,
        n_embd=width,
        n_layer=config.layers or named.n_layer,
        n_head=heads,
        n_inner=4 * width,
    )


def _own_tokenizer(config: TrainConfig) -> TextTokenizer:
    """Trained on the sources."""
    if set(STANDARD_INPUT) & set(config.sources):
        raise UserError(
            "standard input can be read once only, and a tokenizer of its own needs it twice",
            hint="save the text as a file, or name a tokenizer: --tokenizer gpt2",
        )
    with found_sources(config.sources) as found:
        if found.prepared is not None:
            raise UserError(
                "{prepared} holds tokens of a tokenizer that is there already",
                hint="name it: --tokenizer; or name the text itself",
                prepared=found.prepared,
            )
        options = reading_options(config)
        counting = TextReader(found, options)
        for _ in counting.lists():
            pass
        size = config.vocab_size or vocabulary_size(counting.characters, len(counting.alphabet)).value
        tokenizer = tokenizer_for_script(lambda: TextReader(found, options), counting.alphabet, size)
    return TextTokenizer(tokenizer, end_of_text_id=int(tokenizer.token_to_id(END_OF_TEXT) or 0), folder=Path())
