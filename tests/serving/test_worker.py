"""A model's thread when something breaks in it."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from tunesmith.config import GenerateConfig
from tunesmith.generation.engine import Engine
from tunesmith.generation.loading import load_for_generation
from tunesmith.generation.sampling import SamplingParams
from tunesmith.generation.sequence import GenerationRequest
from tunesmith.serving.api_errors import APIError
from tunesmith.serving.worker import SequenceEnded, SequenceEvent, TextDelta, Worker

TEXTS = 5
BREAKS_AT_STEP = 9


def written(folder: Path, then: Callable[[Worker], None] = lambda _worker: None) -> list[list[SequenceEvent]]:
    """What is told of five texts, with places for four; and something done behind them."""

    async def write() -> list[list[SequenceEvent]]:
        writer = load_for_generation(GenerateConfig(str(folder), precision="fp32"))
        worker = Worker(writer, batch_size=4)
        worker.start(asyncio.get_running_loop())
        told: list[list[SequenceEvent]] = [[] for _ in range(TEXTS)]
        ended = asyncio.Event()

        def tell(number: int, event: SequenceEvent) -> None:
            told[number].append(event)
            if all(events and not isinstance(events[-1], TextDelta) for events in told):
                ended.set()

        for number in range(TEXTS):
            order = GenerationRequest([0], number, SamplingParams(1.0, 0, 1.0), 30, 30)
            worker.generate(order, (), lambda event, number=number: tell(number, event))
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


def texts(told: list[list[SequenceEvent]]) -> list[str]:
    return ["".join(event.text for event in events if isinstance(event, TextDelta)) for events in told]


def tokens(told: list[list[SequenceEvent]]) -> list[list[int]]:
    pieces = [[event for event in events if isinstance(event, TextDelta)] for events in told]
    return [[token.entry.token for piece in of_text for token in piece.tokens] for of_text in pieces]


def test_memory_that_runs_out_changes_no_text(small_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer are written side by side from then on, and nothing is said twice."""
    expected = written(small_folder)
    assert all(isinstance(events[-1], SequenceEnded) for events in expected)
    assert [len(ids) for ids in tokens(expected)] == [30] * TEXTS
    break_once(monkeypatch, MemoryError())
    places = []
    told = written(small_folder, lambda worker: places.append(worker.batch_size))
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
    assert all(isinstance(refusal, APIError) and refusal.status == 500 for refusal in refusals)
    assert "ValueError: a bug" in str(refusals[0].body)  # type: ignore[union-attr]
    assert all(isinstance(events[-1], SequenceEnded) for events in written(small_folder))
