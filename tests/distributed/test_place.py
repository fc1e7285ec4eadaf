"""What a process knows of its place, and how its command is passed on."""

from dataclasses import replace

import pytest

from tunesmith.cli import app
from tunesmith.config import EvaluateConfig, GenerateConfig, TrainConfig
from tunesmith.distributed.place import place_here
from tunesmith.distributed.typed_command import typed_arguments

TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "GROUP_RANK": "1",
    "MASTER_ADDR": "10.0.0.1",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_RESTART_COUNT": "2",
    "TORCHELASTIC_MAX_RESTARTS": "3",
}


def test_torchrun_says_who_is_who() -> None:
    """Rank, host, meeting point and restarts are taken from what torchrun sets."""
    place = place_here(TORCHRUN)
    assert place is not None
    assert (place.rank, place.size, place.local_rank, place.local_size, place.node) == (5, 8, 1, 4, 1)
    assert (place.address, place.attempt, place.will_restart, place.is_ours) == ("10.0.0.1:29500", 2, True, False)


@pytest.mark.parametrize("environment", [{}, {"RANK": "0", "WORLD_SIZE": "1"}, {"WORLD_SIZE": "4"}])
def test_a_single_process_has_no_place(environment: dict[str, str]) -> None:
    """Without torchrun, or with one process only, a run is what it always was."""
    assert place_here(environment) is None


def test_the_command_is_passed_on() -> None:
    """Parsing the arguments that other processes get gives the same configuration, but for the number of processes."""
    config = TrainConfig(
        sources=("-odd name.txt", "b.txt"),
        weights=(2.0, 0.5),
        model="tiny",
        out="run",
        devices=2,
        resume=True,
        learning_rate=1e-4,
        template="- {prompt}\n{completion}",
        max_steps=7,
        track=("tensorboard",),
    )

    assert parsed(config) == replace(config, devices=1)


def parsed(config: TrainConfig | EvaluateConfig | GenerateConfig) -> object:
    """What the command line makes of the arguments that stand for a configuration."""
    _, bound, _ = app.parse_args(typed_arguments(config), exit_on_error=False, print_error=False)
    return bound.arguments["config"]


def test_the_commands_of_other_verbs_are_passed_on() -> None:
    """Those whose work is shared, too."""
    evaluate = EvaluateConfig("-odd model", ("-odd name.txt", "b.txt"), base="tiny", weights=(2.0, 0.5), devices=3)
    generate = GenerateConfig("a", prompt=("-x", "y"), temperature=(0.0, 0.5), include_prompt=False, top_k=3, devices=2)
    for config in (evaluate, generate):
        assert parsed(config) == replace(config, devices=1)
