"""Runs broken at random instants end as if nothing had happened: the short form of the programs in tests/chaos."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHAOS = Path(__file__).parents[1] / "chaos"
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="the programs fork")


@needs_fork
@pytest.mark.slow
@pytest.mark.parametrize("how", ["KILL", "INT", "INT --twice", "TERM"])
def test_killed_runs_lose_nothing(how: str) -> None:
    """At least four runs, one of each kind, are killed and resumed; the long form makes 200 kills over 40 runs."""
    command = [sys.executable, CHAOS / "kill_runs.py", "--kills", "8", "--runs", "4", "--signal", *how.split()]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    found = json.loads(answer.stdout)
    assert found["kills"] >= 8
    assert found["bitwise_equal"] == found["runs"] >= 4


@needs_fork
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("cc"), reason="the failing disk is compiled, on Linux")
def test_a_failing_disk_loses_nothing() -> None:
    """Eight runs on a disk whose writes fail for a while; the long form makes 300."""
    command = [sys.executable, CHAOS / "fail_writes.py", "--faults", "8"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert json.loads(answer.stdout)["faults"] == 8
