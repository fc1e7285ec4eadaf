"""The process environment of torchrun."""

import pytest

from tunesmith.distributed.env import torchrun_env

TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "10.0.0.1",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_RESTART_COUNT": "2",
    "TORCHELASTIC_MAX_RESTARTS": "3",
}


def test_torchrun_says_who_is_who() -> None:
    """Rank, host, meeting point and restarts are taken from what torchrun sets."""
    env = torchrun_env(TORCHRUN)
    assert env is not None
    assert (env.rank, env.world_size, env.local_rank, env.local_world_size) == (5, 8, 1, 4)
    assert (env.address, env.restart_count) == ("10.0.0.1:29500", 2)
    assert env.restarts_enabled
    assert not env.launched_by_cli


@pytest.mark.parametrize("environment", [{}, {"RANK": "0", "WORLD_SIZE": "1"}, {"WORLD_SIZE": "4"}])
def test_a_single_process_has_no_place(environment: dict[str, str]) -> None:
    """Without torchrun, or with one process only, a run is what it always was."""
    assert torchrun_env(environment) is None
