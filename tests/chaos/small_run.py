"""A small real training run in a process of its own, for programs that break runs: started as a user would start it.

Processes are forked from one that has imported torch, so that starting one takes a tenth of a second instead of five.
"""

import contextlib
import json
import os
import shutil
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # the first step would import it, in every process anew

from tunesmith.cli import main
from tunesmith.model.gpt2 import GPT2
from tunesmith.model.hf_checkpoint import save_gpt2
from tunesmith.model.hf_config import parse_hf_config, read_hf_config
from tunesmith.model.hub import local_folder
from tunesmith.run_dir import RunDir
from tunesmith.training.checkpoint import verify_checksums

VARIANTS: tuple[tuple[str, ...], ...] = (
    ("--save-steps", "1", "--eval-steps", "3"),
    ("--save-steps", "3", "--eval-steps", "2", "--dropout", "0.1"),
    ("--save-steps", "2", "--eval-steps", "4", "--lora-r", "4", "--dropout", "0.1"),
    ("--save-steps", "4", "--eval-steps", "4", "--keep-gb", "0.002"),
)
STEPS = 16
INTERRUPTED, CRASHED = 130, 70
UNTIMED = ("tokens_per_s", "eta_s", "peak_memory_bytes", "training_s", "data_wait_s", "elapsed_s")


def make_world(folder: Path) -> tuple[Path, Path]:
    """A text of sixty lines and a GPT-2 of two narrow blocks with tiny's tokenizer."""
    text = folder / "log.txt"
    text.write_text("".join(f"Night {number}. Wind {number % 7}, lamp steady.\n" for number in range(60)), "utf-8")
    tiny, model = local_folder("tiny"), folder / "model"
    model.mkdir()
    hf_config = {**read_hf_config(tiny), "n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": None}
    gpt2 = GPT2(parse_hf_config(hf_config, origin="the small model"))
    gpt2.initialize(torch.Generator().manual_seed(0))
    save_gpt2(gpt2, model, hf_config=hf_config)
    for path in tiny.glob("*token*.json"):
        shutil.copyfile(path, model / path.name)
    return text, model


@dataclass
class SmallRun:
    """A run of one variant in its folder, started again as often as it takes.

    Attributes:
        text: to learn.
        model: to begin with.
        out: the run folder.
        variant: flags.
        environment: variables of its processes.
        at_the_end: called in them before they end.
    """

    text: Path
    model: Path
    out: Path
    variant: tuple[str, ...]
    environment: dict[str, str]
    at_the_end: Callable[[], object] = lambda: None

    def start(self) -> int:
        """Begin, or resume where there is something to resume; the number of the process."""
        if (self.out / "run.json").is_file():
            arguments = ["train", "--resume", "--out", str(self.out)]
        else:
            arguments = ["train", str(self.text), "--model", str(self.model), "--out", str(self.out), *self.variant]
            arguments += ["--epochs", "10", "--max-steps", str(STEPS), "--tokens-per-step", "200", "--device", "cpu"]
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # none is lost between here and there
        process = os.fork()
        if process == 0:
            descriptor = os.open(self.out.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            os.environ.update(self.environment)
            code = _code_of(arguments, before)
            self.at_the_end()
            os._exit(code)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return process

    def finish(self) -> None:
        """Run to the end.

        Raises:
            RuntimeError: if it fails.
        """
        code = self.once()
        if code:
            raise RuntimeError(f"{self.out} ended with {code}: {self.log()}")

    def once(self) -> int:
        """Begin or resume; the exit code."""
        return exit_code(self.start())

    def log(self) -> str:
        """What its processes wrote to the terminal."""
        return self.out.with_suffix(".log").read_text("utf-8", errors="replace")[-2000:]

    @property
    def saved_step(self) -> int:
        """Of the newest checkpoint; all of them have to be whole.

        Raises:
            DamagedError: if one is not.
        """
        folders = RunDir(self.out).checkpoints()
        for folder in folders:
            verify_checksums(folder)
        return int(folders[-1].name.removeprefix("step-")) if folders else 0

    def result(self) -> dict[str, Any]:
        """All that has to be the same however often the run was broken."""
        last = self.out / "checkpoints" / f"step-{STEPS:08d}"
        files = [self.out / name for name in ("model.safetensors", "samples.jsonl")]
        files += [last / f"{name}.safetensors" for name in ("model", "optimizer", "random")]
        files += sorted(last.glob("adapter/*.safetensors"))
        lines = (self.out / "metrics.jsonl").read_text("utf-8").splitlines()
        metrics = [
            {key: value for key, value in json.loads(line).items() if key not in UNTIMED}
            for line in lines
            if json.loads(line)["kind"] not in {"checkpoint_failed", "system"}
        ]
        return {"metrics": metrics, **{str(path.relative_to(self.out)): path.read_bytes() for path in files}}

    def leftovers(self) -> list[str]:
        """Half-written things that nobody will ever sweep."""
        return [str(path) for path in self.out.rglob(".*.tmp")]


def _code_of(arguments: list[str], unblocked: set[int]) -> int:
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
        return main([*arguments, "--quiet", "--json"])
    except KeyboardInterrupt:  # before the command line began, or after it ended
        return INTERRUPTED
    except BaseException:  # noqa: BLE001  nothing may get back into the program that forked
        traceback.print_exc()
        return CRASHED


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """What is not bitwise the same in two results."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def exit_code(process: int) -> int:
    """Wait for the end of a process; killed ones give minus the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def has_ended(process: int) -> bool:
    """Whether it has, without waiting and without taking its exit code."""
    return os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def wait_until_it_writes(process: int, out: Path, *, patience_s: float) -> None:
    """Until something half-written appears in the run folder, the process ends, or patience does."""
    until_s = time.monotonic() + patience_s
    while time.monotonic() < until_s and not has_ended(process):
        if any(out.glob("checkpoints/.step*.tmp")) or any(out.glob(".*.tmp")):
            return
        time.sleep(0.0002)


def kill(process: int, number: signal.Signals) -> None:
    """Send a signal; a process that has ended is no error."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, number)
