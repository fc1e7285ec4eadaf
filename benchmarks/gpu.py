"""Everything that only a GPU can show, in one program of six minutes: most important first, nothing lost by a fault.

    python benchmarks/gpu.py FOLDER                      on a GPU, from the repository
    python benchmarks/gpu.py FOLDER --device cpu         the same stages, tiny, to see that they run

Each result is appended to `FOLDER/gpu.jsonl` as soon as it is there, one JSON object a line: `stage`, `case`, `status`
(`done`, `pass`, `fail`, `error`, `died`, `timeout` or `skipped`, these with the reason), `seconds`, and what was
measured. Cases run in processes of their own, so that an error of CUDA, a crash or a hang ends one case and no other.
What the time does not suffice for is skipped, and said so. `python benchmarks/render.py` makes tables of a file that
was put into `benchmarks/results/`.

It runs from a source tree that is not installed. What it needs beside PyTorch, Triton and transformers is tokenizers,
safetensors, numpy, rich, attrs, psutil, filelock, xxhash, jinja2, pyyaml, pytest and hypothesis,
which most machines with PyTorch have, and cyclopts with docstring-parser. On a machine without a network carry the
last two as wheels, 330 kB that fit any Python:

    pip download --no-deps --dest wheels cyclopts docstring-parser
    python3 -m pip install --no-index --no-deps --target site wheels/*.whl
    PYTHONPATH=src:site python3 benchmarks/gpu.py FOLDER

`--missing` says which packages a machine lacks.
"""

import argparse
import os
import sys
import tempfile
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

NEEDED = (
    "attr",
    "cyclopts",
    "docstring_parser",
    "filelock",
    "hypothesis",
    "jinja2",
    "numpy",
    "psutil",
    "pytest",
    "rich",
    "safetensors",
    "tokenizers",
    "torch",
    "transformers",
    "xxhash",
    "yaml",
)
"""Modules without which some stage ends in an error."""
BUDGET_S = 345.0
FILE = "gpu.jsonl"


def main() -> None:
    """Run the stages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help=f"gets {FILE}")
    parser.add_argument("--device", default="cuda", help="cuda, or cpu for a dry run")
    parser.add_argument("--seconds", type=float, default=BUDGET_S, help="budget of the whole run; default 345")
    parser.add_argument("--only", nargs="+", metavar="STAGE", help="these stages, in their usual order")
    parser.add_argument("--no-compile", action="store_true", help="leave out on a CPU what has to be compiled")
    parser.add_argument("--missing", action="store_true", help="print the packages that are missing, and stop")
    arguments = parser.parse_args()
    missing = [name for name in NEEDED if find_spec(name) is None]
    if arguments.missing:
        print(" ".join(missing))
        return
    arguments.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        os.environ.update(
            {
                "TUNESMITH_CACHE": str(Path(scratch, "cache")),
                "HF_HUB_OFFLINE": "1",
                "TORCHINDUCTOR_CACHE_DIR": str(Path(scratch, "inductor")),  # what compiling takes the first time
                "TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS": "0",  # on a CPU they take longer than they save here
                "TRITON_CACHE_DIR": str(Path(scratch, "triton")),
                "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # what deterministic matrix products ask for
                "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # asking whether there is a GPU starts nothing on it
                "TOKENIZERS_PARALLELISM": "false",
            }
        )
        run(arguments, missing, Path(scratch))


def run(arguments: argparse.Namespace, missing: list[str], scratch: Path) -> None:
    """Every stage that was asked for; torch is imported here, after the settings of its allocator."""
    from tunesmith.utils.device import configure_allocators

    configure_allocators()

    from gpu_stages import generation, kernels, programs, switches, training, traps
    from gpu_stages.running import Journal, Setting, Stage, run_stage

    stages = (
        Stage("facts", kernels.FACTS, 2, 30, is_isolated=True),
        Stage("kernels", kernels.KERNELS, 5, 40),
        Stage("attention", kernels.ATTENTION, 5, 30),
        Stage("tests", programs.GPU_TESTS, 25, 110),
        Stage("training", training.TRAINING, 15, 90, is_isolated=True),
        Stage("in 12 GB", training.IN_12_GB, 10, 40, is_isolated=True),
        Stage("traps", traps.TRAPS, 5, 60, asks=True),
        Stage("out of memory", training.OUT_OF_MEMORY, 5, 30),
        Stage("engines", generation.ENGINES, 8, 70, asks=True),
        Stage("decoding", generation.DECODING, 10, 60),
        Stage("switches", switches.SWITCHES, 5, 45),
        Stage("command line", programs.COMMANDS, 15, 100, is_isolated=True),
        Stage("trainer", programs.TRAINER, 20, 100, is_isolated=True),
        Stage("in 12 GB, compiled", training.IN_12_GB_COMPILED, 40, 90, is_isolated=True),
    )
    unknown = set(arguments.only or ()) - {stage.name for stage in stages}
    if unknown:
        sys.exit(f"no such stage: {', '.join(sorted(unknown))}; there are {', '.join(stage.name for stage in stages)}")
    setting = Setting(arguments.device, scratch, compiles=not arguments.no_compile)
    journal = Journal(arguments.folder / FILE, arguments.seconds)
    journal.add(
        "run",
        "program",
        {
            "date": datetime.now(UTC).date().isoformat(),
            "device": arguments.device,
            "budget_s": arguments.seconds,
            "missing_packages": missing,
        },
    )
    for stage in stages:
        if not arguments.only or stage.name in arguments.only:
            run_stage(stage, setting, journal)
    print(", ".join(f"{count} {status}" for status, count in journal.counts.items() if count))


if __name__ == "__main__":
    main()
