"""A configuration as the flags that somebody would type for it: other processes are started with them."""

from dataclasses import MISSING, fields

from tunesmith.config import EvaluateConfig, GenerateConfig, TrainConfig

NEVER_PASSED_ON = ("devices",)
VERBS = {TrainConfig: "train", EvaluateConfig: "evaluate", GenerateConfig: "generate"}
NAMED_FIRST = {TrainConfig: ("sources",), EvaluateConfig: ("model", "sources"), GenerateConfig: ("model",)}
"""What is typed without a flag."""


def typed_arguments(config: TrainConfig | EvaluateConfig | GenerateConfig) -> list[str]:
    """Of a verb, for one of the processes of `--devices`."""
    flags: list[str] = []
    words: list[str] = []
    for field in fields(config):
        value = getattr(config, field.name)
        default = None if field.default is MISSING else field.default
        if field.name in NAMED_FIRST[type(config)]:
            words += [value] if isinstance(value, str) else value
            continue
        if field.name in NEVER_PASSED_ON or value == default or value is None:
            continue
        flag = f"--{field.name.replace('_', '-')}"
        if isinstance(value, bool):
            flags.append(flag if value else flag.replace("--", "--no-", 1))
        else:
            flags += [f"{flag}={one}" for one in (value if isinstance(value, tuple) else (value,))]
    return [VERBS[type(config)], *flags, *(["--", *words] if words else [])]
