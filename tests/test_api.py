"""The commands as a library: events, early leaving, and several of them at once in one process."""

import contextlib
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import tunesmith
from tunesmith import events

LINES = [f"Night {number}. Wind {number % 7}, lamp steady." for number in range(40)]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Forty short samples."""
    path = tmp_path / "log.txt"
    path.write_text("\n".join(LINES), encoding="utf-8")
    return path


def options(**others: Any) -> dict[str, Any]:
    """Of a run of a second."""
    return {"model": "tiny", "max_steps": 5, "tokens_per_step": 256, **others}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Of a model folder."""
    return load_file(folder / "model.safetensors")


def same(one: Path, other: Path) -> bool:
    """Whether two models are bitwise equal."""
    mine, theirs = weights(one), weights(other)
    return set(mine) == set(theirs) and all(torch.equal(tensor, theirs[name]) for name, tensor in mine.items())


def test_events_end_with_the_result(text: Path, tmp_path: Path) -> None:
    """One after another: the plan first, each step in its turn, the result last and equal to what `train` returns."""
    seen = list(tunesmith.training_events(text, out=tmp_path / "events", **options()))
    assert isinstance(seen[0], events.RunStarted)
    assert [event.step for event in seen if isinstance(event, events.StepLogged)] == list(range(1, 6))
    assert isinstance(seen[-1], events.RunEnded)
    told: list[object] = []
    result = tunesmith.train(text, out=tmp_path / "train", on_event=told.append, **options())
    measured = [[event for event in run if isinstance(event, events.Evaluated)] for run in (seen, told)]
    assert measured[0] == measured[1]
    assert (result.perplexity, result.steps) == (seen[-1].result.perplexity, 5)
    assert same(tmp_path / "events", tmp_path / "train")


@pytest.mark.parametrize("how", ["break", "raise"])
def test_leaving_the_loop_saves_the_run(text: Path, tmp_path: Path, how: str) -> None:
    """It ends as by Ctrl-C, resumable, and the resumed run is the unbroken one."""
    out = tmp_path / "out"
    with contextlib.suppress(ZeroDivisionError):
        for event in tunesmith.training_events(text, out=out, **options(dropout=0.1)):
            if isinstance(event, events.StepLogged) and event.step == 3:
                if how == "raise":
                    raise ZeroDivisionError
                break
    assert (out / "checkpoints" / "step-00000003").is_dir()
    result = tunesmith.train(out=out, resume=True)
    assert (result.steps, result.interrupted) == (5, False)
    tunesmith.train(text, out=tmp_path / "whole", **options(dropout=0.1))
    assert same(out, tmp_path / "whole")


def test_functions_stay_callable() -> None:
    """Importing the package `tunesmith.doctor` does not replace the function of that name."""
    code = "import tunesmith, tunesmith.doctor.facts; print(callable(tunesmith.doctor))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout == "True\n"


def test_mistakes_are_raised_at_the_first_event(tmp_path: Path) -> None:
    """As from `train`; a generator that was never asked does nothing."""
    missing = tunesmith.training_events(tmp_path / "missing.txt", out=tmp_path / "out", **options())
    with pytest.raises(tunesmith.UserError, match="missing"):
        next(missing)
    tunesmith.training_events(tmp_path / "missing.txt", out=tmp_path / "out", **options()).close()
    assert not list(tmp_path.iterdir())
    with pytest.raises(TypeError, match="modle"):
        tunesmith.training_events(tmp_path / "missing.txt", out=tmp_path / "out", modle="tiny")


def test_ctrl_c_while_a_step_is_computed(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trainer ends by itself, saved; between events the program's own handlers are in force."""
    from tunesmith.training import trainer

    handler = signal.getsignal(signal.SIGINT)
    train_step, calls = trainer.train_step, []

    def step_with_a_signal(*arguments: Any, **named: Any) -> object:
        calls.append(1)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGINT)
        return train_step(*arguments, **named)

    monkeypatch.setattr(trainer, "train_step", step_with_a_signal)
    ended = None
    for event in tunesmith.training_events(text, out=tmp_path / "out", **options()):
        assert signal.getsignal(signal.SIGINT) is handler
        ended = event
    assert isinstance(ended, events.RunEnded)
    assert (ended.result.interrupted, ended.result.steps) == (True, 3)


def together(*jobs: Callable[[], object]) -> list[object]:
    """Run each in a thread of its own, all at once."""
    results: list[object] = [None] * len(jobs)
    start = threading.Barrier(len(jobs))

    def run(number: int, job: Callable[[], object]) -> None:
        start.wait()
        results[number] = job()

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_two_runs_in_two_threads_do_not_disturb_each_other(text: Path, tmp_path: Path) -> None:
    """Dropout on, seeds different: each ends bitwise in the model of the run that was alone."""

    def job(name: str, seed: int) -> Callable[[], object]:
        return lambda: tunesmith.train(text, out=tmp_path / name, **options(seed=seed, dropout=0.2))

    job("alone 1", 1)()
    job("alone 2", 2)()
    together(job("together 1", 1), job("together 2", 2))
    for number in (1, 2):
        assert same(tmp_path / f"alone {number}", tmp_path / f"together {number}")
    assert not same(tmp_path / "alone 1", tmp_path / "alone 2")


def test_texts_and_measurements_in_threads(text: Path, tmp_path: Path) -> None:
    """Two models write and are measured at once as they are one after the other."""
    tunesmith.train(text, out=tmp_path / "tuned", **options())
    jobs: list[Callable[[], object]] = [
        lambda: tunesmith.generate("tiny", num_samples=4, max_new_tokens=12),
        lambda: tunesmith.generate(tmp_path / "tuned", num_samples=4, max_new_tokens=12),
        lambda: tunesmith.evaluate("tiny", text),
        lambda: tunesmith.evaluate(tmp_path / "tuned", text),
    ]
    assert together(*jobs) == [job() for job in jobs]


def test_the_program_around_it_is_not_touched(text: Path, tmp_path: Path) -> None:
    """Its random generators, threads of torch and signal handlers are afterwards what they were."""
    torch.manual_seed(7)
    random.seed(7)
    np.random.seed(7)  # noqa: NPY002  the old generator is the global one

    def state() -> tuple[object, ...]:
        return (
            torch.get_rng_state().tolist(),
            random.getstate(),
            np.random.get_state()[1].tolist(),  # noqa: NPY002
            torch.get_num_threads(),
            torch.are_deterministic_algorithms_enabled(),
            torch.get_default_dtype(),
            torch.is_grad_enabled(),
            signal.getsignal(signal.SIGINT),
            signal.getsignal(signal.SIGTERM),
        )

    before = state()
    tunesmith.train(text, out=tmp_path / "out", **options(dropout=0.1, lora_r=2, lora_dropout=0.1))
    tunesmith.generate(tmp_path / "out", max_new_tokens=4)
    tunesmith.evaluate(tmp_path / "out", text)
    assert state() == before
