"""`train --devices 2` as a user starts it: one voice, and an end within seconds when a process is lost."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

import tunesmith

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")

START_S, END_S = 120, 60


def workers(launcher: int) -> list[psutil.Process]:
    """The processes that train, by rank."""
    children = psutil.Process(launcher).children()
    return sorted(
        (child for child in children if "train" in child.cmdline()), key=lambda child: child.environ()["RANK"]
    )


@pytest.mark.slow
def test_a_killed_process_ends_the_others(module_model_folder: Path, own_caches: None, tmp_path: Path) -> None:  # noqa: ARG001
    """The user reads once which rank was lost and how to go on; nobody outlives it, and a checkpoint is there."""
    text = tmp_path / "log.txt"
    text.write_text("".join(f"Night {number}. Wind {number % 7}, lamp steady.\n" for number in range(40)), "utf-8")
    out = tmp_path / "run"
    command = [sys.executable, "-m", "tunesmith", "train", str(text), "--model", str(module_model_folder)]
    command += ["--out", str(out), "--devices", "2", "--device", "cpu", "--epochs", "100000", "--save-every-steps", "1"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    began_s = time.monotonic()
    while not list(out.glob("checkpoints/step-*")):
        assert running.poll() is None, running.communicate()
        assert time.monotonic() - began_s < START_S
        time.sleep(0.05)
    processes = workers(running.pid)
    assert len(processes) == 2
    os.kill(processes[1].pid, signal.SIGKILL)
    _, said = running.communicate(timeout=END_S)
    assert running.returncode == 1
    assert not any(process.is_running() for process in processes)
    errors = [line for line in said.splitlines() if line.startswith("error:")]
    assert errors == ["error: rank 1 was ended by SIGKILL, and the others with it"]
    assert f"tunesmith train --resume --devices 2 --out {out}" in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_lists_from_python_reach_every_process(module_model_folder: Path, own_caches: None, tmp_path: Path) -> None:  # noqa: ARG001
    """Sources, source weights and LoRA targets as lists train in two processes, and again when the run is resumed."""
    texts = [tmp_path / "a  b.txt", tmp_path / "c.txt"]
    for text in texts:
        text.write_text("".join(f"{text.stem} {number}, lamp steady.\n" for number in range(40)), "utf-8")
    out = tmp_path / "run"
    lists = {"weights": [1, 2], "lora_targets": ["attn.c_attn"]}
    together = {"devices": 2, "device": "cpu"}
    result = tunesmith.train(
        [texts[0], str(texts[1])], out=out, model=module_model_folder, max_steps=2, lora_rank=2, **lists, **together
    )
    assert result.steps == 2
    asked = json.loads((out / "run.json").read_text("utf-8"))["config"]
    assert asked["sources"] == list(map(str, texts))
    assert (asked["weights"], asked["lora_targets"]) == ([1.0, 2.0], ["attn.c_attn"])
    assert tunesmith.train(out=out, resume=True, max_steps=3, **lists, **together).steps == 3
