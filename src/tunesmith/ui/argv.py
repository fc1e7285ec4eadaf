"""Prepare the typed words before the parser reads them: a lone dash, `--lang`, and `--config FILE` (TOML or YAML)."""

import tomllib
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from cyclopts.config import Dict

from tunesmith.commands import CONFIGS
from tunesmith.config import PlanConfig, TrainConfig
from tunesmith.config_values import flag_names
from tunesmith.errors import UsageError, UserError
from tunesmith.i18n import LANGUAGES, resolve_language, set_language
from tunesmith.utils.files import describe_os_error

SWITCHES = {
    f"--{sign}{flag.name.replace('_', '-')}"
    for config in CONFIGS
    for flag in fields(config)
    if isinstance(flag.default, bool)
    for sign in ("", "no-")
}
"""Flags that take no value."""
OF_RUNS_ONLY = {flag.name.replace("_", "-") for flag in fields(TrainConfig) if flag.name not in flag_names(PlanConfig)}
"""What `train` can be asked and `plan` cannot."""


TRAINING_ALIASES = {
    "--max-length": "--context-length",
    "--max-seq-length": "--context-length",
    "--block-size": "--context-length",
    "--lora-rank": "--lora-r",
    "--output-dir": "--out",
    "--num-train-epochs": "--epochs",
    "--lr": "--learning-rate",
}
ALIASES = {"train": TRAINING_ALIASES, "plan": TRAINING_ALIASES, "export": {"--to": "--format"}}
"""Names that other tools use for the same option, by command; accepted, and not in `--help`."""


def with_known_names(tokens: list[str]) -> list[str]:
    """Replace aliases by our names; `--gradient-checkpointing` is full activation checkpointing."""
    aliases = ALIASES.get(tokens[0], {}) if tokens else {}
    end = tokens.index("--") if "--" in tokens else len(tokens)
    replaced = []
    for token in tokens[:end]:
        name, equals, value = token.partition("=")
        name = name.replace("_", "-") if name.startswith("--") else name
        if aliases is TRAINING_ALIASES and name == "--gradient-checkpointing" and not equals:
            name, equals, value = "--activation-checkpointing", "=", "full"
        replaced.append(f"{aliases.get(name, name)}{equals}{value}")
    return [*replaced, *tokens[end:]]


def with_plain_dashes(typed: Sequence[str]) -> list[str]:
    """Replace a lone -, which the parser takes for a flag: the value of the flag before it, else standard input."""
    tokens: list[str] = []
    for word in typed:
        before = tokens[-1] if tokens and "--" not in tokens else ""  # after -- nothing is a flag
        if word == "-" and before.startswith("--") and "=" not in before and before not in SWITCHES:
            tokens[-1] = f"{before}=-"
        else:
            tokens.append("stdin:" if word == "-" else word)
    return tokens


def settings_of(tokens: list[str]) -> tuple[Dict, ...]:
    """Take `--lang` and `--config FILE` out of the tokens, and set the language; flags override the file.

    Raises:
        UserError: for an unknown language, or a file that cannot be read.
    """
    language = taken_out(tokens, "--lang")
    set_language(resolve_language(language if language in LANGUAGES else "auto"))
    if language is not None and language not in {"auto", *LANGUAGES}:
        raise UsageError("--lang {language} is not available", hint="write --lang en or --lang ja", language=language)
    asked = {} if language is None else {"lang": language}
    path = taken_out(tokens, "--config")
    if path is None:
        return (Dict(asked, source="--lang", use_commands_as_keys=False),)
    if not path:
        raise UsageError("--config needs a file", hint="write --config FILE.toml or --config FILE.yaml")
    settings = {**read_config_file(path), **asked}
    if tokens[:1] == ["plan"]:  # one file is for train and plan
        settings = {name: value for name, value in settings.items() if name not in OF_RUNS_ONLY}
    if settings.get("lang") in LANGUAGES:
        set_language(settings["lang"])
    return (Dict(settings, source=path, use_commands_as_keys=False),)


def taken_out(tokens: list[str], flag: str) -> str | None:
    """Remove a flag with its value from the tokens: "" if the value is missing, None if the flag is."""
    for position, token in enumerate(tokens):
        name, equals, value = token.partition("=")
        if token == "--":  # noqa: S105  after it nothing is a flag
            break
        if name == flag:
            value = value if equals else next(iter(tokens[position + 1 :]), "")
            del tokens[position : position + (1 if equals else 2)]
            return value
    return None


def read_config_file(path: str) -> dict[str, Any]:
    """Read a table of flags; `learning-rate` and `learning_rate` are the same name.

    Raises:
        UserError: if it is not a readable TOML or YAML table.
    """
    import yaml

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
            error=describe_os_error(error),
        ) from None
    if not isinstance(table, dict):
        raise UserError(
            "--config {path} contains no settings", hint="one setting a line, for example: epochs = 5", path=path
        )
    return {str(key).replace("_", "-"): value for key, value in table.items()}
