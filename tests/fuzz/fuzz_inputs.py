"""Generate bad inputs of every kind and see that each ends in a clean error, or is read.

    python tests/fuzz/fuzz_inputs.py --inputs 100000

Not clean are: any exception that the command line does not turn into an `error:` line, more than ten seconds, memory
over 2 GB, and a file touched outside the input's own folder and the temporary ones. Inputs that break something are
kept in --keep (a folder each, with the seed that makes them again); tests/fuzz/test_fuzz.py reads those that once did.
Prints one JSON object with the counts; exit code 1 if anything broke.
"""

import argparse
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")
sys.path.insert(0, str(Path(__file__).parent))

from targets import Target, World, small_run

from tunesmith.errors import UserError

MOST_S = 10
MOST_BYTES = 2 << 30
CHANGES = {"os.mkdir": 2, "os.rmdir": 1, "os.remove": 1, "os.rename": 2, "os.link": 2, "os.symlink": 2}
"""Audit events, and where among their arguments the open folders begin."""
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class TooSlowError(BaseException):
    """Ten seconds are over."""


class Guard:
    """Watches what is written where, through Python's audit events.

    Attributes:
        allowed: folders that may be written.
        touched: what was written elsewhere.
    """

    def __init__(self, allowed: Path) -> None:
        self.allowed = str(allowed)
        self.touched: list[str] = []
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            is_writing = (mode and set(mode) & set("wax+")) or (isinstance(flags, int) and flags & WRITES)
            paths = [path] if is_writing else []
        elif event in CHANGES:
            names = [part for part in arguments if isinstance(part, str | bytes | os.PathLike)]
            folders = arguments[CHANGES[event] :]  # names may be relative to open folders
            paths = [_within(folder, name) for folder, name in zip(folders, names, strict=False)]
        else:
            return
        for path in paths:
            if isinstance(path, str | bytes | os.PathLike):
                real = os.path.realpath(os.fsdecode(path))
                if not real.startswith((self.allowed, "/dev/null")):
                    self.touched.append(f"{event} {real}")


def _within(folder: int, name: str | bytes | os.PathLike[str]) -> str:
    start = "" if folder < 0 else str(Path(f"/proc/self/fd/{folder}").readlink())
    return os.path.join(start, os.fsdecode(name))  # noqa: PTH118  an absolute name wins


def try_one(target: Target, folder: Path, seed: int) -> str | None:
    """Make one input and read it; what went wrong, or None."""
    folder.mkdir()
    made = target.make(folder, random.Random(seed))
    started_s = time.monotonic()
    signal.alarm(MOST_S)
    try:
        target.read(folder, made)
    except (UserError, OSError) as error:  # what the command line turns into one line
        text = f"{error}"
        problem = None if text.strip() else "an error without words"
    except BaseException:  # noqa: BLE001  all of it is a finding
        problem = traceback.format_exc()
    else:
        problem = None
    finally:
        signal.alarm(0)
    if time.monotonic() - started_s > MOST_S:
        problem = problem or "took too long"
    return problem


def main() -> int:
    """Try as many as were asked for."""
    parser = argparse.ArgumentParser(description="Read generated bad inputs.")
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="a target's name")
    parser.add_argument("--keep", type=Path, help="folder for the inputs that break something")
    asked = parser.parse_args()
    base = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108  memory, where there is some
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=base) as name:
        found = _fuzz(Path(name).resolve(), asked)
    print(json.dumps(found))
    return 1 if found["broken"] else 0


def _fuzz(folder: Path, asked: argparse.Namespace) -> dict[str, Any]:
    os.environ["TUNESMITH_CACHE"] = str(folder / "cache")
    tempfile.tempdir = str(folder)
    (folder / "world").mkdir()
    targets = [one for one in World(folder / "world", small_run(folder)).targets() if asked.only in one.name]
    resource.setrlimit(resource.RLIMIT_AS, (_address_space() + MOST_BYTES, resource.RLIM_INFINITY))
    signal.signal(signal.SIGALRM, _too_slow)
    guard = Guard(folder)
    counts: Counter[str] = Counter()
    broken: Counter[str] = Counter()
    shown: dict[str, str] = {}
    for number in range(asked.inputs):
        seed = asked.seed * 10**9 + number
        target = random.Random(seed).choices(targets, [one.share for one in targets])[0]
        problem = try_one(target, folder / "input", seed)
        counts[target.name] += 1
        if guard.touched:
            problem = f"touched {guard.touched}"
            guard.touched.clear()
        if problem:
            broken[target.name] += 1
            lines = [line for line in problem.splitlines() if "/src/tunesmith/" in line or not line.startswith(" ")]
            last = " ".join(lines[-2:])[:200].split("Error: ")[0]  # where and what, not with which value
            if last not in shown:
                shown[last] = f"{target.name}, seed {seed}: {problem[-1500:]}"
                if asked.keep:
                    shutil.copytree(folder / "input", asked.keep / f"{target.name.replace(' ', '-')}-{seed}")
        shutil.rmtree(folder / "input")
        guard.touched.clear()  # what was kept is no finding
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"inputs": counts.total(), "by_kind": counts, "peak_memory_bytes": peak, "broken": broken, "shown": shown}


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text("utf-8").split()[0]) * resource.getpagesize()


def _too_slow(_number: int, _frame: FrameType | None) -> None:
    raise TooSlowError


if __name__ == "__main__":
    sys.exit(main())
