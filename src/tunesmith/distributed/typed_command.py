"""A configuration as the flags that somebody would type for it: other processes are started with them."""

from dataclasses import MISSING, fields

from tunesmith.config import TrainConfig

NEVER_PASSED_ON = ("devices", "sources")


def train_arguments(config: TrainConfig) -> list[str]:
    """Of `tunesmith train`, for one of the processes of `--devices`."""
    flags: list[str] = []
    for field in fields(config):
        value = getattr(config, field.name)
        default = None if field.default is MISSING else field.default
        if field.name in NEVER_PASSED_ON or value == default or value is None:
            continue
        flag = f"--{field.name.replace('_', '-')}"
        if value is True:
            flags.append(flag)
        elif isinstance(value, tuple):
            flags += [flag, *map(str, value)]
        else:
            flags.append(f"{flag}={value}")
    return ["train", *flags, "--", *config.sources] if config.sources else ["train", *flags]
