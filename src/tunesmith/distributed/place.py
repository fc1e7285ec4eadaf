"""Which of several processes this one is, as `torchrun` says it in the environment. Torch is not needed to know."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from tunesmith.errors import UsageError

LAUNCHED_BY_US = "TUNESMITH_LAUNCHED"
"""Set for the processes that `--devices` starts: their launcher tells of a process that was killed."""


@dataclass(frozen=True)
class Place:
    """One process among several.

    Attributes:
        rank: its number, from 0.
        size: how many there are.
        local_rank: its number on this host.
        local_size: how many there are on this host.
        node: the host's number.
        address: where they meet, host and port.
        attempt: how often they were started again because one of them failed.
        is_ours: whether `--devices` started them.
        will_restart: whether whoever started them does it again when they fail.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    node: int
    address: str
    attempt: int
    is_ours: bool
    will_restart: bool

    def refuse_other_devices(self, devices: int) -> None:
        """Go on only if `--devices` does not contradict whoever started the processes.

        Raises:
            UsageError: if it does.
        """
        if devices not in {1, self.local_size}:
            raise UsageError(
                "--devices {devices}, and {n} processes were started here",
                hint="leave --devices out: torchrun says how many there are",
                devices=devices,
                n=self.local_size,
            )


def place_here(environment: Mapping[str, str] = os.environ) -> Place | None:
    """This process's place; None where it is the only one."""
    size = _number(environment, "WORLD_SIZE", 1)
    if size < 2 or "RANK" not in environment:
        return None
    rank = _number(environment, "RANK", 0)
    return Place(
        rank=rank,
        size=size,
        local_rank=_number(environment, "LOCAL_RANK", rank),
        local_size=_number(environment, "LOCAL_WORLD_SIZE", size),
        node=_number(environment, "GROUP_RANK", 0),
        address=f"{environment.get('MASTER_ADDR', '')}:{environment.get('MASTER_PORT', '')}",
        attempt=_number(environment, "TORCHELASTIC_RESTART_COUNT", 0),
        is_ours=LAUNCHED_BY_US in environment,
        will_restart=_number(environment, "TORCHELASTIC_MAX_RESTARTS", 0) > 0,
    )


def _number(environment: Mapping[str, str], name: str, otherwise: int) -> int:
    value = environment.get(name, "")
    return int(value) if value.isdigit() else otherwise
