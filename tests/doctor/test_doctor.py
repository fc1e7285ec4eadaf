"""The command on this machine: real probes, time limits, exit codes."""

import json
import sys
from pathlib import Path

import pytest

from tunesmith.cli import main
from tunesmith.doctor import collect
from tunesmith.doctor.fixes import run_fixes
from tunesmith.doctor.probe_process import ProbeProcess
from tunesmith.errors import UserError


def test_quick_on_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    """One JSON object with the pinned keys; torch's version is known without importing it."""
    import torch

    code = main(["doctor", "--quick", "--json"])
    answer = json.loads(capsys.readouterr().out)
    assert all(check.keys() == {"name", "status", "found", "fix"} for check in answer["checks"])
    assert code == (0 if answer["ok"] else 1)
    assert next(check["found"] for check in answer["checks"] if check["name"] == "torch") == torch.__version__


@pytest.mark.slow
def test_the_whole_visit(capsys: pytest.CaptureFixture[str]) -> None:
    """Torch is tried, a training step among the rest, and nothing of it fails; no network is a fact, no error."""
    main(["doctor", "--json"])
    status = {check["name"]: check["status"] for check in json.loads(capsys.readouterr().out)["checks"]}
    assert (status["matmul float32"], status["training step"], status["tokenizer"]) == ("ok", "ok", "ok")
    assert "hub" in status


def probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> str:
    """A module that can be started as a probe."""
    (tmp_path / "some_probe.py").write_text(code, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "some_probe"


def test_a_probe_that_hangs_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it said before stays, and its end is named."""
    code = 'import time\nprint(\'{"stage": "cuda"}\', flush=True)\ntime.sleep(60)\n'
    answer = ProbeProcess(probe(tmp_path, monkeypatch, code), limit_s=1.0).result()
    assert answer.values == {"stage": "cuda"}
    assert "no answer within" in answer.failure


def test_a_probe_that_crashes_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal, and the last words of an exception."""
    killed = "import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\n"
    assert "signal 15" in ProbeProcess(probe(tmp_path, monkeypatch, killed)).result().failure
    raising = "raise ImportError('libcudart.so.13: cannot open shared object file')\n"
    assert "libcudart.so.13" in ProbeProcess(probe(tmp_path, monkeypatch, raising)).result().failure


def test_a_torch_whose_library_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real probe meets a torch that cannot be loaded: the stage and the error come back, doctor itself lives."""
    package = tmp_path / "torch"
    package.mkdir()
    (package / "__init__.py").write_text("raise OSError('libtorch_cpu.so: file too short')\n", encoding="utf-8")
    paths = [str(tmp_path), str(Path(collect.__file__).parents[2])]
    monkeypatch.setenv("PYTHONPATH", ":".join(paths))
    answer = ProbeProcess("tunesmith.doctor.probes", ("torch",)).result()
    facts = collect.tried_torch(collect.torch_files(), answer)
    assert facts.stage == "import"
    assert "file too short" in facts.error


def test_what_is_mended_is_run_and_failures_are_said() -> None:
    """`--fix --yes` runs the commands, and stops at the first that fails."""
    run_fixes(((sys.executable, "-c", "pass"),))
    with pytest.raises(UserError, match="this command failed"):
        run_fixes(((sys.executable, "-c", "raise SystemExit(3)"),))
    with pytest.raises(UserError, match="cannot be run"):
        run_fixes((("no-such-program-anywhere",),))
