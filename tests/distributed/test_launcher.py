"""`train --devices 2` and torchrun as a user starts them: one screen, and an end when a process is lost."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

import tunesmith

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX"),
    pytest.mark.usefixtures("own_caches"),
]

START_S, END_S = 120, 60
TIMEOUT_S = 15
"""Of a collective, where a test waits for it; enough for processes that share a busy machine."""
OOM_WORKER = Path(__file__).with_name("oom_worker.py")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Some lines."""
    path = tmp_path / "log.txt"
    path.write_text("".join(f"Night {number}. Wind {number % 7}, lamp steady.\n" for number in range(40)), "utf-8")
    return path


def started(text: Path, model: Path, out: Path) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    """A long run of two processes after its first checkpoint, and those processes by rank."""
    command = [sys.executable, "-m", "tunesmith", "train", str(text), "--model", str(model)]
    command += ["--out", str(out), "--devices", "2", "--device", "cpu", "--epochs", "100000", "--save-steps", "1"]
    launcher = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    began_s = time.monotonic()
    while not list(out.glob("checkpoints/step-*")):
        assert launcher.poll() is None, launcher.communicate()
        assert time.monotonic() - began_s < START_S
        time.sleep(0.05)
    children = [child for child in psutil.Process(launcher.pid).children() if "train" in child.cmdline()]
    assert len(children) == 2
    return launcher, sorted(children, key=lambda child: child.environ()["RANK"])


def errors_in(said: str) -> list[str]:
    """What the user reads as errors."""
    assert "Traceback" not in said
    return [line for line in said.splitlines() if line.startswith("error:")]


def losses(out: Path) -> list[float]:
    """Of all steps."""
    lines = map(json.loads, (out / "metrics.jsonl").read_text("utf-8").splitlines())
    return [line["train_loss"] for line in lines if line["kind"] == "step"]


def test_a_killed_process_ends_the_others(module_model_folder: Path, text: Path, tmp_path: Path) -> None:
    """One error names the lost rank and how to continue; no process outlives it, and the saved run can be resumed."""
    out = tmp_path / "run"
    launcher, processes = started(text, module_model_folder, out)
    os.kill(processes[1].pid, signal.SIGKILL)
    _, said = launcher.communicate(timeout=END_S)
    assert launcher.returncode == 1
    assert not any(process.is_running() for process in processes)
    assert errors_in(said) == ["error: rank 1 was ended by SIGKILL, and the others with it"]
    assert f"tunesmith train --resume --devices 2 --out {out}" in said
    saved = max(int(folder.name.removeprefix("step-")) for folder in out.glob("checkpoints/step-????????"))
    assert tunesmith.train(out=out, resume=True, max_steps=saved + 1, device="cpu").steps == saved + 1


@pytest.mark.parametrize("stopped", [0, 1])
def test_a_process_that_does_not_answer_ends_the_run(
    module_model_folder: Path, text: Path, tmp_path: Path, stopped: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the time limit of torch's collectives there is one error."""
    monkeypatch.setenv("TUNESMITH_COLLECTIVE_TIMEOUT_S", str(TIMEOUT_S))
    launcher, processes = started(text, module_model_folder, tmp_path / "run")
    os.kill(processes[stopped].pid, signal.SIGSTOP)
    psutil.wait_procs([processes[1 - stopped]], timeout=END_S)
    os.kill(processes[stopped].pid, signal.SIGCONT)  # or the launcher would wait ten minutes for it to end
    _, said = launcher.communicate(timeout=END_S)
    assert launcher.returncode == 1
    assert errors_in(said) == ["error: another process of this training has ended, or cannot be reached any more"]


def test_a_sharded_run_restarts_with_smaller_micro_batches(
    module_model_folder: Path, text: Path, tmp_path: Path
) -> None:
    """Where memory runs out in one rank, it is named, torchrun starts all again, and the result is that of one process.

    The micro-batches stay smaller.
    """
    options: dict[str, Any] = {"model": str(module_model_folder), "device": "cpu", "max_steps": 5}
    options |= {"tokens_per_step": 200, "precision": "fp32"}
    tunesmith.train(text, out=tmp_path / "one", **options)
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    flags += ["--shard=yes", "--save-steps=1", f"--out={tmp_path / 'two'}"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--max-restarts=1"]
    launcher += ["--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0"]
    done = subprocess.run(
        [*launcher, str(OOM_WORKER), "train", str(text), *flags],
        capture_output=True,
        text=True,
        check=False,
        timeout=START_S,
    )
    assert done.returncode == 0, done.stderr
    [error] = errors_in(done.stderr)
    assert error.startswith("error: rank 1: memory ran out with a window of ")
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
    [*_, last] = sorted((tmp_path / "two" / "checkpoints").glob("step-*/state.json"))
    assert json.loads(last.read_text("utf-8"))["progress"]["micro_batch_splits"] == 2


def test_lists_from_python_reach_every_process(module_model_folder: Path, tmp_path: Path) -> None:
    """Sources, source weights and LoRA targets as lists train in two processes, and again when the run is resumed."""
    texts = [tmp_path / "a  b.txt", tmp_path / "c.txt"]
    for text in texts:
        text.write_text("".join(f"{text.stem} {number}, lamp steady.\n" for number in range(40)), "utf-8")
    out = tmp_path / "run"
    lists: dict[str, Any] = {"source_weights": [1, 2], "lora_target_modules": ["attn.c_attn"]}
    together: dict[str, Any] = {"devices": 2, "device": "cpu"}
    result = tunesmith.train(
        [texts[0], str(texts[1])], out=out, model=module_model_folder, max_steps=2, lora_r=2, **lists, **together
    )
    assert result.steps == 2
    config = json.loads((out / "run.json").read_text("utf-8"))["config"]
    assert config["sources"] == list(map(str, texts))
    assert (config["source_weights"], config["lora_target_modules"]) == ([1.0, 2.0], ["attn.c_attn"])
    assert tunesmith.train(out=out, resume=True, max_steps=3, **lists, **together).steps == 3
