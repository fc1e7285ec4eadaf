"""Trackers beside a run: they are told what its files say, and whatever they do is no matter of the run."""

import json
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import tunesmith
from tunesmith.errors import UserError
from tunesmith.tracking import registry, tracking
from tunesmith.tracking.follower import Follower
from tunesmith.tracking.tracker import TrackedRun
from tunesmith.tracking.tracking import Tracking
from tunesmith.training.events import Event, MachineRead, Saved, WatchFailed

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
        monkeypatch.setattr(registry, "make_trackers", lambda _asked: trackers)
        events: list[Event] = []
        settings = {} if options.get("resume") else {"model": model, "max_steps": 6, "eval_every_steps": 3}
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
    assert run.settings["asked/max_steps"] == 6
    assert run.settings["plan/learning_rate"] == description["plan"]["learning_rate"]
    assert run.run_id == description["run_id"]
    prefixes = {"step": "train", "evaluation": "evaluation", "machine": "machine"}
    expected = [
        (
            line["step"],
            {
                f"{prefixes[line['kind']]}/{key}": value
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
    assert outcome["perplexity"] == description["outcome"]["perplexity"]
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
    failures = [event for event in events if isinstance(event, WatchFailed)]
    assert failures == [WatchFailed("--track broken", "ConnectionError: no network")]
    assert broken.calls == (1 + tracking.PATIENCE if starts else 1)
    assert notebook.told[-1][0] == "finish"  # another one is not disturbed
    beside = WatchFailed | Saved | MachineRead  # these come from other threads, whenever they are ready
    kinds = [[type(event) for event in some if not isinstance(event, beside)] for some in (events, plain)]
    assert kinds[0] == kinds[1]


def test_one_that_hangs_is_not_waited_for(train: Callable[..., list[Event]], monkeypatch: pytest.MonkeyPatch) -> None:
    """The run is over in its own time; then it is said."""
    release = threading.Event()

    class Hanging(Notebook):
        def log(self, *_told: object) -> None:
            release.wait()

    monkeypatch.setattr(tracking, "LAST_WORDS_S", 0.05)
    events = train("run", {"hanging": Hanging()})
    release.set()
    assert [event.what for event in events if isinstance(event, WatchFailed)] == ["--track hanging"]


def test_a_library_that_is_missing_is_named_before_anything_begins(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the command that installs it, and no run folder."""
    monkeypatch.setitem(registry.LIBRARIES, "wandb", "no_such_library")
    with pytest.raises(UserError, match="track wandb: not installed") as error:
        tunesmith.train(text, model="tiny", out=tmp_path / "out", track=("wandb",))
    assert "pip install no_such_library" in error.value.hint
    assert not (tmp_path / "out").exists()


def follow(path: Path, *, skip: bool = False) -> Callable[[], list[int]]:
    """A function that gives the steps of what is new, each time."""
    follower = Follower(path, skip=skip)
    return lambda: [line["step"] for line in follower.new_lines()]


def write(path: Path, steps: list[int], end: str = "\n") -> None:
    """Lines at the end of a file."""
    with path.open("a", encoding="utf-8") as file:
        file.write("\n".join(json.dumps({"step": step}) for step in steps) + end)


def test_following_a_file(tmp_path: Path) -> None:
    """Whole lines only, each once; a half one when it is whole; what cannot be read is passed over."""
    path = tmp_path / "metrics.jsonl"
    new = follow(path)
    assert new() == []
    write(path, [1, 2, 3], end="")
    assert new() == [1, 2]
    write(path, [], end="\nnonsense\n")
    assert new() == [3]
    assert new() == []


def test_following_a_file_that_is_rewritten(tmp_path: Path) -> None:
    """A run that goes back to step 2 tells steps 3 and 4 again: only what is beyond them is new."""
    path = tmp_path / "metrics.jsonl"
    new = follow(path)
    write(path, [1, 2, 3, 4])
    assert new() == [1, 2, 3, 4]
    other = tmp_path / "other"
    write(other, [1, 2])
    other.replace(path)
    assert new() == []
    write(path, [3, 4, 5])
    assert new() == [5]


def test_following_on_from_what_is_known(tmp_path: Path) -> None:
    """A resumed run's earlier lines were told before."""
    path = tmp_path / "metrics.jsonl"
    write(path, [1, 2])
    new = follow(path, skip=True)
    write(path, [3])
    assert new() == [3]


def test_a_run_that_ends_in_an_error_ends_the_trackers(tmp_path: Path) -> None:
    """They catch up, are told how it stands, and their threads end."""
    (tmp_path / "run.json").write_text('{"outcome": {"status": "running"}}', "utf-8")
    notebook = Notebook()
    full = UserError("the disk is full", hint="make room")
    with suppress(UserError), Tracking({"notebook": notebook}, tmp_path, is_resumed=False):
        raise full
    assert [one[0] for one in notebook.told] == ["start", "finish"]
    assert notebook.told[-1][1] == {"status": "running"}
