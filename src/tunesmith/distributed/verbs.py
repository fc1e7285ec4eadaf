"""Verbs whose work several processes share: started by `--devices` or by `torchrun`, told by the first of them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from tunesmith.config import EvaluateConfig, GenerateConfig, TrainConfig
from tunesmith.distributed.agreement import refuse_different, weights_sha256
from tunesmith.distributed.cards import refuse_too_few_cards
from tunesmith.distributed.joining import joined
from tunesmith.distributed.launching import InterruptedBySignal, ProcessFailedError, name_of_signal, run_processes
from tunesmith.distributed.place import place_here
from tunesmith.distributed.team import ALONE, Team
from tunesmith.distributed.typed_command import typed_arguments
from tunesmith.errors import UserError
from tunesmith.messages.catalogue import say
from tunesmith.utils.device import environment, resolve_device, use_device

DONE, INTERRUPTED = 0, 130


def do_in_processes(
    config: TrainConfig | EvaluateConfig | GenerateConfig, *, advice: Callable[[], str] | None = None
) -> int:
    """Start as many processes as asked for; they say and write everything themselves.

    Args:
        config: of the verb.
        advice: what to do if one of them was killed, where there is more to say than the usual.

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
        usual = say("SIGKILL is often the system's answer when memory runs out: take fewer --devices")
        raise UserError(
            "rank {rank} was ended by {signal}, and the others with it",
            hint="{advice}",
            rank=error.rank,
            signal=name_of_signal(-error.exit_code),
            advice=usual if advice is None else advice(),
        ) from None
    except InterruptedBySignal:
        return INTERRUPTED
    return DONE


@contextmanager
def team_of(config: EvaluateConfig | GenerateConfig) -> Iterator[Team]:
    """The processes that share the work, or this one alone.

    Raises:
        UserError: if something was asked for that only a single process can do.
    """
    place = place_here()
    if place is None:
        if config.devices > 1:
            raise UserError(
                "devices={devices} starts other processes, which a function of Python hears nothing of",
                hint="use the command line, or start your own script with torchrun",
                devices=config.devices,
            )
        yield ALONE
        return
    place.refuse_other_devices(config.devices)
    if config.device.startswith("cuda:"):
        raise UserError(
            "--device {device} names one card, and several processes take one each",
            hint="write --device cuda; CUDA_VISIBLE_DEVICES chooses which cards they are",
            device=config.device,
        )
    with joined(place, device=config.device) as team:
        yield team


def device_of(team: Team, asked: str) -> torch.device:
    """Where this process computes; a GPU is made the current one of this thread.

    Raises:
        UserError: if it cannot.
    """
    device = resolve_device(asked).value
    if team.size > 1 and device.type == "cuda":
        device = torch.device("cuda", team.local_rank)
    use_device(device)
    return device


def refuse_different_models(team: Team, folder: Path, text: str = "") -> None:
    """Check that all processes work with the same.

    Args:
        team: all of them.
        folder: of the model, as this one found it.
        text: the fingerprint of what is read.

    Raises:
        UserError: naming the first process that differs, and in what.
    """
    if team.size == 1:
        return
    versions = environment()
    facts = {
        "versions": f"tunesmith {versions['tunesmith']}, torch {versions['torch']}",
        "text": text,
        "model": "" if team.local_rank else weights_sha256(folder),  # the others of a host read the same file
    }
    refuse_different(team, facts)
