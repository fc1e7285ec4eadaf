"""Rehearse: `python tests/rehearsal run < cases.json` for the tests, `python tests/rehearsal table` for people."""

import gc
import json
import os
import sys
import time
import warnings

import backend
from build import CannotBuildError, built_library

GIB = 1 << 30
CANNOT_BUILD = 3
"""Exit code where there is no compiler, or torch has CUDA of its own."""
TABLE = [
    {
        "kind": "train",
        "gpu": "RTX 4070 Ti",
        "vram": "12GB",
        "model": model,
        "step_tokens": step,
        "evaluates": True,
        "compiled": is_compiled,
    }
    for model in ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
    for step in (1024, 32_768)
    for is_compiled in (False, True)
]


def main() -> None:
    """One process, one import of torch."""
    what = sys.argv[1] if len(sys.argv) > 1 else "table"
    try:
        backend.load(str(built_library()))
    except CannotBuildError as error:
        print(error, file=sys.stderr)
        sys.exit(CANNOT_BUILD)
    warnings.simplefilter("ignore")
    import torch

    torch.set_num_threads(1)
    backend.pretend(lambda name, tensors: watch.launched(name, tensors))  # noqa: PLW0108  it is not there yet
    from cases import run, watch

    torch._subclasses.FakeTensor.is_pinned = lambda tensor, *_: watch.is_pinned(tensor)

    gc.collect()
    gc.freeze()  # what is imported is not searched for garbage before each case

    if what == "run":
        cases = json.load(sys.stdin)
        results = []
        for case in cases:
            begun = time.process_time()
            results.append({**run(case), "cpu_s": round(time.process_time() - begun, 2)})
        print(json.dumps(results))
    else:
        table([run(case) for case in TABLE])
    sys.stdout.flush()
    os._exit(0)  # autograd's threads for devices that are not there are not joined


def table(results: list[dict]) -> None:
    """As Markdown."""
    print(
        "| Model | Tokens per step | Plan | Compiled | Planned GiB | Peak GiB | Off | Evaluation GiB | Budget GiB"
        " | Host syncs | Launches |"
    )
    print("| --- " * 11 + "|")
    for result in results:
        case = result["case"]
        if "error" in result:
            print(f"| {case['model']} | {case['step_tokens']:,} | {result['error'][:100]} |")
            continue
        planned, peak = result["planned_bytes"], result["peak_bytes"]
        plan = f"{case['memory_mode']}, {case['activation_checkpointing']}, {case['micro_batches']}x{case['tokens']}"
        compiled = "yes" if case["compiled"] else "no"
        figures = (
            f"{planned / GIB:.2f} | {peak / GIB:.2f} | {peak / planned - 1:+.1%}",
            f"{result['evaluation']['peak_bytes'] / GIB:.2f}",
            f"{(case['budget_bytes'] - case['workspace_bytes']) / GIB:.2f}",
            str(sum(result["syncs"].values())),
            f"{result['launches']:,}",
        )
        print(
            f"| {case['model']} | {case['step_tokens']:,} | {plan} | {compiled} | {' | '.join(figures)} |", flush=True
        )


main()
