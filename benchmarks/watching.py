"""What watching costs: the same run watched in every way at once, and watched by nobody.

    python benchmarks/watching.py TEXT [--model MODEL --steps 310 --tokens-per-step N --pairs 3]

Watched means: the live screen on a terminal (a pseudo-terminal that somebody reads), the gauges of the machine, the
metrics file, and a tracker that follows it. Watched by nobody means: none of these, not even the metrics file; the
numbers of each step are read from the device all the same, as NaNs are looked for in any run.

The runs alternate, each in a process of its own, in the order with, without, without, with, so that a machine that gets
slower or faster does not favor a side. Timed is from the end of the tenth step to the end of the last but one.
"""

import argparse
import json
import os
import pty
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from record import keep

WARM_UP_STEPS = 10
MOST_ALLOWED = 1.01
WATCHED, UNWATCHED = "watched", "unwatched"


def main() -> None:
    """Measure both sides and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--steps", type=int, default=310)
    parser.add_argument("--tokens-per-step", type=int)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--keep", action="store_true", help="write results/watching.json")
    parser.add_argument("--side", choices=(WATCHED, UNWATCHED), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.side:
        print(json.dumps(_side(asked)))
        return
    measured: dict[str, list[dict[str, Any]]] = {WATCHED: [], UNWATCHED: []}
    for pair in range(asked.pairs):
        for side in sorted(measured, reverse=pair % 2 == 1):
            measured[side].append(_in_a_terminal([sys.executable, *sys.argv, "--side", side]))
            print(f"{side}: {measured[side][-1]['duration_s']:.2f} s", file=sys.stderr)
    with_s, without_s = (sum(run["duration_s"] for run in measured[side]) for side in (WATCHED, UNWATCHED))
    ratios = [
        one["duration_s"] / other["duration_s"]
        for one, other in zip(measured[WATCHED], measured[UNWATCHED], strict=True)
    ]
    result = {
        "model": Path(asked.model).name,
        "steps": asked.steps,
        "tokens_per_step": measured[WATCHED][0]["tokens_per_step"],
        "duration_with_s": with_s,
        "duration_without_s": without_s,
        "ratio": with_s / without_s,
        "ratio_of_each_pair": ratios,
        "within_1_percent": with_s / without_s < MOST_ALLOWED,
    }
    if asked.keep:
        keep("watching", result)
    print(json.dumps(result, indent=2))


def _in_a_terminal(command: list[str]) -> dict[str, Any]:
    """Run with stderr on a pseudo-terminal, whose other end reads everything; the answer comes on stdout."""
    ours, theirs = pty.openpty()
    reader = threading.Thread(target=_read_all, args=(ours,), daemon=True)
    reader.start()
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=theirs, text=True)
    os.close(theirs)
    reader.join(5)
    os.close(ours)
    found: dict[str, Any] = json.loads(answer.stdout)
    return found


def _read_all(terminal: int) -> None:
    try:
        while os.read(terminal, 1 << 16):
            pass
    except OSError:
        return  # Linux says so when the other end is closed


class _Follower:
    """A tracker that takes everything and keeps nothing: what following costs by itself."""

    def start(self, run: object) -> None:
        """A run begins."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """A line."""

    def sample(self, step: int, prompt: str, text: str) -> None:
        """A text."""

    def finish(self, outcome: Mapping[str, Any], card: str) -> None:
        """The end."""


class _NoWatch:
    """Instead of the gauges."""

    def __init__(self, _card: str) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        pass

    def news(self) -> None:
        """Nothing was read."""


def _side(asked: argparse.Namespace) -> dict[str, Any]:
    import tunesmith
    from tunesmith.run_dir import RunDir
    from tunesmith.training import train
    from tunesmith.training.events import RunStarted, StepLogged
    from tunesmith.ui.progress import Progress
    from tunesmith.utils.device import configure_allocators

    configure_allocators()  # as the command line does
    ends_s: dict[int, float] = {}
    plans = []
    watched = asked.side == WATCHED
    trackers = {"follower": _Follower()} if watched else {}
    train.make_trackers = lambda _names: trackers  # type: ignore[assignment, return-value]
    if not watched:
        train.SystemMonitor = _NoWatch  # type: ignore[assignment, misc]
        RunDir.append = lambda *_nothing: None  # type: ignore[method-assign]

    with tempfile.TemporaryDirectory(prefix="watching-") as folder, Progress(quiet=not watched) as progress:

        def note(event: object) -> None:
            if watched:
                progress.show(event)  # type: ignore[arg-type]
            if isinstance(event, RunStarted):
                plans.append(event.plan)
            if isinstance(event, StepLogged):
                ends_s[event.step] = time.perf_counter()

        tunesmith.train(
            asked.text,
            model=asked.model,
            out=Path(folder) / "run",
            max_steps=asked.steps,
            tokens_per_step=asked.tokens_per_step or "auto",
            save_steps=asked.steps,
            eval_steps=asked.steps,
            on_event=note,
        )
    return {
        "duration_s": ends_s[asked.steps - 1] - ends_s[WARM_UP_STEPS],
        "tokens_per_step": plans[0].tokens_per_step,
    }


if __name__ == "__main__":
    main()
