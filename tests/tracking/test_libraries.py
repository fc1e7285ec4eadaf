"""Each tracker with its own library and a local store, read back by that library: the same numbers."""

import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tunesmith.tracking.registry import make_trackers
from tunesmith.tracking.tracking import Tracking

pytestmark = [pytest.mark.track, pytest.mark.filterwarnings("default")]

STEPS = [
    {"kind": "step", "step": step, "loss_nats_per_token": 4.0 / step, "tokens_per_s": 1000.0 + step}
    for step in range(1, 6)
]
EVALUATION = {"kind": "evaluation", "step": 5, "validation_perplexity": 12.5, "is_best": True}
SAMPLE = {"step": 5, "prompt": "The", "text": "The lamp burns", "seed": 42}
CARD = "# model card of the test"


@pytest.fixture
def tracked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """A function that tells a tracker of a finished run."""
    monkeypatch.chdir(tmp_path)

    def told(name: str) -> Path:
        pytest.importorskip(name)
        folder = tmp_path / "run"
        folder.mkdir()
        outcome = {"status": "finished", "perplexity": 12.5, "steps": 5}
        description = {"run_id": "abc123", "asked": {"model": "tiny"}, "plan": {"steps": 5}, "outcome": outcome}
        (folder / "run.json").write_text(json.dumps(description), "utf-8")
        (folder / "README.md").write_text(CARD, "utf-8")
        lines = "".join(json.dumps(line) + "\n" for line in (*STEPS, EVALUATION))
        (folder / "metrics.jsonl").write_text(lines, "utf-8")
        (folder / "samples.jsonl").write_text(json.dumps(SAMPLE) + "\n", "utf-8")
        with Tracking(make_trackers([name]), folder, is_resumed=False) as tracking:
            pass
        assert list(tracking.failures()) == []
        return folder

    return told


def test_tensorboard(tracked: Callable[[str], Path]) -> None:
    """Event files, read back by TensorBoard."""
    folder = tracked("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util import tensor_util

    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    found = [(event.step, event.value) for event in events.Scalars("train/loss_nats_per_token")]
    assert found == [(line["step"], pytest.approx(line["loss_nats_per_token"])) for line in STEPS]
    assert events.Scalars("evaluation/validation_perplexity")[0].value == 12.5
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
    losses = [(one["step"], one["train/loss_nats_per_token"]) for one in logged if "train/loss_nats_per_token" in one]
    assert losses == [(line["step"], line["loss_nats_per_token"]) for line in STEPS]
    assert any(one.get("evaluation/validation_perplexity") == 12.5 for one in logged)


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
    losses = [(step, one["train/loss_nats_per_token"]) for step, one in logged if "train/loss_nats_per_token" in one]
    assert losses == [(line["step"], line["loss_nats_per_token"]) for line in STEPS]
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
    history = client.get_metric_history(run.info.run_id, "train/loss_nats_per_token")
    assert [(one.step, one.value) for one in history] == [(line["step"], line["loss_nats_per_token"]) for line in STEPS]
    assert run.data.metrics["evaluation/validation_perplexity"] == 12.5
    assert run.data.params["asked/model"] == "tiny"
    assert run.info.status == "FINISHED"
    assert {artifact.path for artifact in client.list_artifacts(run.info.run_id)} == {"samples.json", "model-card.md"}
