"""The command that repeats a run, from what was asked."""

import shlex
from dataclasses import MISSING, fields
from typing import Any

from tunesmith.config import TrainConfig

NOT_REPEATED = {"sources", "out", "resume", "json", "quiet", "dashboard"}


def repeating_command(asked: dict[str, Any], out: str) -> str:
    """What to type to train the same again; flags at their defaults are left out.

    Args:
        asked: the configuration as `run.json` keeps it.
        out: folder for the new run.
    """
    words = ["tunesmith", "train", *map(str, asked.get("sources") or [])]
    for flag in fields(TrainConfig):
        value = asked.get(flag.name)
        default = list(flag.default) if isinstance(flag.default, tuple) else flag.default
        if flag.name in NOT_REPEATED or value is None or default is MISSING or value == default:
            continue
        name = f"--{flag.name.replace('_', '-')}"
        if isinstance(value, bool):
            words += [name] if value else [f"--no-{name[2:]}"]
        else:
            words += [name, *map(str, value if isinstance(value, list) else [value])]
    return shlex.join([*words, "--out", out])
