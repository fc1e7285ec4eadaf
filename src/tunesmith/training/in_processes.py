"""`train --devices N`: started here, told by its first process."""

from pathlib import Path

from tunesmith.config import TrainConfig
from tunesmith.distributed.cards import refuse_too_few_cards
from tunesmith.distributed.launching import InterruptedBySignal, ProcessFailedError, name_of_signal, run_processes
from tunesmith.distributed.typed_command import typed_arguments
from tunesmith.errors import UserError
from tunesmith.messages.catalogue import say
from tunesmith.training.run import RunFolder

DONE, INTERRUPTED = 0, 130


def train_in_processes(config: TrainConfig) -> int:
    """Train with as many processes as asked for; they say and write everything themselves.

    Returns:
        The exit code of the command.

    Raises:
        UserError: if they cannot be started, or one of them was killed.
    """
    refuse_too_few_cards(config.devices, device=config.device)
    try:
        run_processes(typed_arguments(config), config.devices)
    except ProcessFailedError as error:
        if error.exit_code >= 0:
            return error.exit_code  # it has said why
        raise UserError(
            "rank {rank} was ended by {signal}, and the others with it",
            hint="{advice}",
            rank=error.rank,
            signal=name_of_signal(-error.exit_code),
            advice=_advice(config),
        ) from None
    except InterruptedBySignal:
        return INTERRUPTED if _outcome(config) != "finished" else DONE
    return DONE


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
        return RunFolder(Path(config.out)).outcome()
    except UserError:
        return ""
