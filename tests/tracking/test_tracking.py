"""Trackers next to a run: they get what its files contain, and whatever they do does not affect the run."""

import json
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import tunesmith
from tunesmith.errors import UserError
from tunesmith.run_dir import RunDir
from tunesmith.tracking import callback, trackers
from tunesmith.tracking.callback import TrackerCallback
from tunesmith.tracking.trackers import TrackedRun
from tunesmith.training.events import (
    CheckpointSaved,
    Evaluated,
    Event,
    IntegrationFailed,
    StepLogged,
    SystemMetricsLogged,
)

LINES = [f"Night {number}. Wind {number % 7}, lamp steady.\n" for number in range(60)]


class Notebook:
    """A tracker that writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def start(self, run: TrackedRun) -> None:
        self.told.append(("start", run))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.told.append(("log", step, dict(metrics)))

    def sample(self, step: int, prompt: str, text: str) -> None:
        self.told.append(("sample", step, prompt, text))

    def finish(self, outcome: Mapping[str, Any], card: str) -> None:
        self.told.append(("finish", dict(outcome), card))


class Broken:
    """A tracker that raises on every call, or from one on."""

    def __init__(self, starts: bool) -> None:  # noqa: FBT001
        self.starts, self.calls = starts, 0

    def __getattr__(self, name: str) -> Callable[..., None]:
        def call(*_arguments: object) -> None:
            self.calls += 1
            if not (self.starts and name == "start"):
                raise ConnectionError("no network")

        return call


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Sixty samples."""
    path = tmp_path / "log.txt"
    path.write_text("".join(LINES), "utf-8")
    return path


@pytest.fixture
def train(
    text: Path, tmp_path: Path, make_model_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list[Event]]:
    """A function that trains with trackers of its own, and returns the events."""
    model = make_model_folder()

    def trained(name: str, trackers: dict[str, Any], **options: Any) -> list[Event]:
        monkeypatch.setattr("tunesmith.training.train.make_trackers", lambda _names: trackers)
        events: list[Event] = []
        settings = {} if options.get("resume") else {"model": model, "max_steps": 6, "eval_steps": 3}
        sources = [] if options.get("resume") else [text]
        tunesmith.train(*sources, out=tmp_path / name, on_event=events.append, **settings, **options)
        return events

    return trained


def read(path: Path) -> list[dict[str, Any]]:
    """A JSON-lines file."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_a_tracker_hears_what_the_files_say(train: Callable[..., list[Event]], tmp_path: Path) -> None:
    """Settings, every number of every line with its unit, every sample, outcome and card; a resumed run likewise."""
    notebook = Notebook()
    train("run", {"notebook": notebook})
    run = notebook.told[0][1]
    description = json.loads((tmp_path / "run" / "run.json").read_text("utf-8"))
    assert run.settings["config/max_steps"] == 6
    assert run.settings["plan/learning_rate"] == description["plan"]["learning_rate"]
    assert run.run_id == description["run_id"]
    prefixes = {"step": ("train", "train_"), "eval": ("eval", "val_"), "system": ("system", "")}
    expected = [
        (
            line["step"],
            {
                f"{prefixes[line['kind']][0]}/{key.removeprefix(prefixes[line['kind']][1])}": value
                for key, value in line.items()
                if key not in {"kind", "step"} and value is not None
            },
        )
        for line in read(tmp_path / "run" / "metrics.jsonl")
    ]
    assert [one[1:] for one in notebook.told if one[0] == "log"] == expected
    samples = read(tmp_path / "run" / "samples.jsonl")
    assert [one[1:] for one in notebook.told if one[0] == "sample"] == [
        (line["step"], line["prompt"], line["text"]) for line in samples
    ]
    _, outcome, card = notebook.told[-1]
    assert outcome["perplexity"] == description["result"]["perplexity"]
    assert card == (tmp_path / "run" / "README.md").read_text("utf-8")

    more = Notebook()
    train("run", {"notebook": more}, resume=True, max_steps=9)
    assert more.told[0][1].run_id == run.run_id
    assert more.told[0][1].is_resumed
    assert [one[1] for one in more.told if one[0] == "log" and "train/grad_norm" in one[2]] == [7, 8, 9]


@pytest.mark.parametrize("starts", [False, True])
def test_one_that_raises_on_every_call_leaves_the_run_untouched(
    train: Callable[..., list[Event]],
    tmp_path: Path,
    starts: bool,  # noqa: FBT001
) -> None:
    """Bitwise the same model as without it; it is said once, and it is left alone soon."""
    broken, notebook = Broken(starts), Notebook()
    plain = train("plain", {})
    events = train("tracked", {"broken": broken, "notebook": notebook})
    models = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("plain", "tracked")]
    assert models[0] == models[1]
    failures = [event for event in events if isinstance(event, IntegrationFailed)]
    assert failures == [IntegrationFailed("--report-to broken", "ConnectionError: no network")]
    assert broken.calls == (1 + callback.MAX_FAILURES if starts else 1)
    assert notebook.told[-1][0] == "finish"  # another one is not disturbed
    beside = (
        IntegrationFailed | CheckpointSaved | SystemMetricsLogged
    )  # these come from other threads, whenever they are ready
    kinds = [[type(event) for event in some if not isinstance(event, beside)] for some in (events, plain)]
    assert kinds[0] == kinds[1]


def test_one_that_hangs_is_not_waited_for(train: Callable[..., list[Event]], monkeypatch: pytest.MonkeyPatch) -> None:
    """The run is over in its own time; then it is said."""
    release = threading.Event()

    class Hanging(Notebook):
        def log(self, *_told: object) -> None:
            release.wait()

    monkeypatch.setattr(callback, "FINISH_TIMEOUT_S", 0.05)
    events = train("run", {"hanging": Hanging()})
    release.set()
    assert [event.what for event in events if isinstance(event, IntegrationFailed)] == ["--report-to hanging"]


def test_a_library_that_is_missing_is_named_before_anything_begins(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the command that installs it, and no run folder."""
    monkeypatch.setitem(trackers.LIBRARIES, "wandb", "no_such_library")
    with pytest.raises(UserError, match=r"^report_to wandb: not installed") as error:
        tunesmith.train(text, model="tiny", out=tmp_path / "out", report_to=("wandb",))
    assert "pip install no_such_library" in error.value.hint
    assert not (tmp_path / "out").exists()


def step(number: int) -> StepLogged:
    """A logged step."""
    return StepLogged(number, 0.1, 3.0, 1e-4, 1.0, 10, 10.0, 10, 1.0, 1.0, 0.0, 1.0)


METADATA = {"config": {}, "plan": {}, "data": {"fingerprint": "f"}}


def test_a_run_that_rolls_back_logs_each_step_once(tmp_path: Path) -> None:
    """After a rollback to step 2 the steps 3 and 4 come again: only what is beyond them is logged."""
    run, notebook = RunDir(tmp_path), Notebook()
    run.write_metadata(METADATA)
    with TrackerCallback({"notebook": notebook}, run, is_resumed=False) as trackers:
        for number in (1, 2, 3, 4, 3, 4, 5):
            assert not trackers(step(number))
        trackers(Evaluated(4, 0.1, 3.0, 20.0, is_best=True))  # another kind of line
    assert [(told[1], next(iter(told[2]))) for told in notebook.told if told[0] == "log"] == [
        *((number, "train/epoch") for number in (1, 2, 3, 4, 5)),
        (4, "eval/epoch"),
    ]


def test_a_tracker_that_is_too_slow_loses_calls_and_never_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The queue is bounded: a run with a tracker that hangs keeps its memory."""
    release = threading.Event()

    class Hanging(Notebook):
        def start(self, *_told: object) -> None:
            release.wait()

    monkeypatch.setattr(callback, "MAX_QUEUED", 3)
    monkeypatch.setattr(callback, "FINISH_TIMEOUT_S", 0.05)
    run, hanging = RunDir(tmp_path), Hanging()
    run.write_metadata(METADATA)
    with TrackerCallback({"hanging": hanging}, run, is_resumed=False) as trackers:
        for number in range(1, 10):
            trackers(step(number))
    release.set()
    deadline = time.monotonic() + 10
    while len(hanging.told) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [told[1] for told in hanging.told] == [1, 2, 3]


def test_a_run_that_ends_in_an_error_ends_the_trackers(tmp_path: Path) -> None:
    """They catch up, are told how it stands, and their threads end."""
    run = RunDir(tmp_path)
    run.write_metadata(METADATA)
    notebook = Notebook()
    full = UserError("the disk is full", hint="make room")
    with suppress(UserError), TrackerCallback({"notebook": notebook}, run, is_resumed=False):
        raise full
    assert [one[0] for one in notebook.told] == ["start", "finish"]
    assert notebook.told[-1][1] == {"status": "running"}
