"""A model folder's `config.json`, read without torch: text can be prepared where torch is missing or broken."""

from pathlib import Path
from typing import Any

from tunesmith.errors import UserError
from tunesmith.files import parse_json


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
    if not path.is_file() and (folder / "run.json").is_file():
        raise UserError(
            f"the run in {folder} was stopped before it had a model",
            hint=f"continue it: tunesmith train --resume --out {folder}",
        )
    if not path.is_file():
        raise UserError(
            f"{folder} is not a model folder: it has no config.json",
            hint="name a preset (gpt2, gpt2-medium, ...), a hub id, a folder that save_pretrained wrote, or tiny",
        )
    try:
        raw = parse_json(path.read_text("utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}", hint="get the model's files again") from None
    if not isinstance(raw, dict):
        raise UserError(f"{path} holds {type(raw).__name__}, not an object", hint="get the model's files again")
    return raw
