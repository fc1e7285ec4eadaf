"""Who is slow is waited for; who is silent is given up."""

import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
import torch.distributed as dist

from tunesmith.distributed import pulse as pulses
from tunesmith.distributed.lost import LostError
from tunesmith.distributed.place import Place
from tunesmith.distributed.pulse import FAILED, Pulse

SILENCE_S = 0.6
LONG_S = 30.0


@pytest.fixture
def store() -> dist.Store:
    """That of a training of three processes."""
    return dist.TCPStore("127.0.0.1", 0, is_master=True, timeout=timedelta(seconds=LONG_S))


@pytest.fixture
def begin(store: dist.Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[Pulse]]]:
    """A function that starts the pulses of three processes, all of them in this one, and fast."""
    for name, value in (("BEAT_S", 0.05), ("GLANCE_S", 0.05), ("SILENCE_S", SILENCE_S), ("DEAF_S", LONG_S)):
        monkeypatch.setattr(pulses, name, value)
    started: list[Pulse] = []

    def start() -> list[Pulse]:
        for rank in range(3):
            place = Place(rank, 3, 0, 1, rank, "127.0.0.1:1", 0, is_ours=False, will_restart=False)
            started.append(Pulse(place, store))
        for pulse in started:
            pulse.start()
        return started

    yield start
    for pulse in started:
        pulse.stop()


def test_who_lives_is_waited_for(begin: Callable[[], list[Pulse]]) -> None:
    """However long the store has no answer."""
    first, *_ = begin()

    def slowly() -> str:
        time.sleep(2 * SILENCE_S)
        return "at last"

    assert first.asked(slowly) == "at last"


@pytest.mark.parametrize("silent", [0, 2])
def test_who_is_silent_is_given_up_by_all(begin: Callable[[], list[Pulse]], silent: int, store: dist.Store) -> None:
    """By the first, who hears everybody, and by the others, who hear the first."""
    started = begin()
    time.sleep(0.2)
    started[silent].stop()
    never = threading.Event()
    for rank in {0, 1, 2} - {silent}:
        with pytest.raises(LostError, match="cannot be reached any more"):
            started[rank].asked(lambda: never.wait(LONG_S))
    assert store.check([FAILED]) == (silent != 0)
    never.set()


def test_who_cannot_be_told_is_ended(
    begin: Callable[[], list[Pulse]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says why before, unless another process has: here it waits where nobody can tell it anything."""
    ended: list[int] = []
    monkeypatch.setattr("os._exit", ended.append)
    _, _, last = begin()
    monkeypatch.setattr(pulses, "DEAF_S", 0.1)
    last.stop()
    until_s = time.monotonic() + LONG_S
    while not ended and time.monotonic() < until_s:
        time.sleep(0.05)
    assert set(ended) == {1}
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == [
        "error: another process of this training has ended, or cannot be reached any more",
        "hint: what was saved before stays: start the same command again with --resume",
    ]
