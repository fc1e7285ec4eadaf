"""Kill real training runs at random instants, resume each to its end, and compare it with the unbroken run.

    python tests/chaos/kill_runs.py --kills 200 --runs 40

Half of the instants are drawn from the whole length of a run, the others from the milliseconds in which something is
being written. After every kill all checkpoints must be whole and none may have gone back; in the end model, optimizer,
random states, samples and metrics must be bitwise those of the unbroken run. Prints one JSON object; exit code 1 if
anything was lost. SIGKILL takes the process, not the system's file cache: that files survive a power cut rests on
syncing them before they get their names, which this program cannot show.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")
sys.path.insert(0, str(Path(__file__).parent))

from small_run import VARIANTS, SmallRun, differences, exit_code, kill, make_world, wait_until_it_writes

LONGEST_PAUSE_WHILE_WRITING_S = 0.03
MOST_KILLS_OF_A_RUN = 12
SAVED_AND_ENDED = 130


def main() -> int:
    """Break runs until there were enough of both."""
    parser = argparse.ArgumentParser(description="Kill training runs and compare what they become.")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--signal", choices=["KILL", "INT", "TERM"], default="KILL")
    parser.add_argument("--twice", action="store_true", help="send it again a few milliseconds later")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        found = _break_runs(Path(folder), asked, random.Random(asked.seed))
    print(json.dumps(found))
    return 1 if found["problems"] else 0


def _break_runs(folder: Path, asked: argparse.Namespace, chance: random.Random) -> dict[str, object]:
    text, model = make_world(folder)
    environment = {"TUNESMITH_CACHE": str(folder / "cache")}
    unbroken, durations_s = [], []
    for number, variant in enumerate(VARIANTS):
        started_s = time.monotonic()
        run = SmallRun(text, model, folder / f"unbroken-{number}", variant, environment)
        run.finish()
        durations_s.append(time.monotonic() - started_s)
        unbroken.append(run.result())
    number = getattr(signal, f"SIG{asked.signal}")
    kills, kills_while_writing, runs, equal = 0, 0, 0, 0
    problems: list[str] = []
    while (kills < asked.kills or runs < asked.runs) and not problems:
        which = runs % len(VARIANTS)
        run = SmallRun(text, model, folder / f"run-{runs}", VARIANTS[which], environment)
        for _ in range(chance.randint(1, MOST_KILLS_OF_A_RUN)):
            was_killed, while_writing = _break(run, [number] * (1 + asked.twice), durations_s[which], chance, problems)
            kills += was_killed
            kills_while_writing += while_writing
            if not was_killed or problems or _is_finished(run):  # killed in its very last instant
                break
        if not problems and not _is_finished(run):
            run.finish()
        runs += 1
        if not problems:
            differing = differences(run.result(), unbroken[which])
            equal += not differing
            problems += [f"{run.out} differs from the unbroken run in {name}" for name in differing]
            problems += [f"{path} was left behind" for path in run.leftovers()]
    return {
        "signal": asked.signal,
        "twice": asked.twice,
        "kills": kills,
        "kills_while_writing": kills_while_writing,
        "runs": runs,
        "bitwise_equal": equal,
        "problems": problems,
    }


def _break(
    run: SmallRun, numbers: list[signal.Signals], duration_s: float, chance: random.Random, problems: list[str]
) -> tuple[bool, bool]:
    """Start once and kill once; whether it was killed, and whether something was being written then."""
    before = run.saved_step
    process = run.start()
    if chance.random() < 0.5:
        time.sleep(chance.uniform(0, duration_s))
    else:
        time.sleep(chance.uniform(0, duration_s / 2))
        wait_until_it_writes(process, run.out, patience_s=duration_s)
        time.sleep(chance.uniform(0, LONGEST_PAUSE_WHILE_WRITING_S))
    for number in numbers:
        kill(process, number)
        if len(numbers) > 1:
            time.sleep(chance.uniform(0, LONGEST_PAUSE_WHILE_WRITING_S))
    code = exit_code(process)
    while_writing = bool(run.leftovers())
    if code == 0:
        return False, False
    last = numbers[-1]
    expected = {-last} if last == signal.SIGKILL else {SAVED_AND_ENDED, -last}
    if code not in expected:
        problems.append(f"{run.out} ended with {code}: {run.log()}")
    if run.saved_step < before:
        problems.append(f"{run.out} lost its checkpoint of step {before}")
    return True, while_writing


def _is_finished(run: SmallRun) -> bool:
    path = run.out / "run.json"
    return path.is_file() and json.loads(path.read_text("utf-8"))["result"]["status"] == "finished"


if __name__ == "__main__":
    sys.exit(main())
