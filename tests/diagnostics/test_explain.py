"""The command: messages, logs in any encoding, run folders."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

import tunesmith
from tunesmith.cli import main
from tunesmith.run_dir import RunDir

LOG = "step 1\nstep 2\nOSError: [Errno 28] No space left on device\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp932"])
def test_a_log_in_any_encoding(tmp_path: Path, encoding: str) -> None:
    """What Windows redirects is read too; the line is named."""
    path = tmp_path / "log.txt"
    path.write_bytes(("学習\n" + LOG).encode(encoding))
    answer = tunesmith.explain(path)
    assert answer["name"] == "disk-full"
    assert answer["evidence"] == ["line 4: OSError: [Errno 28] No space left on device"]


def test_a_message_and_standard_input(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Between quotes, or piped; what is not known is called so."""
    assert main(["explain", "CUDA out of memory. Tried to allocate 20 MiB", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "gpu-memory-full"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"all is quiet\n")))
    assert main(["explain"]) == 0
    assert "unknown" in capsys.readouterr().out


@pytest.mark.parametrize("language", ["en", "ja"])
def test_our_own_errors_are_their_fix(
    language: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of any command in any language, its hint is the fix."""
    monkeypatch.chdir(tmp_path)
    Path("b.txt").write_text("some text\n", encoding="utf-8")
    commands = (
        ["train", "none.txt", "--out", "o", "--model", "tiny"],
        ["generate", "nowhere/model"],
        ["train", "b.txt", "--out", "o", "--model", "tiny", "--epochs", "-1"],
        ["export", "tiny", "--out", "o"],
    )
    for command in commands:
        assert main([*command, "--lang", language]) > 0
        said = capsys.readouterr().err
        error, hint = (line.split(":", 1)[1].strip() for line in said.splitlines())
        answer = tunesmith.explain(f"step 1\n{said}")
        assert (answer["name"], answer["cause"], answer["fix"]) == ("reported-by-tunesmith", error, hint)
        assert answer["evidence"][0].endswith(said.splitlines()[0])


def test_hints_of_other_programs_are_theirs() -> None:
    """Git writes an error and a hint as we do."""
    git = "error: failed to push some refs to 'github.com:me/it'\nhint: Updates were rejected because of the remote\n"
    assert tunesmith.explain(git)["name"] == "unknown"


def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A missing file, a folder without a run."""
    assert main(["explain", str(tmp_path / "none.log")]) == 1
    assert "no such file or folder" in capsys.readouterr().err
    assert main(["explain", str(tmp_path)]) == 1
    assert "contains no run" in capsys.readouterr().err


def run_folder(tmp_path: Path, status: str, lines: list[dict[str, Any]], samples: int = 500) -> Path:
    """A folder as `train` leaves it."""
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    outcome = {"status": status, "base_perplexity": 50.0, "perplexity": 20.0, "steps": 30}
    description = {
        "config": {},
        "plan": {"steps": 100, "train_samples": samples},
        "data": {"fingerprint": "x"},
        "result": outcome,
    }
    (folder / "run.json").write_text(json.dumps(description), encoding="utf-8")
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return folder


def evaluation(step: int, perplexity: float) -> dict[str, Any]:
    """A line of metrics.jsonl."""
    return {"kind": "eval", "step": step, "epoch": step / 10, "val_perplexity": perplexity}


def test_a_run_that_finished(tmp_path: Path) -> None:
    """Nothing is made up."""
    folder = run_folder(tmp_path, "finished", [evaluation(10, 30.0), evaluation(30, 20.0)])
    assert tunesmith.explain(folder)["name"] == "all-well"


def test_a_run_that_was_killed_goes_on(tmp_path: Path) -> None:
    """It is told from one that still runs, and nothing in the folder changes."""
    folder = run_folder(tmp_path, "running", [{"kind": "step", "step": 42}])
    before = sorted(folder.rglob("*"))
    answer = tunesmith.explain(folder)
    assert answer["name"] == "ended-unexpectedly"
    assert f"tunesmith train --resume --out {folder}" in answer["fix"]
    assert any("step 42 of 100" in line for line in answer["evidence"])
    assert sorted(folder.rglob("*")) == before
    with RunDir(folder).lock():
        assert tunesmith.explain(folder)["name"] == "still-running"


def test_what_went_wrong_in_a_run(tmp_path: Path) -> None:
    """NaN with its sample, a full disk, overfitting, a shrunk batch, few samples: all from its own lines."""
    lines = [
        {"kind": "nonfinite", "step": 7, "what": "loss", "samples": ["poems.txt line 12"], "action": "left out"},
        {"kind": "checkpoint_failed", "step": 20, "reason": "No space left on device"},
        {"kind": "out_of_memory", "step": 3, "tokens_per_micro_batch": 512, "micro_batches": 4},
        evaluation(10, 20.0),
        evaluation(20, 19.0),
        evaluation(30, 27.0),
    ]
    answer = tunesmith.explain(run_folder(tmp_path, "finished", lines, samples=20))
    names = [answer["name"], *(cause["name"] for cause in answer["more"])]
    assert names == ["nonfinite-loss", "disk-full", "overfit", "out-of-memory-retries", "few-samples"]
    assert "poems.txt line 12" in answer["evidence"]
    overfitted = next(cause for cause in answer["more"] if cause["name"] == "overfit")
    assert "19.00 at step 20, 27.00 at step 30" in overfitted["evidence"][0]
