"""The `Trainer` example against tunesmith: same base model, same text, same epochs, one independent evaluator.

    python benchmarks/trainer_quality.py TITLES.txt [--model tiny] [--epochs 3]

Lines are split 90/10 once. `Trainer` gets the 90 % as in the example; tunesmith gets the same 90 % and takes its own
validation samples out of it, so it learns from less. Both are scored on the untouched 10 % by `scoring.py`, with
end-of-text counted. Ours runs twice: as it decides by itself, and at the example's learning rate.
"""

import argparse
import random
import tempfile
from pathlib import Path
from typing import Any

import trainer_example
from record import keep
from scoring import score, share_that_ends

import tunesmith
from tunesmith.model.hub import local_folder
from tunesmith.utils.device import keep_freed_memory


def main() -> None:
    """Measure both sides and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("titles", type=Path)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--most-lines", type=int, default=None, help="use only so many lines")
    parser.add_argument("--keep-as", default="trainer_quality", help="name of the result")
    arguments = parser.parse_args()
    keep_freed_memory()  # for both sides, in one process
    lines = [line for line in arguments.titles.read_text("utf-8").splitlines() if line.strip()]
    random.Random(42).shuffle(lines)
    lines = lines[: arguments.most_lines]
    n_val = len(lines) // 10
    val_lines, train_lines = lines[:n_val], lines[n_val:]
    base = local_folder(arguments.model)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "train.txt").write_text("\n".join(train_lines) + "\n", encoding="utf-8")
        sides: dict[str, dict[str, Any]] = {"base model": {"score": score(base, val_lines)}}
        for name, options in {"tunesmith": {}, "tunesmith at 5e-5": {"learning_rate": 5e-5}}.items():
            out = work / name
            result = tunesmith.train(
                work / "train.txt",
                model=arguments.model,
                out=out,
                epochs=float(arguments.epochs),
                quiet=True,
                **options,
            )
            sides[name] = _side(out, val_lines, result.duration_s)
        seconds = trainer_example.train(base, train_lines, val_lines, work / "example", epochs=arguments.epochs)
        sides["`Trainer` example"] = _side(work / "example" / "model", val_lines, seconds)
    for name, side in sides.items():
        print(name, side)
    times_faster = sides["`Trainer` example"]["seconds"] / sides["tunesmith"]["seconds"]
    print(f"tunesmith took {times_faster:.1f} times less time")
    path = keep(
        arguments.keep_as,
        {
            "model": Path(arguments.model).name,
            "epochs": arguments.epochs,
            "train_lines": len(train_lines),
            "val_lines": len(val_lines),
            "sides": sides,
            "times_faster": times_faster,
        },
    )
    print(path)


def _side(model_folder: Path, val_lines: list[str], seconds: float) -> dict[str, Any]:
    return {
        "seconds": seconds,
        "score": score(model_folder, val_lines),
        "share_of_samples_that_end": share_that_ends(model_folder),
    }


if __name__ == "__main__":
    main()
