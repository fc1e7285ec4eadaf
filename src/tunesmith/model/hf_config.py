"""Hugging Face's `config.json` into a `GPT2Config`, or a refusal that names the switch.

A checkpoint that asks for arithmetic we do not implement must never load as something slightly different.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from tunesmith.errors import UserError
from tunesmith.model.gpt2_config import ACTIVATION_NAMES, GPT2Config
from tunesmith.run_dir import RunDir
from tunesmith.utils.files import parse_json, shown_json

LANGUAGE_MODELS = ("GPT2LMHeadModel", "GPT2Model", "GPT2DoubleHeadsModel")
"""Architectures with a language model; any other has a head for another task."""

NEUTRAL_SWITCHES: dict[str, tuple[object, ...]] = {
    "add_cross_attention": (False,),
    "is_encoder_decoder": (False,),
    "pruned_heads": ({}, None),
    "quantization_config": (None,),
    "auto_map": (None, {}),
    "position_embedding_type": ("absolute", None),
    "chunk_size_feed_forward": (0, None),
    "multi_query": (False,),
}
"""Switches that change the arithmetic or run a checkpoint's own code, with the values that do neither."""

MAX_SIZES = {
    "vocab_size": 2_000_000,
    "n_positions": 1 << 20,
    "n_embd": 1 << 16,
    "n_layer": 1 << 10,
    "n_head": 1 << 12,
    "n_inner": 1 << 18,
}
"""Beyond these a config is damaged or hostile; far above any GPT-2."""


def parse_hf_config(raw: dict[str, Any], *, origin: str) -> GPT2Config:
    """Translate, checking every switch that matters.

    Args:
        raw: the content of `config.json`.
        origin: how to call the checkpoint in an error.

    Raises:
        UserError: naming the switch that is not implemented or the value that cannot be.
    """
    _refuse_other_architectures(raw, origin)
    _refuse_unimplemented_switches(raw, origin)
    n_embd = _size(raw, "n_embd", 768, origin)
    inner = raw.get("n_inner")
    config = GPT2Config(
        vocab_size=_size(raw, "vocab_size", 50257, origin),
        n_positions=_size(raw, "n_positions", 1024, origin),
        n_embd=n_embd,
        n_layer=_size(raw, "n_layer", 12, origin),
        n_head=_size(raw, "n_head", 12, origin),
        n_inner=4 * n_embd if inner is None else _size(raw, "n_inner", 0, origin),
        activation_function=str(raw.get("activation_function", "gelu_new")),
        layer_norm_epsilon=_positive_number(raw, "layer_norm_epsilon", 1e-5, origin),
        scale_attn_weights=_switch(raw, "scale_attn_weights", default=True, origin=origin),
        scale_attn_by_inverse_layer_idx=_switch(raw, "scale_attn_by_inverse_layer_idx", default=False, origin=origin),
        reorder_and_upcast_attn=_switch(raw, "reorder_and_upcast_attn", default=False, origin=origin),
        tie_word_embeddings=_switch(raw, "tie_word_embeddings", default=True, origin=origin),
    )
    if config.n_embd % config.n_head:
        raise UserError(
            "{origin}: n_embd {n_embd} is not a multiple of n_head {n_head}",
            hint="the checkpoint's config.json is damaged; get it again",
            origin=origin,
            n_embd=config.n_embd,
            n_head=config.n_head,
        )
    return config


def to_hf_config(config: GPT2Config, end_of_text_id: int) -> dict[str, Any]:
    """`config.json` of a model that never had one.

    Args:
        config: its shape and switches.
        end_of_text_id: begins and ends its texts.
    """
    fields = asdict(config)
    inner = fields.pop("n_inner")
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        **fields,
        **({"n_inner": inner} if inner != 4 * config.n_embd else {}),
        "bos_token_id": end_of_text_id,
        "eos_token_id": end_of_text_id,
    }


def _refuse_other_architectures(raw: dict[str, Any], origin: str) -> None:
    kind = raw.get("model_type", "gpt2")
    if kind != "gpt2":
        raise UserError(
            "{origin} is a {kind!r} model, and only 'gpt2' can be trained",
            hint="take a GPT-2 checkpoint, for example gpt2, distilgpt2 or rinna/japanese-gpt2-small",
            origin=origin,
            kind=kind,
        )
    architectures = raw.get("architectures") or ["GPT2LMHeadModel"]
    if not isinstance(architectures, list) or not any(name in LANGUAGE_MODELS for name in architectures):
        raise UserError(
            "{origin} contains {architectures}, not a language model",
            hint="take the checkpoint it was made from (GPT2LMHeadModel)",
            origin=origin,
            architectures=shown_json(architectures)[:80],
        )


def _refuse_unimplemented_switches(raw: dict[str, Any], origin: str) -> None:
    for name, neutral in NEUTRAL_SWITCHES.items():
        if name in raw and raw[name] not in neutral:
            raise UserError(
                "{origin} sets {name}={value}, which tunesmith does not implement",
                hint="take a checkpoint without it; ignoring it would compute something else",
                origin=origin,
                name=name,
                value=shown_json(raw[name])[:80],
            )
    activation = raw.get("activation_function", "gelu_new")
    if not isinstance(activation, str) or activation not in ACTIVATION_NAMES:
        raise UserError(
            "{origin} sets activation_function={activation!r}, which tunesmith does not implement",
            hint="implemented are {names}",
            origin=origin,
            activation=activation,
            names=", ".join(ACTIVATION_NAMES),
        )


def _size(raw: dict[str, Any], name: str, default: int, origin: str) -> int:
    value = raw.get(name, default)
    if type(value) is not int or not 0 < value <= MAX_SIZES[name]:
        raise UserError(
            "{origin} sets {name}={value}, not a whole number from 1 to {largest}",
            hint="the checkpoint's config.json is damaged; get it again",
            origin=origin,
            name=name,
            value=shown_json(value)[:80],
            largest=MAX_SIZES[name],
        )
    return value


def _positive_number(raw: dict[str, Any], name: str, default: float, origin: str) -> float:
    value = raw.get(name, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1:
        raise UserError(
            "{origin} sets {name}={value}, not a number between 0 and 1",
            hint="the checkpoint's config.json is damaged; get it again",
            origin=origin,
            name=name,
            value=shown_json(value)[:80],
        )
    return float(value)


def _switch(raw: dict[str, Any], name: str, *, default: bool, origin: str) -> bool:
    value = raw.get(name, default)
    if not isinstance(value, bool):
        raise UserError(
            "{origin} sets {name}={value}, which is neither true nor false",
            hint="the checkpoint's config.json is damaged; get it again",
            origin=origin,
            name=name,
            value=shown_json(value)[:80],
        )
    return value


FOREIGN = ("hparams.json", "ckpt.pt")
"""What `tunesmith import` knows: gpt-2-simple and OpenAI, nanoGPT."""


def read_config_of_tokenizer(folder: Path) -> dict[str, Any]:
    """The folder's `config.json`; empty where the folder contains a tokenizer only.

    Raises:
        UserError: if the folder contains neither, or the file is not a JSON object.
    """
    is_tokenizer_only = (folder / "tokenizer.json").is_file() and not (folder / "config.json").exists()
    return {} if is_tokenizer_only else read_hf_config(folder)


def read_hf_config(folder: Path) -> dict[str, Any]:
    """Read the folder's `config.json` without checking it.

    Raises:
        UserError: if the folder is not a model folder or the file is not a JSON object.
    """
    path = folder / "config.json"
    if not path.is_file() and RunDir(folder).exists():
        raise UserError(
            "the run in {folder} was stopped before it had a model",
            hint="continue it: tunesmith train --resume --out {folder}",
            folder=folder,
        )
    if not path.is_file() and any((folder / name).is_file() for name in FOREIGN):
        raise UserError(
            "{folder} contains another program's checkpoint",
            hint="make a model folder of it: tunesmith import {folder} --out DIR",
            folder=folder,
        )
    if not path.is_file():
        raise UserError(
            "{folder} is not a model folder: it has no config.json",
            hint="name a preset (gpt2, gpt2-medium, ...), a hub id, a folder that save_pretrained wrote, or tiny",
            folder=folder,
        )
    try:
        raw = parse_json(path.read_text("utf-8"))
    except ValueError as error:
        raise UserError(
            "{path} is not valid JSON: {error}", hint="get the model's files again", path=path, error=error
        ) from None
    if not isinstance(raw, dict):
        raise UserError(
            "{path} contains {kind}, not an object",
            hint="get the model's files again",
            path=path,
            kind=type(raw).__name__,
        )
    return raw
