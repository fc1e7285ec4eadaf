"""The process environment that torchrun sets: ranks, rendezvous address and restarts. Does not import torch."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from tunesmith.errors import UsageError

LAUNCHED_BY_CLI = "TUNESMITH_LAUNCHED"
"""Set for the processes that `--devices` starts: their launcher reports a process that was killed."""
COLLECTIVE_TIMEOUT = "TUNESMITH_COLLECTIVE_TIMEOUT_S"
"""Seconds after which torch gives up a collective in which a rank does not take part."""


@dataclass(frozen=True)
class TorchrunEnv:
    """One process among several.

    Attributes:
        address: of the rendezvous, host and port.
        launched_by_cli: whether `--devices` started it.
        restarts_enabled: whether the launcher starts all processes again when one fails.
    """

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    address: str
    restart_count: int
    launched_by_cli: bool
    restarts_enabled: bool

    def check_devices(self, devices: int) -> None:
        """Check that `--devices` does not contradict the launcher.

        Raises:
            UsageError: if it does.
        """
        if devices not in {1, self.local_world_size}:
            raise UsageError(
                "--devices {devices}, and {n} processes were started here",
                hint="leave --devices out: torchrun says how many there are",
                devices=devices,
                n=self.local_world_size,
            )


def torchrun_env(environment: Mapping[str, str] = os.environ) -> TorchrunEnv | None:
    """Return this process's environment; None where it is the only process."""
    world_size = _number(environment, "WORLD_SIZE", 1)
    if world_size < 2 or "RANK" not in environment:
        return None
    rank = _number(environment, "RANK", 0)
    return TorchrunEnv(
        rank=rank,
        world_size=world_size,
        local_rank=_number(environment, "LOCAL_RANK", rank),
        local_world_size=_number(environment, "LOCAL_WORLD_SIZE", world_size),
        address=f"{environment.get('MASTER_ADDR', '')}:{environment.get('MASTER_PORT', '')}",
        restart_count=_number(environment, "TORCHELASTIC_RESTART_COUNT", 0),
        launched_by_cli=LAUNCHED_BY_CLI in environment,
        restarts_enabled=_number(environment, "TORCHELASTIC_MAX_RESTARTS", 0) > 0,
    )


def collective_timeout_s(environment: Mapping[str, str] = os.environ) -> int:
    """Return the time limit of one collective: half an hour, as one rank may tokenize a long text for the others."""
    return _number(environment, COLLECTIVE_TIMEOUT, 1800)


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    value = environment.get(name, "")
    return int(value) if value.isdigit() else default
