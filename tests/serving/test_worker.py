"""A model's thread when something breaks in it."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from tunesmith.config import GenerateConfig
from tunesmith.generation.engine import Engine
from tunesmith.generation.sampling import SamplingRules
from tunesmith.generation.text_model import load_for_writing
from tunesmith.serving.live_text import Ended, Piece, TextEvent, TextOrder
from tunesmith.serving.refusal import Refusal
from tunesmith.serving.worker import Worker

TEXTS = 5
BREAKS_AT_STEP = 9


def written(folder: Path, then: Callable[[Worker], None] = lambda _worker: None) -> list[list[TextEvent]]:
    """What is told of five texts, with places for four; and something done behind them."""

    async def write() -> list[list[TextEvent]]:
        writer = load_for_writing(GenerateConfig(str(folder), precision="fp32"))
        worker = Worker(writer, texts_at_once=4)
        worker.start(asyncio.get_running_loop())
        told: list[list[TextEvent]] = [[] for _ in range(TEXTS)]
        ended = asyncio.Event()

        def tell(number: int, event: TextEvent) -> None:
            told[number].append(event)
            if all(events and not isinstance(events[-1], Piece) for events in told):
                ended.set()

        for number in range(TEXTS):
            order = TextOrder([0], number, SamplingRules(1.0, 0, 1.0), 30, 30)
            worker.write(order, lambda event, number=number: tell(number, event))
        async with asyncio.timeout(30):
            await ended.wait()
        then(worker)
        assert worker.is_alive
        worker.stop()
        return told

    return asyncio.run(write())


def break_once(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """In the ninth step, when texts have begun."""
    step, steps = Engine.step, [0]

    def breaking(self: Engine) -> object:
        steps[0] += 1
        if steps[0] == BREAKS_AT_STEP:
            raise error
        return step(self)

    monkeypatch.setattr(Engine, "step", breaking)


def texts(told: list[list[TextEvent]]) -> list[str]:
    return ["".join(event.text for event in events if isinstance(event, Piece)) for events in told]


def tokens(told: list[list[TextEvent]]) -> list[list[int]]:
    pieces = [[event for event in events if isinstance(event, Piece)] for events in told]
    return [[token.written.token for piece in of_text for token in piece.tokens] for of_text in pieces]


def test_memory_that_runs_out_changes_no_text(small_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer are written side by side from then on, and nothing is said twice."""
    expected = written(small_folder)
    assert all(isinstance(events[-1], Ended) for events in expected)
    assert [len(ids) for ids in tokens(expected)] == [30] * TEXTS
    break_once(monkeypatch, MemoryError())
    places = []
    told = written(small_folder, lambda worker: places.append(worker.texts_at_once))
    assert places == [2]
    assert texts(told) == texts(expected)
    assert tokens(told) == tokens(expected)


def test_a_failure_is_told_to_all_and_the_next_text_is_written(
    small_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for ever, and the thread lives."""
    break_once(monkeypatch, ValueError("a bug"))
    told = written(small_folder)
    refusals = [events[-1] for events in told]
    assert all(isinstance(refusal, Refusal) and refusal.status == 500 for refusal in refusals)
    assert "ValueError: a bug" in str(refusals[0].body)  # type: ignore[union-attr]
    assert all(isinstance(events[-1], Ended) for events in written(small_folder))
