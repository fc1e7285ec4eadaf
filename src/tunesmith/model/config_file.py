"""A model folder's `config.json`, read without torch: text can be prepared where torch is missing or broken."""

from pathlib import Path
from typing import Any

from tunesmith.errors import UserError
from tunesmith.files import parse_json
from tunesmith.run_dir import RunDir

FOREIGN = ("hparams.json", "ckpt.pt")
"""What `tunesmith import` knows: gpt-2-simple and OpenAI, nanoGPT."""


def read_config_of_tokenizer(folder: Path) -> dict[str, Any]:
    """The folder's `config.json`; empty where the folder holds nothing but a tokenizer.

    Raises:
        UserError: if the folder holds neither, or the file is no JSON object.
    """
    is_tokenizer_only = (folder / "tokenizer.json").is_file() and not (folder / "config.json").exists()
    return {} if is_tokenizer_only else read_hf_config(folder)


def read_hf_config(folder: Path) -> dict[str, Any]:
    """The folder's `config.json` as it stands.

    Raises:
        UserError: if the folder is no model folder or the file is no JSON object.
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
            "{folder} holds another program's checkpoint",
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
            "{path} holds {kind}, not an object", hint="get the model's files again", path=path, kind=type(raw).__name__
        )
    return raw
