"""What is asked of a running training from outside."""

from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

import tunesmith
from tunesmith.run_dir import SAVE, STOP, RunDir
from tunesmith.training import stop
from tunesmith.training.events import CheckpointSaved, Event, StepLogged
from tunesmith.training.stop import ControlFiles

NIGHTS = "".join(f"Night {number}. Wind {number % 7}, lamp steady.\n" for number in range(60))


@pytest.fixture(autouse=True)
def _looks_always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of these models are shorter than the time between two looks."""
    monkeypatch.setattr(stop, "POLL_S", 0.0)


def test_a_request_is_granted_once_and_old_ones_are_forgotten(tmp_path: Path) -> None:
    """Each by itself; what was asked of an earlier process is not asked of this one."""
    (tmp_path / "checkpoints").mkdir()
    ours = ControlFiles(RunDir(tmp_path))
    assert not ours.take(SAVE)
    RunDir(tmp_path).request_action(SAVE)
    RunDir(tmp_path).request_action(STOP)
    assert RunDir(tmp_path).pending_actions() == (SAVE, STOP)
    assert ours.take(SAVE)
    assert not ours.take(SAVE)
    assert RunDir(tmp_path).pending_actions() == (STOP,)
    ours.clear()
    assert not ours.take(STOP)
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_looks_are_rare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two of them the disk is not asked."""
    monkeypatch.setattr(stop, "POLL_S", 1e9)
    (tmp_path / "checkpoints").mkdir()
    ours = ControlFiles(RunDir(tmp_path))
    assert not ours.take(SAVE)
    RunDir(tmp_path).request_action(SAVE)
    assert not ours.take(SAVE)
    ours.clear()
    RunDir(tmp_path).request_action(SAVE)
    assert ControlFiles(RunDir(tmp_path)).take(SAVE)


def test_a_run_saves_and_stops_when_it_is_asked_to(tmp_path: Path, make_model_folder: Callable[..., Path]) -> None:
    """The checkpoint is there, the run can be resumed, and ends bitwise like the one that was left alone."""
    text = tmp_path / "nights.txt"
    text.write_text(NIGHTS, encoding="utf-8")
    options = {"model": make_model_folder(), "max_steps": 12, "device": "cpu", "precision": "fp32"}
    alone = tmp_path / "alone"
    tunesmith.train(text, out=alone, **options)
    out, saved = tmp_path / "asked", []

    def ask(event: Event) -> None:
        if isinstance(event, StepLogged) and event.step == 1:
            RunDir(out).request_action(SAVE)
        if isinstance(event, CheckpointSaved) and event.step > 0 and not saved:
            saved.append(event.step)
            RunDir(out).request_action(STOP)

    result = tunesmith.train(text, out=out, on_event=ask, **options)
    assert result.interrupted
    assert 1 < saved[0] <= result.steps < 12
    assert RunDir(out).pending_actions() == ()
    RunDir(out).request_action(STOP)  # of nobody: the process that was asked has ended
    resumed = tunesmith.train(out=out, resume=True)
    assert not resumed.interrupted
    left_alone, was_asked = (load_file(folder / "model.safetensors") for folder in (alone, out))
    assert all(weight.equal(was_asked[name]) for name, weight in left_alone.items())
