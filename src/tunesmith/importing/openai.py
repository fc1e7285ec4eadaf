"""OpenAI's released models and gpt-2-simple's runs: a TensorFlow checkpoint with `hparams.json` beside it.

Such a folder also holds the tokenizer, as `encoder.json` and `vocab.bpe`.
Reference: https://github.com/openai/gpt-2/blob/master/src/model.py.
"""

import re
from pathlib import Path
from typing import Any

from torch import Tensor

from tunesmith.data.tokenizer import tokenizer_of_files
from tunesmith.errors import UserError
from tunesmith.importing.foreign import ForeignModel, refuse_incomplete
from tunesmith.importing.tensorflow_bundle import Bundle
from tunesmith.model.hf_config import parse_hf_config
from tunesmith.utils.files import parse_json

HPARAMS, ENCODER, MERGES, LATEST = "hparams.json", "encoder.json", "vocab.bpe", "checkpoint"
SIZES = {"n_vocab": "vocab_size", "n_ctx": "n_positions", "n_embd": "n_embd", "n_layer": "n_layer", "n_head": "n_head"}
SLOTS = ("Adam", "Adam_1", "Momentum")
"""What optimizers of TensorFlow keep beside a weight."""


def is_openai(path: Path) -> bool:
    """Whether a path is such a folder, or one of its checkpoints."""
    return (path / HPARAMS).is_file() or (not path.is_dir() and (path.parent / HPARAMS).is_file())


def read_openai(path: Path) -> ForeignModel:
    """Read a folder's latest checkpoint, or the one that is named (`model-500`, with or without `.index`).

    Raises:
        UserError: if something is missing or damaged.
    """
    folder = path if path.is_dir() else path.parent
    prefix = _latest(folder) if path.is_dir() else path.with_suffix("") if path.suffix == ".index" else path
    raw = _hparams(folder / HPARAMS)
    config = parse_hf_config({SIZES[key]: value for key, value in raw.items() if key in SIZES}, origin=str(folder))
    bundle = Bundle(prefix)
    state = {
        _our_name(name): _our_layout(name, bundle.tensor(name))
        for name in bundle.names()
        if not name.endswith(SLOTS) and name.startswith("model/")
    }
    refuse_incomplete(bundle.path, config, state)
    has_tokenizer = (folder / ENCODER).is_file() and (folder / MERGES).is_file()
    tokenizer = tokenizer_of_files(folder / ENCODER, folder / MERGES) if has_tokenizer else None
    return ForeignModel(f"TensorFlow, {prefix.name}", config, state, tokenizer)


def _latest(folder: Path) -> Path:
    """What the file `checkpoint` names, or the only one there is."""
    found = sorted(path.with_suffix("") for path in folder.glob("*.index"))
    state = folder / LATEST
    named = (
        re.search(r'^model_checkpoint_path: "(.*)"', state.read_text("utf-8"), re.MULTILINE)
        if state.is_file()
        else None
    )
    if named:
        prefix = folder / re.split(r"[/\\]", named[1])[-1]  # it may have been written in another place
        if prefix in found or len(found) != 1:
            return prefix
    if len(found) != 1:
        raise UserError(
            "{folder} holds {count} TensorFlow checkpoints, and nothing says which one is meant",
            hint="name one, for example {folder}/model-1000, or copy the file checkpoint too",
            folder=folder,
            count=len(found),
        )
    return found[0]


def _hparams(path: Path) -> dict[str, Any]:
    try:
        raw = parse_json(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            "{path} cannot be read: {reason}", hint="copy the checkpoint again", path=path, reason=error
        ) from None
    if not isinstance(raw, dict) or not set(SIZES) <= set(raw):
        raise UserError("{path} does not say the model's shape", hint="copy the checkpoint again", path=path)
    return raw


def _our_name(name: str) -> str:
    """`model/h0/attn/c_attn/w` is `transformer.h.0.attn.c_attn.weight` here."""
    parts = name.removeprefix("model/").split("/")
    if len(parts) == 1:
        return f"transformer.{parts[0]}.weight"
    layer = re.fullmatch(r"h(\d+)", parts[0])
    if layer:
        parts[0] = f"h.{layer[1]}"
    parts[-1] = {"w": "weight", "g": "weight", "b": "bias"}.get(parts[-1], parts[-1])
    return f"transformer.{'.'.join(parts)}"


def _our_layout(name: str, tensor: Tensor) -> Tensor:
    """A matrix is [1, in, out] there."""
    return tensor[0].t() if name.endswith("/w") and tensor.ndim == 3 else tensor
