"""The training engine on this machine: The Hugging Face `Trainer` example, a well-tuned `Trainer`, and ours.

    python benchmarks/train.py TEXTS_FOLDER --model GPT2_124M_FOLDER [--sets titles-hn jsonl-gsm8k ...]

TEXTS_FOLDER holds one folder for each set. Every side runs in a process of its own, one after the other. Two questions:

- Tokens per second for each token that is computed: windows of 512 tokens with nothing padded.
- Useful tokens per second, those that are text and are learned from: the `Trainer` example pads or cuts every sample to
  512 tokens; ours packs them.

`Trainer` is timed from the end of its first micro-batch to the end of its fifth, one optimizer step among them. Ours
is `tunesmith train` at its defaults, timed from the end of its warm-up steps to its end. Peak memory is that of the
whole process. The machine's peak is the best of a few bf16 matrix products.
"""

import argparse
import csv
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from record import RESULTS, keep

WARM_UP_STEPS = 2
FULL_WINDOWS = "full windows"


def main() -> None:
    """Measure all sides and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=["titles-hn", "jsonl-gsm8k", "tinyshakespeare", "novels-a"])
    parser.add_argument("--add", action="store_true", help="measure only --sets and add them to the kept result")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(SIDES[arguments.side](arguments.texts, arguments.model)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        before = json.loads((RESULTS / "train.json").read_text("utf-8")) if arguments.add else {}
        results: dict[str, dict[str, Any]] = before.get("sets", {})
        peak = before.get("peak_bf16_flops_per_s") or in_own_process("peak", arguments.texts, arguments.model)["peak"]
        print(f"peak {peak / 1e9:.0f} GFLOP/s", flush=True)
        windows = folder / "windows.jsonl"
        write_jsonl(windows, full_windows(arguments.texts / "novels-a", arguments.model))
        plan = {} if arguments.add else {FULL_WINDOWS: (windows, ["example", "tuned", "ours", "ours compiled"])}
        for set_name in arguments.sets:
            path = folder / f"{set_name}.jsonl"
            write_jsonl(path, samples_of(arguments.texts / set_name))
            plan[set_name] = (path, ["example", "ours"])
        for set_name, (path, sides) in plan.items():
            results[set_name] = {}
            for side in sides:
                results[set_name][side] = in_own_process(side, path, arguments.model)
                print(set_name, side, results[set_name][side], flush=True)
    print(keep("train", {"peak_bf16_flops_per_s": peak, "sets": results, "ratios": ratios(results, peak)}))


def ratios(results: dict[str, dict[str, Any]], peak: float) -> dict[str, Any]:
    """What is compared."""
    full = results[FULL_WINDOWS]
    ours = full["ours"]
    return {
        "per_computed_token_against_example": ours["tokens_per_s"] / full["example"]["tokens_per_s"],
        "per_computed_token_against_tuned": ours["tokens_per_s"] / full["tuned"]["tokens_per_s"],
        "memory_against_example": ours["peak_memory_bytes"] / full["example"]["peak_memory_bytes"],
        "share_of_peak": {side: some["tokens_per_s"] * some["flops_per_token"] / peak for side, some in full.items()},
        "useful_tokens_against_example": {
            name: sides["ours"]["useful_tokens_per_s"] / sides["example"]["useful_tokens_per_s"]
            for name, sides in results.items()
            if name != FULL_WINDOWS
        },
    }


def in_own_process(side: str, text: Path, model: Path) -> dict[str, Any]:
    """Run one side."""
    command = [sys.executable, __file__, str(text), "--model", str(model), "--side", side]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode:
        raise RuntimeError(answer.stderr)
    result: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    return result


def samples_of(folder: Path) -> list[str]:
    """The samples of a set as a user of the `Trainer` example would have them: lines, rows, or whole files."""
    (first, *others) = sorted(path for path in folder.iterdir() if path.is_file())
    if others:
        return [path.read_text("utf-8-sig") for path in (first, *others)]
    if first.suffix == ".jsonl":
        rows = [json.loads(line) for line in first.read_text("utf-8").splitlines()]
        return ["\n".join(str(value) for value in row.values()) for row in rows]
    if first.suffix == ".csv":
        with first.open(encoding="utf-8", newline="") as file:
            return [row["text"] for row in csv.DictReader(file)]
    return [line for line in first.read_text("utf-8").splitlines() if line.strip()]


def full_windows(folder: Path, model: Path) -> list[str]:
    """Texts of 511 tokens, which with their end-of-text fill a window of 512."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    windows: list[str] = []
    for text in samples_of(folder)[:3]:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        windows += [tokenizer.decode(ids[start : start + 511]) for start in range(0, len(ids) - 511, 511)]
    return windows


def write_jsonl(path: Path, texts: list[str]) -> None:
    """One {"text": ...} a line."""
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")


def read_jsonl(path: Path) -> list[str]:
    """Back again."""
    return [json.loads(line)["text"] for line in path.read_text("utf-8").splitlines()]


def peak_side(_text: Path, _model: Path) -> dict[str, Any]:
    """The machine's best bf16 matrix product."""
    import torch

    best = 0.0
    for m, k, n in ((2048, 768, 3072), (2048, 2048, 2048), (4096, 4096, 4096)):
        a_MK, b_NK = torch.randn(m, k).bfloat16(), torch.randn(n, k).bfloat16()
        out_MN = torch.empty(m, n, dtype=torch.bfloat16)
        for _ in range(2):
            torch.mm(a_MK, b_NK.t(), out=out_MN)
        repeats = max(int(4e11 / (2 * m * k * n)), 1)
        for _ in range(3):
            started_s = time.perf_counter()
            for _ in range(repeats):
                torch.mm(a_MK, b_NK.t(), out=out_MN)
            best = max(best, 2 * m * k * n * repeats / (time.perf_counter() - started_s))
    return {"peak": best}


def example_side(text: Path, model: Path) -> dict[str, Any]:
    """The `Trainer` example."""
    import trainer_example

    with tempfile.TemporaryDirectory() as out:
        samples = read_jsonl(text)[:40]
        made, tokenizer = trainer_example.trainer(
            model, samples, samples[:1], Path(out), eval_strategy="no", max_steps=5
        )
        whole = read_jsonl(text)
        # Padding is masked out of the loss, the padded end-of-text with it: these are the tokens that are learned from.
        lengths = [len(ids) for ids in tokenizer(whole)["input_ids"]]
        kept = [min(length, trainer_example.PADDED_TOKENS) for length in lengths]
        seconds, computed = timed(made, trainer_example.BATCH_SAMPLES * trainer_example.PADDED_TOKENS)
    useful = computed / trainer_example.PADDED_TOKENS * sum(kept) / len(kept)
    return {**side_result(model, computed, seconds, useful), "learned_share": sum(kept) / sum(lengths)}


def tuned_side(text: Path, model: Path) -> dict[str, Any]:
    """The well-tuned `Trainer`."""
    import trainer_example
    import tuned_trainer

    with tempfile.TemporaryDirectory() as out:
        made = tuned_trainer.trainer(model, read_jsonl(text)[:80], Path(out), max_steps=2)
        seconds, computed = timed(made, trainer_example.BATCH_SAMPLES * trainer_example.PADDED_TOKENS)
    return side_result(model, computed, seconds, computed)


class Stopped(Exception):  # noqa: N818  no error
    """Enough was measured."""


def timed(trainer: Any, tokens_per_batch: int) -> tuple[float, int]:
    """Seconds and tokens from the end of the first micro-batch to the end of the fifth."""
    from transformers import TrainerCallback

    ends_s: list[float] = []

    class Clock(TrainerCallback):
        def on_substep_end(self, *_arguments: Any, **_others: Any) -> None:
            ends_s.append(time.perf_counter())
            if len(ends_s) == 5:
                raise Stopped

        on_step_end = on_substep_end

    trainer.add_callback(Clock())
    try:
        trainer.train()
    except Stopped:
        return ends_s[-1] - ends_s[0], 4 * tokens_per_batch
    raise AssertionError("there were fewer than five micro-batches")


def ours_side(text: Path, model: Path, *, compiled: bool = False) -> dict[str, Any]:
    """`tunesmith train` at its defaults."""
    from tunesmith.config import TrainConfig
    from tunesmith.training.events import Event, RunStarted, StepLogged
    from tunesmith.training.train import train
    from tunesmith.utils.device import keep_freed_memory

    keep_freed_memory()  # as the command line does
    steps: list[tuple[float, StepLogged]] = []
    plans: list[RunStarted] = []

    def watch(event: Event) -> None:
        if isinstance(event, RunStarted):
            plans.append(event)
        if isinstance(event, StepLogged):
            steps.append((time.perf_counter(), event))

    with tempfile.TemporaryDirectory() as out:
        config = TrainConfig(
            (str(text),),
            out=f"{out}/run",
            model=str(model),
            split_on="auto",
            val_fraction=0.01,
            quiet=True,
            max_steps=max_steps_of(text),
            tokens_per_step=8192 if text.stem == "windows" else "auto",
            compile="yes" if compiled else "no",
        )
        train(config, on_event=watch)
    (first_s, first), (last_s, last) = steps[WARM_UP_STEPS - 1], steps[-1]
    plan = plans[0].plan
    useful = last.tokens - first.tokens
    n_steps = last.step - first.step
    computed = n_steps * plan.micro_batches_per_step * plan.tokens_per_micro_batch
    return {
        **side_result(model, computed, last_s - first_s, useful),
        "tokens_per_step": plan.tokens_per_step,
        "full": useful / computed,
    }


def max_steps_of(text: Path) -> int:
    """Enough for half a minute and more behind the warm-up."""
    size = text.stat().st_size
    return WARM_UP_STEPS + (40 if size < 300_000 else 16 if "shakespeare" in text.stem else 4)


def side_result(model: Path, computed: int, seconds: float, useful: float) -> dict[str, Any]:
    """Rates, memory, and the arithmetic of a token."""
    shape = json.loads((model / "config.json").read_text("utf-8"))
    layers, width = shape["n_layer"], shape["n_embd"]
    parameters = layers * 12 * width**2 + shape["vocab_size"] * width
    return {
        "seconds": seconds,
        "tokens_per_s": computed / seconds,
        "useful_tokens_per_s": useful / seconds,
        "flops_per_token": 6 * parameters + 12 * layers * width * 512,
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


SIDES = {
    "peak": peak_side,
    "example": example_side,
    "tuned": tuned_side,
    "ours": ours_side,
    "ours compiled": lambda text, model: ours_side(text, model, compiled=True),
}


if __name__ == "__main__":
    main()
