"""`train --devices N`: started here, told by its first process."""

from pathlib import Path

from tunesmith.config import TrainConfig
from tunesmith.distributed.verbs import DONE, INTERRUPTED, do_in_processes
from tunesmith.errors import UserError
from tunesmith.messages.catalogue import say
from tunesmith.run_dir import RunDir


def train_in_processes(config: TrainConfig) -> int:
    """Train with as many processes as asked for; they say and write everything themselves.

    Returns:
        The exit code of the command.

    Raises:
        UserError: if they cannot be started, or one of them was killed.
    """
    code = do_in_processes(config, advice=lambda: _advice(config))
    return DONE if code == INTERRUPTED and _outcome(config) == "finished" else code


def _advice(config: TrainConfig) -> str:
    if not _outcome(config):
        return say("SIGKILL is often the system's answer when memory runs out: take fewer --devices")
    return say(
        "continue with: tunesmith train --resume --devices {devices} --out {out} (SIGKILL is often the system's answer "
        "when memory runs out)",
        devices=config.devices,
        out=config.out,
    )


def _outcome(config: TrainConfig) -> str:
    """What the run folder says; empty where there is none."""
    try:
        return RunDir(Path(config.out)).status()
    except UserError:
        return ""
