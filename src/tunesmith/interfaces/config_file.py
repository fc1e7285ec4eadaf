"""`--config FILE`: flags from a TOML or YAML file, under the same names."""

import tomllib
from pathlib import Path
from typing import Any

import yaml

from tunesmith.errors import UserError
from tunesmith.messages.system_errors import said_by_system


def read_config_file(path: str) -> dict[str, Any]:
    """Read a table of flags; `learning-rate` and `learning_rate` are one name.

    Raises:
        UserError: if it is no readable TOML or YAML table.
    """
    file = Path(path)
    if file.suffix.lower() not in {".toml", ".yaml", ".yml"}:
        raise UserError(
            "--config {path} is neither .toml nor .yaml", hint="write the settings as TOML or YAML", path=path
        )
    try:
        text = file.read_text("utf-8-sig")
        table = tomllib.loads(text) if file.suffix.lower() == ".toml" else yaml.safe_load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError(
            "--config {path} cannot be read: {error}",
            hint="one setting a line, for example: epochs = 5",
            path=path,
            error=said_by_system(error),
        ) from None
    if not isinstance(table, dict):
        raise UserError(
            "--config {path} holds no settings", hint="one setting a line, for example: epochs = 5", path=path
        )
    return {str(key).replace("_", "-"): value for key, value in table.items()}
