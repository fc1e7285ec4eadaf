"""Stages of cases, each worked through in a process of its own, one JSON line for each case as soon as it ends.

A fault on a GPU ends the process that met it, and a hang its time limit; the cases behind it go on in a new process.
Where processes can be forked, torch is imported once, before the first of them; nothing in this one touches the GPU.
"""

import gc
import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

Result = dict[str, Any]
STATUSES = ("done", "pass", "fail", "error", "died", "timeout", "skipped")
"""`done` measured something, `pass` and `fail` answered a question; the others say why there is no answer."""
STICKY_SIGNS = ("CUDA error", "CUDA driver error", "device-side assert", "CUBLAS_STATUS_EXECUTION_FAILED")
"""After these errors a process cannot use the GPU any more."""
CLOSING_S = 5.0


@dataclass(frozen=True)
class Setting:
    """Where the cases run.

    Attributes:
        device: as torch calls it; on a CPU everything is tiny.
        folder: for files that are not results.
        compiles: whether cases that need the compiler run on a CPU, too.
    """

    device: str
    folder: Path
    compiles: bool = True

    @cached_property
    def torch_device(self) -> torch.device:
        """The device."""
        return torch.device(self.device)

    @property
    def is_gpu(self) -> bool:
        """Whether this is a GPU."""
        return self.torch_device.type == "cuda"


def anything(_setting: Setting) -> str:
    """For `Case.needs`: nothing is missing."""
    return ""


@dataclass(frozen=True)
class Case:
    """One measurement or one question.

    Attributes:
        name: unique in its stage.
        work: does it and returns what goes into its line; `status` is `done` unless the result says otherwise.
        needs: why it cannot run in a setting; an empty text where it can.
    """

    name: str
    work: Callable[[Setting], Result]
    needs: Callable[[Setting], str] = anything


@dataclass(frozen=True)
class Stage:
    """Cases that belong together.

    Attributes:
        name: unique.
        cases: in order of worth.
        least_s: what is left of the budget must be at least this for another case to begin.
        limit_s: longest that a case may take.
        is_isolated: whether each case has a process of its own, with memory that no other has used.
        asks: whether the cases are questions: an exception is then an answer, `fail`.
    """

    name: str
    cases: Sequence[Case]
    least_s: float
    limit_s: float
    is_isolated: bool = False
    asks: bool = False


def a_gpu(setting: Setting) -> str:
    """For `Case.needs`."""
    return "" if setting.is_gpu else "needs a GPU"


def a_compiler(setting: Setting) -> str:
    """For `Case.needs`."""
    return "" if setting.is_gpu or setting.compiles else "needs a GPU: compiling for a CPU was left out"


class Journal:
    """The lines of a run, appended to a file and flushed one by one.

    Args:
        path: of the JSON Lines file; made anew.
        budget_s: of the whole run.
    """

    def __init__(self, path: Path, budget_s: float) -> None:
        self._path, self._started_s, self._budget_s = path, time.monotonic(), budget_s
        self.counts = dict.fromkeys(STATUSES, 0)
        path.write_text("", encoding="utf-8")

    @property
    def left_s(self) -> float:
        """Of the budget."""
        return self._budget_s - (time.monotonic() - self._started_s)

    def add(self, stage: str, case: str, result: Result, seconds: float = 0.0) -> None:
        """One line."""
        status = result.get("status", "done")
        self.counts[status] += 1
        at_s = round(self._budget_s - self.left_s, 1)
        line = {"stage": stage, "case": case, "seconds": round(seconds, 2), "at_s": at_s, **result, "status": status}
        text = json.dumps(line, default=str)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        print(text if len(text) <= 400 else f"{text[:400]}...", flush=True)


def run_stage(stage: Stage, setting: Setting, journal: Journal) -> None:
    """Every case of a stage, or the reason why it did not run."""
    waiting = []
    for case in stage.cases:
        reason = case.needs(setting)
        if reason:
            journal.add(stage.name, case.name, {"status": "skipped", "reason": reason})
        else:
            waiting.append(case)
    while waiting:
        if journal.left_s < stage.least_s:
            for case in waiting:
                journal.add(stage.name, case.name, {"status": "skipped", "reason": "no time left"})
            return
        together = waiting[:1] if stage.is_isolated else waiting
        waiting = waiting[_in_child(stage, together, setting, journal) :]


def _in_child(stage: Stage, cases: Sequence[Case], setting: Setting, journal: Journal) -> int:
    """Work through cases in one process until it ends; how many of them have a line now, at least one."""
    method = "fork" if sys.platform == "linux" and not torch.cuda.is_initialized() else "spawn"
    context = multiprocessing.get_context(method)
    receiving, sending = context.Pipe(duplex=False)
    child = context.Process(target=_work_through, args=(stage, cases, setting, sending))  # type: ignore[attr-defined]
    child.start()
    sending.close()
    answered = 0
    for case in cases:
        if answered and journal.left_s < stage.least_s:
            break
        began_s = time.monotonic()
        if not receiving.poll(max(min(stage.limit_s, journal.left_s), 0.1)):
            journal.add(stage.name, case.name, {"status": "timeout"}, time.monotonic() - began_s)
            answered += 1
            break
        try:
            result, seconds = receiving.recv()
        except EOFError:
            child.join(CLOSING_S)
            if answered and child.exitcode == 0:  # it left after a fault, with the case before this one answered
                break
            reason = {"status": "died", "exit_code": child.exitcode}
            journal.add(stage.name, case.name, reason, time.monotonic() - began_s)
            answered += 1
            break
        journal.add(stage.name, case.name, result, seconds)
        answered += 1
    else:
        child.join(CLOSING_S)
    _end(child)
    receiving.close()
    return answered


def _end(child: Any) -> None:
    """The child and what it started: they have a process group of their own where there are such."""
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
    if child.is_alive():
        child.kill()
    child.join()


def _work_through(stage: Stage, cases: Sequence[Case], setting: Setting, sending: Connection) -> None:
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
    for case in cases:
        began_s = time.monotonic()
        result, is_over = _answer(case, stage, setting)
        sending.send((result, time.monotonic() - began_s))
        if is_over:
            break
    sending.close()
    sys.stdout.flush()
    os._exit(0)  # without waiting for threads, or for a GPU that does not answer


def _answer(case: Case, stage: Stage, setting: Setting) -> tuple[Result, bool]:
    """A case's result, and whether the process should do nothing more."""
    _clear(setting)
    try:
        result = case.work(setting)
    except BaseException as error:  # noqa: BLE001  whatever it is, the other cases go on
        status = "fail" if stage.asks else "error"
        message = f"{type(error).__name__}: {error}"[:600]
        where = "".join(traceback.format_tb(error.__traceback__))[-900:]
        return {"status": status, "error": message, "traceback": where}, any(s in message for s in STICKY_SIGNS)
    return {"status": "pass" if stage.asks else "done", **result}, False


def _clear(setting: Setting) -> None:
    """Let a case begin with free memory and peaks of its own."""
    gc.collect()
    if setting.is_gpu and torch.cuda.is_initialized():
        with suppress(RuntimeError):
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()
        sys.modules["torch._dynamo"].utils.counters.clear()
