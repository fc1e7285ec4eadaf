"""Stages whose cases fail in every way, run by `test_gpu_program.py` in a process of its own: they are forked.

python failing_stages.py BENCHMARKS FOLDER
"""

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, sys.argv[1])

from gpu_stages.running import Case, Journal, Result, Setting, Stage, run_stage

folder = Path(sys.argv[2])
journal = Journal(folder / "gpu.jsonl", 60)


def works(_setting: Setting) -> Result:
    return {"process": os.getpid()}


def raises(_setting: Setting) -> Result:
    raise ValueError("no such thing")


def faults(_setting: Setting) -> Result:
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


def dies(_setting: Setting) -> Result:
    os.abort()


def hangs(_setting: Setting) -> Result:
    time.sleep(600)
    return {}


CASES = (
    Case("first", works),
    Case("raises", raises),
    Case("second", works),
    Case("faults", faults),
    Case("third", works),
    Case("dies", dies),
    Case("hangs", hangs),
    Case("needs", works, lambda _setting: "needs two GPUs"),
    Case("fourth", works),
)
setting = Setting("cpu", folder)
run_stage(Stage("measures", CASES, 0, 2), setting, journal)
run_stage(Stage("asks", CASES[:2], 0, 10, asks=True), setting, journal)
run_stage(Stage("isolated", (CASES[0], CASES[2]), 0, 10, is_isolated=True), setting, journal)
run_stage(Stage("late", CASES[:1], 1000, 10), setting, journal)
