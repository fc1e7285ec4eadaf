"""Ways in which a run ends or goes on although it cannot save."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import Any
from zoneinfo import ZoneInfo

import pytest

import tunesmith
from tunesmith.cli import main
from tunesmith.errors import UserError
from tunesmith.run_dir import JsonlWriter, RunDir
from tunesmith.training.checkpointer import AsyncWriter, check_disk_space
from tunesmith.training.events import CheckpointFailed, CheckpointSaved, Event, StepLogged, StopRequested
from tunesmith.training.stop import StopRequest, first_deadline

BERLIN = ZoneInfo("Europe/Berlin")
EVENING = datetime(2026, 3, 28, 22, 30, tzinfo=BERLIN)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Forty lines."""
    path = tmp_path / "log.txt"
    path.write_text("".join(f"Night {number}. Wind {number % 7}, lamp steady.\n" for number in range(40)), "utf-8")
    return path


@pytest.mark.parametrize(
    ("clock", "hours_away"), [("22:31", 1 / 60), ("23:00", 0.5), ("7:00", 8.5), ("07:00", 8.5), ("22:30", 24.0)]
)
def test_the_next_time_that_clocks_show_it(clock: str, hours_away: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Today if it is still to come, else tomorrow; the time that it is now means tomorrow."""
    monkeypatch.setenv("TZ", "UTC")
    now = datetime(2026, 6, 1, 22, 30).astimezone()
    deadline = first_deadline(None, clock, now=now)
    assert deadline is not None
    assert deadline.at - now == timedelta(hours=hours_away)
    assert deadline.reason == f"--stop-at {clock}"


def test_the_earlier_request_counts() -> None:
    """--max-hours and --stop-at together; none of them is none."""
    now = datetime.now().astimezone().replace(hour=12, minute=0, second=0, microsecond=0)
    deadline = first_deadline(0.5, "13:00", now=now)
    assert deadline is not None
    assert (deadline.reason, deadline.at - now) == ("--max-hours 0.5", timedelta(minutes=30))
    assert first_deadline(None, None, now=now) is None


@pytest.mark.parametrize("clock", ["24:00", "7", "seven", "07:60", "", "-1:00", "07:00:00"])
def test_what_is_no_time_of_the_day_is_refused(clock: str) -> None:
    """With an example of one."""
    with pytest.raises(UserError, match="is not a time of day") as error:
        first_deadline(None, clock, now=EVENING)
    assert "07:00" in error.value.hint


def test_a_limit_of_hours_saves_and_ends(
    make_model_folder: Callable[..., Path], text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 130, the flag is named, and the resumed run is not limited by it."""
    out = str(tmp_path / "out")
    arguments = ["train", str(text), "--model", str(make_model_folder()), "--out", out, "--max-steps", "6", "--json"]
    assert main([*arguments, "--max-hours", "1e-9"]) == 130
    said = capsys.readouterr()
    assert json.loads(said.out)["stopped_by"] == "--max-hours 1e-09"
    assert f"everything is saved (--max-hours 1e-09); continue with: tunesmith train --resume --out {out}" in said.err
    assert main(["train", "--resume", "--out", out, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 6


def test_a_full_disk_ends_nothing(
    make_model_folder: Callable[..., Path], text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without room training goes on, the last good checkpoint stays, and saving works again when there is room."""
    events: list[Event] = []
    full = threading.Event()
    monkeypatch.setattr("tunesmith.training.checkpointer.has_disk_space", lambda *_: not full.is_set())
    kept_while_full: list[list[str]] = []

    def note(event: Event) -> None:
        events.append(event)
        if isinstance(event, StepLogged) and event.step == 4:
            full.set()
        if isinstance(event, CheckpointFailed):
            kept_while_full.append([folder.name for folder in RunDir(tmp_path / "out").checkpoints()])
        if isinstance(event, StepLogged) and event.step == 9:
            full.clear()

    tunesmith.train(
        text, model=make_model_folder(), out=tmp_path / "out", epochs=10, max_steps=12, tokens_per_step=200,
        save_steps=2, eval_steps=12, device="cpu", on_event=note,
    )  # fmt: skip
    failed = [event.step for event in events if isinstance(event, CheckpointFailed)]
    saved = [event.step for event in events if isinstance(event, CheckpointSaved)]
    assert failed
    assert set(failed) <= {4, 6, 8}
    assert saved[-2:] == [10, 12]
    assert all("step-00000002" in kept for kept in kept_while_full)
    assert "No space left" in next(str(event.reason) for event in events if isinstance(event, CheckpointFailed))
    assert [event.step for event in events if isinstance(event, StepLogged)] == list(range(1, 13))


def test_a_disk_that_stays_full_is_an_error_in_the_end(
    make_model_folder: Callable[..., Path], text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says what could not be saved and from where to go on, and going on is possible."""
    out = tmp_path / "out"
    options: dict[str, Any] = {"epochs": 3, "max_steps": 6, "tokens_per_step": 200, "device": "cpu"}
    with monkeypatch.context() as full:
        full.setattr("tunesmith.training.checkpointer.has_disk_space", lambda *_: False)
        with pytest.raises(UserError, match=r"step 6 could not be saved: .*No space left") as error:
            tunesmith.train(text, model=make_model_folder(), out=out, **options)
    assert f"tunesmith train --resume --out {out}" in error.value.hint
    assert tunesmith.train(out=out, resume=True).steps == 6


def test_too_little_room_is_said_before_anything_is_written(
    make_model_folder: Callable[..., Path], text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How much is needed, how much there is, and where."""
    monkeypatch.setattr("shutil.disk_usage", lambda _path: type("Usage", (), {"free": 1000})())
    with pytest.raises(UserError, match=r"the run needs .* GiB on the disk .* 0.00 GiB are free in"):
        tunesmith.train(text, model=make_model_folder(), out=tmp_path / "deep" / "out", max_steps=2, device="cpu")
    assert not (tmp_path / "deep").exists()
    with pytest.raises(UserError):
        check_disk_space(tmp_path, weights_bytes=300, optimizer_bytes=600)
    check_disk_space(tmp_path, weights_bytes=100, optimizer_bytes=200)


def test_lines_wait_for_room_and_are_never_halved(tmp_path: Path) -> None:
    """A limit on the size of files, set by the system, cuts a write in the middle; nothing of it is left."""
    path = tmp_path / "lines.jsonl"
    code = f"""
import resource, signal
from pathlib import Path
from tunesmith.run_dir import JsonlWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
lines = JsonlWriter(Path({str(path)!r}))
lines.append({{"step": 1}})
resource.setrlimit(resource.RLIMIT_FSIZE, (20, resource.RLIM_INFINITY))
lines.append({{"step": 2, "text": "long enough to be cut"}})
print(lines.has_pending, Path({str(path)!r}).read_text())
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
lines.append({{"step": 3}})
print(lines.has_pending)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.split("\n") == ['True {"step": 1}', "", "False", ""]
    assert [json.loads(line)["step"] for line in path.read_text("utf-8").splitlines()] == [1, 2, 3]


def test_a_checkpoint_waits_for_the_best_model_it_speaks_of(tmp_path: Path) -> None:
    """A model that could not be published is published before the next checkpoint is written, or that fails too."""
    done: list[str] = []
    is_full = threading.Event()
    is_full.set()

    def publish() -> None:
        if is_full.is_set():
            raise OSError(28, "No space left on device", "model.safetensors")
        done.append("published")

    with AsyncWriter() as saver:
        saver.publish(2, publish)
        saver.save(2, tmp_path / "2", lambda: done.append("saved 2"))
        saver.wait()
        assert saver.failure
        assert done == []
        is_full.clear()
        saver.save(4, tmp_path / "4", lambda: done.append("saved 4"))
        saver.wait()
        assert saver.failure is None
        assert done == ["published", "saved 4"]
        reason = "model.safetensors: No space left on device"
        *failed, saved = saver.outcomes()
        assert [(outcome.step, str(outcome.reason)) for outcome in failed if isinstance(outcome, CheckpointFailed)] == [
            (2, reason),
            (2, reason),
        ]
        assert saved == CheckpointSaved(4, tmp_path / "4")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_callbacks_never_run_inside_a_signal_handler(
    number: int, text: Path, make_model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    """A signal that comes while the callback works does not enter it again; the loop tells of it, and the run saves."""
    is_busy = False
    entered_again: list[Event] = []
    events: list[Event] = []

    def hear(event: Event) -> None:
        nonlocal is_busy
        if is_busy:
            entered_again.append(event)
            return
        is_busy = True
        events.append(event)
        if isinstance(event, StepLogged) and event.step == 2:
            signal.raise_signal(number)
        is_busy = False

    result = tunesmith.train(
        text, model=make_model_folder(), out=tmp_path / "out", device="cpu", tokens_per_step=64, on_event=hear
    )
    assert entered_again == []
    assert (result.interrupted, result.steps) == (True, 2)
    kinds = [type(event) for event in events]
    assert kinds.count(StopRequested) == 1
    assert kinds.index(StopRequested) > max(place for place, kind in enumerate(kinds) if kind is StepLogged)


def test_a_second_signal_within_the_handler_of_the_first_does_not_block() -> None:
    """Setting the flag takes no lock: whatever instant of it is interrupted, it can be set from there."""
    request = StopRequest()
    done: list[bool] = []

    def interrupted(_frame: FrameType, what: str, _argument: object) -> object:
        if what in {"line", "opcode"} and len(done) < 50:
            sys.settrace(None)
            setter = threading.Thread(target=request.set, daemon=True)  # would wait for a lock that is held
            setter.start()
            setter.join(1)
            done.append(not setter.is_alive())
            sys.settrace(interrupted)
        return interrupted

    before = sys.gettrace()
    sys.settrace(interrupted)
    try:
        request.set()
    finally:
        sys.settrace(before)
    assert done
    assert all(done)
    assert request()


def test_a_mistake_in_the_thread_is_not_swallowed() -> None:
    """What is no matter of the disk is raised where the run sees it."""
    with AsyncWriter() as saver:
        saver.publish(1, lambda: {}["missing"])
        saver.wait()
        with pytest.raises(KeyError):
            list(saver.outcomes())


def test_appending_again_after_closing_keeps_order(tmp_path: Path) -> None:
    """Two runs of one folder append behind one another."""
    for step in (1, 2):
        JsonlWriter(tmp_path / "lines.jsonl").append({"step": step})
    assert (tmp_path / "lines.jsonl").read_text("utf-8") == '{"step": 1}\n{"step": 2}\n'
