"""Each tracker with its own library and a local store, read back by that library: the same numbers."""

import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tunesmith.generation.generate import GeneratedText
from tunesmith.run_dir import RunDir
from tunesmith.tracking.callback import TrackerCallback
from tunesmith.tracking.trackers import make_trackers
from tunesmith.training.events import Evaluated, RunEnded, Sampled, StepLogged, TrainResult

pytestmark = [pytest.mark.track, pytest.mark.filterwarnings("default")]

STEPS = [
    StepLogged(step, step / 5, 4.0 / step, 1e-4, 1.0, 100 * step, 1000.0 + step, 1 << 30, 0.0, 1.0, 0.0, 1.0)
    for step in range(1, 6)
]
EVALUATION = Evaluated(5, 1.0, 2.5, 12.5, is_best=True)
SAMPLE = Sampled(5, [GeneratedText("The", "The lamp burns", 42, 1.0, "stop", [1, 2], [-1.0, -2.0])])
RESULT = {"status": "finished", "perplexity": 12.5, "steps": 5}
ENDED = RunEnded(TrainResult(99.0, 12.5, 5, 5, 500, 1.0, 1000.0, 1, 1, None, None, "run", False, ""))
CARD = "# model card of the test"


@pytest.fixture
def tracked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """A function that tells a tracker of a finished run."""
    monkeypatch.chdir(tmp_path)

    def told(name: str) -> Path:
        pytest.importorskip(name)
        folder = tmp_path / "run"
        folder.mkdir()
        run = RunDir(folder)
        plan = {"config": {"model": "tiny"}, "plan": {"steps": 5}, "data": {"fingerprint": "f"}}
        run.write_metadata({"run_id": "abc123", **plan})
        (folder / "README.md").write_text(CARD, "utf-8")
        with TrackerCallback(make_trackers([name]), run, is_resumed=False) as trackers:
            failures = [failure for event in (*STEPS, EVALUATION, SAMPLE) for failure in trackers(event)]
            run.finish(RESULT)
            failures += trackers(ENDED)
        assert failures == []
        return folder

    return told


def test_tensorboard(tracked: Callable[[str], Path]) -> None:
    """Event files, read back by TensorBoard."""
    folder = tracked("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util import tensor_util

    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    found = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert found == [(line.step, pytest.approx(line.train_loss)) for line in STEPS]
    assert events.Scalars("eval/perplexity")[0].value == 12.5
    texts = {tag: tensor_util.make_ndarray(events.Tensors(tag)[0].tensor_proto) for tag in events.Tags()["tensors"]}
    assert b"The lamp burns" in texts["samples/The"].tobytes() or "The lamp burns" in str(texts["samples/The"])
    assert "model card of the test" in str(texts["model card"])


def log_records(content: bytes) -> Iterator[bytes]:
    """The records of a LevelDB log behind a head of 7 bytes: blocks of 32 KiB; checksum, length, kind, data."""
    position, parts = 7, b""
    while position + 7 <= len(content):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        length, kind = int.from_bytes(content[position + 4 : position + 6], "little"), content[position + 6]
        parts += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in {1, 4}:  # whole, or the last part
            yield parts
            parts = b""


def whole_wandb_log(path: Path) -> list[Any]:
    """Its records, once the last one is there: the process that writes them may come a little later."""
    from wandb.proto.wandb_internal_pb2 import Record

    deadline_s = time.monotonic() + 30
    while True:
        records = [Record.FromString(data) for data in log_records(path.read_bytes())]
        if records and records[-1].HasField("exit"):
            return records
        assert time.monotonic() < deadline_s, [record.WhichOneof("record_type") for record in records]
        time.sleep(0.1)


def test_wandb(tracked: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline, read back from the file that `wandb sync` would send."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = tracked("wandb")
    logged = [
        {(item.key or "/".join(item.nested_key)): json.loads(item.value_json) for item in record.history.item}
        for record in whole_wandb_log(next(folder.glob("wandb/offline-run-*/*.wandb")))
        if record.HasField("history")
    ]
    losses = [(one["step"], one["train/loss"]) for one in logged if "train/loss" in one]
    assert losses == [(line.step, line.train_loss) for line in STEPS]
    assert any(one.get("eval/perplexity") == 12.5 for one in logged)


def test_trackio(
    tracked: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its local database, and nothing on stdout."""
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "store"))
    tracked("trackio")
    assert capsys.readouterr().out == ""
    database = next((tmp_path / "store").glob("*.db"))
    with sqlite3.connect(database) as connection:
        rows = connection.execute("select step, metrics from metrics order by id").fetchall()
    logged = [(step, json.loads(metrics)) for step, metrics in rows]
    losses = [(step, one["train/loss"]) for step, one in logged if "train/loss" in one]
    assert losses == [(line.step, line.train_loss) for line in STEPS]
    assert any(one.get("samples/The") == "The lamp burns" for _, one in logged)
    assert any(one.get("model card") == CARD for _, one in logged)


def test_mlflow(tracked: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A local database, read back by its client."""
    pytest.importorskip("sqlalchemy")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    tracked("mlflow")
    from mlflow import MlflowClient

    client = MlflowClient()
    experiment = client.get_experiment_by_name("tunesmith")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(one.step, one.value) for one in history] == [(line.step, line.train_loss) for line in STEPS]
    assert run.data.metrics["eval/perplexity"] == 12.5
    assert run.data.params["config/model"] == "tiny"
    assert run.info.status == "FINISHED"
    assert {artifact.path for artifact in client.list_artifacts(run.info.run_id)} == {"samples.json", "model-card.md"}
