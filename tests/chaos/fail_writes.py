"""Real training runs on a disk that fails: any system call that writes may return "no space" or "input/output error".

    python tests/chaos/fail_writes.py --faults 300

The failing calls are one, a few, or all from some instant on, which is drawn from all calls that a run makes. A run
must then end with exit code 0 (it found a way), or with one clean `error:`; never with a traceback. Then the disk is
whole again, the run is resumed, and what it becomes must be bitwise the unbroken run; all checkpoints must be whole at
every instant, and none may have gone back. Needs Linux and a C compiler; prints one JSON object; exit code 1 if
anything was lost.
"""

import argparse
import ctypes
import errno
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")
SOURCE = Path(__file__).with_name("failing_disk.c")
PRELOADED = "FAILING_DISK"
"""Names the library in the environment of the program's second life, in which it is preloaded."""
CLEAN = (0, 1)


def main() -> int:
    """Compile the failing disk, start again with it, and break runs."""
    parser = argparse.ArgumentParser(description="Let writes of training runs fail and compare what they become.")
    parser.add_argument("--faults", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    if PRELOADED not in os.environ:
        with tempfile.TemporaryDirectory(prefix="failing-disk-") as folder:
            library = Path(folder) / "failing_disk.so"
            subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, SOURCE, "-ldl"], check=True)
            environment = {**os.environ, PRELOADED: str(library), "LD_PRELOAD": str(library)}
            return subprocess.run([sys.executable, *sys.argv], env=environment, check=False).returncode
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        found = _break_runs(Path(folder), asked.faults, random.Random(asked.seed))
    print(json.dumps(found))
    return 1 if found["problems"] else 0


def _break_runs(folder: Path, faults: int, chance: random.Random) -> dict[str, object]:
    sys.path.insert(0, str(Path(__file__).parent))
    from small_run import VARIANTS, SmallRun, differences, make_world

    report = ctypes.CDLL(os.environ[PRELOADED]).failing_disk_report
    text, model = make_world(folder)
    environment = {"TUNESMITH_CACHE": str(folder / "cache")}
    unbroken, n_calls = [], []
    for number, variant in enumerate(VARIANTS):
        counted = folder / f"calls-{number}"
        out = folder / f"unbroken-{number}"
        counting = {**environment, "FAULT_FOLDER": f"{out}/", "FAULT_CALLS": str(counted)}
        run = SmallRun(text, model, out, variant, counting, at_the_end=report)
        run.finish()
        unbroken.append(run.result())
        n_calls.append(int(counted.read_text("utf-8")))
    outcomes = {"went on": 0, "ended with an error": 0}
    problems: list[str] = []
    broken = 0
    while broken < faults and not problems:
        which = broken % len(VARIANTS)
        out = folder / f"run-{broken}"
        number = chance.choice([errno.ENOSPC, errno.EIO])
        length = chance.choice([1, 1, 3, 30, 1 << 30])
        fault = {"FAULT_FOLDER": f"{out}/", "FAULT_FROM": str(chance.randint(1, n_calls[which]))}
        fault |= {"FAULT_COUNT": str(length), "FAULT_ERRNO": str(number)}
        run = SmallRun(text, model, out, VARIANTS[which], {**environment, **fault})
        code = run.once()
        said = run.log()
        outcomes["ended with an error" if code else "went on"] += 1
        if code not in CLEAN or "Traceback" in said or (code and "error: " not in said):
            problems.append(f"{out} with {fault} ended with {code}: {said}")
        saved = run.saved_step
        run.environment = environment
        if code:
            run.finish()
        if run.saved_step < saved:
            problems.append(f"{out} lost its checkpoint of step {saved}")
        problems += [f"{out} with {fault} differs in {name}" for name in differences(run.result(), unbroken[which])]
        problems += [f"{path} was left behind" for path in run.leftovers()]
        broken += 1
    return {"faults": broken, "calls_of_a_run": n_calls, **outcomes, "problems": problems}


if __name__ == "__main__":
    sys.exit(main())
