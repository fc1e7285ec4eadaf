"""What saving costs: the same run that saves every 100 steps, and that saves nothing before its end.

    python benchmarks/saving.py TEXT [--model MODEL --steps 310 --tokens-per-step N --pairs 2]

Without --tokens-per-step the plan decides, as in any run.

The runs alternate, each in a process of its own, in the order with, without, without, with, so that a machine that gets
slower or faster does not favor a side. Timed is from the end of the tenth step to the end of the last but one: the
saves in between are in it, the one at the end, which both make, is not. Also kept: the longest that training stood
still for a save, and the size of a checkpoint.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from record import keep

SAVE_EVERY_STEPS = 100
WARM_UP_STEPS = 10
MOST_ALLOWED = 1.02


def main() -> None:
    """Measure both sides and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--steps", type=int, default=310)
    parser.add_argument("--tokens-per-step", type=int)
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--keep", action="store_true", help="write results/saving.json")
    parser.add_argument("--side", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.side:
        print(json.dumps(_side(asked)))
        return
    measured: dict[int, list[dict[str, Any]]] = {SAVE_EVERY_STEPS: [], asked.steps: []}
    for pair in range(asked.pairs):
        for side in sorted(measured, reverse=pair % 2 == 1):
            command = [sys.executable, *sys.argv, "--side", str(side)]
            answer = subprocess.run(command, check=True, capture_output=True, text=True)
            measured[side].append(json.loads(answer.stdout))
            print(f"saves every {side} steps: {measured[side][-1]['duration_s']:.2f} s", file=sys.stderr)
    with_s, without_s = (sum(run["duration_s"] for run in measured[side]) for side in (SAVE_EVERY_STEPS, asked.steps))
    result = {
        "model": Path(asked.model).name,
        "steps": asked.steps,
        "tokens_per_step": measured[asked.steps][0]["tokens_per_step"],
        "saves_every_steps": SAVE_EVERY_STEPS,
        "duration_with_s": with_s,
        "duration_without_s": without_s,
        "ratio": with_s / without_s,
        "within_2_percent": with_s / without_s < MOST_ALLOWED,
        "longest_pause_s": max(run["longest_pause_s"] for run in measured[SAVE_EVERY_STEPS]),
        "checkpoint_bytes": measured[SAVE_EVERY_STEPS][0]["checkpoint_bytes"],
    }
    if asked.keep:
        keep("saving", result)
    print(json.dumps(result, indent=2))


def _side(asked: argparse.Namespace) -> dict[str, Any]:
    import tunesmith
    from tunesmith.training.events import RunStarted, StepLogged
    from tunesmith.utils.device import configure_allocators

    configure_allocators()  # as the command line does
    ends_s: dict[int, float] = {}
    plans = []

    def note(event: object) -> None:
        if isinstance(event, RunStarted):
            plans.append(event.plan)
        if isinstance(event, StepLogged):
            ends_s[event.step] = time.perf_counter()

    with tempfile.TemporaryDirectory(prefix="saving-") as folder:
        tunesmith.train(
            asked.text,
            model=asked.model,
            out=Path(folder) / "run",
            max_steps=asked.steps,
            tokens_per_step=asked.tokens_per_step or "auto",
            save_steps=asked.side,
            eval_steps=asked.steps,
            on_event=note,
        )
        newest = max((Path(folder) / "run" / "checkpoints").glob("step-*"))
        n_bytes = sum(path.stat().st_size for path in newest.rglob("*") if path.is_file())
    gaps_s = {step: ends_s[step] - ends_s[step - 1] for step in range(WARM_UP_STEPS + 1, asked.steps)}
    behind_saves_s = [gap for step, gap in gaps_s.items() if (step - 1) % asked.side == 0]
    return {
        "duration_s": ends_s[asked.steps - 1] - ends_s[WARM_UP_STEPS],
        "longest_pause_s": max(behind_saves_s, default=0.0) - statistics.median(gaps_s.values()),
        "checkpoint_bytes": n_bytes,
        "tokens_per_step": plans[0].tokens_per_step,
    }


if __name__ == "__main__":
    main()
