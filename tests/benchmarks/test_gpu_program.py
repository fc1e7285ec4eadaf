"""`benchmarks/gpu.py`: a small dry run, stages that fail, and tables of what it writes."""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import tunesmith
from tunesmith.doctor.probes import system
from tunesmith.utils.device import environment

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
STAGES = ("facts", "kernels", "attention", "training", "in 12 GB", "traps", "engines", "switches")
ABSENT = ("babel", "datasets", "docutils", "gigatoken", "platformdirs", "rensa", "rich_rst", "truststore")
"""What a machine with PyTorch and transformers may well not have."""
WITHOUT = f"""
import importlib.metadata, os, runpy, sys
for name in {ABSENT}:
    sys.modules[name] = None
known = importlib.metadata.distribution
def distribution(name):
    if name == "tunesmith":
        raise importlib.metadata.PackageNotFoundError(name)
    return known(name)
importlib.metadata.distribution = distribution
"""
"""A source tree that is not installed, on such a machine."""

Line = dict[str, Any]


def lines_of(folder: Path) -> list[Line]:
    """What the program appended."""
    return [json.loads(line) for line in (folder / "gpu.jsonl").read_text("utf-8").splitlines()]


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A program that sees the source tree only."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    program = [sys.executable, "-c", code, *arguments]
    return subprocess.run(program, env=environ, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def dry_run(tmp_path_factory: pytest.TempPathFactory) -> list[Line]:
    """Lines of a run on the CPU, with nothing that has to be compiled, and without packages that may be missing."""
    folder = tmp_path_factory.mktemp("dry")
    code = f"{WITHOUT}\nsys.argv[0] = {str(BENCHMARKS / 'gpu.py')!r}\nsys.path.insert(0, {str(BENCHMARKS)!r})\n"
    code += "runpy.run_path(sys.argv[0], run_name='__main__')"
    arguments = [str(folder), "--device", "cpu", "--no-compile", "--seconds", "100", "--only", *STAGES]
    done = run(code, *arguments)
    assert done.returncode == 0, done.stderr
    return lines_of(folder)


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module that renders the lines."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("gpu_tables")


@pytest.mark.slow
def test_every_stage_runs_on_a_cpu(dry_run: list[Line]) -> None:
    """Each stage measures or answers something; what needs a GPU says so; nothing ends in an error."""
    broken = [line for line in dry_run if line["status"] in {"error", "died", "timeout"}]
    assert broken == []
    for stage in STAGES:
        assert any(line["stage"] == stage and line["status"] in {"done", "pass"} for line in dry_run), stage
    reasons = {line["reason"] for line in dry_run if line["status"] == "skipped"}
    assert "needs a GPU" in reasons
    assert "no time left" not in reasons


@pytest.mark.slow
def test_the_loss_is_compared_with_double_precision(dry_run: list[Line]) -> None:
    """In fp32 the loss is right to a few units in the last place, and columns that pad the vocabulary get nothing."""
    line = next(line for line in dry_run if line["case"] == "loss, float32")
    for errors in line["errors"].values():
        assert errors["nats"] < 1e-4
        assert errors["gradient"] < 1e-5
        assert errors["padding"] == 0


@pytest.mark.slow
def test_attention_is_compared_with_double_precision(dry_run: list[Line]) -> None:
    """Outputs and gradients in fp32, for each width of a head."""
    lines = [line for line in dry_run if line["stage"] == "attention" and line["case"].startswith("heads")]
    assert len(lines) == 4
    for line in lines:
        kind = line["kinds"]["sdpa per run, fp32"]
        assert max(kind["errors"].values()) < 1e-5
        assert kind["repeats_deterministic"] is True


def test_a_case_that_fails_ends_no_other(tmp_path: Path) -> None:
    """Exceptions, faults of CUDA, crashes and hangs: each gets its line, and those behind it run, in a new process."""
    program = Path(__file__).with_name("failing_stages.py")
    arguments = [sys.executable, str(program), str(BENCHMARKS), str(tmp_path)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    lines = lines_of(tmp_path)
    statuses = {line["case"]: line["status"] for line in lines if line["stage"] == "measures"}
    assert statuses == {
        "needs": "skipped",
        "first": "done",
        "raises": "error",
        "second": "done",
        "faults": "error",
        "third": "done",
        "dies": "died",
        "hangs": "timeout",
        "fourth": "done",
    }
    process = {line["case"]: line["process"] for line in lines if line["stage"] == "measures" and "process" in line}
    assert process["first"] == process["second"]
    assert len(set(process.values())) == 3
    assert [line["status"] for line in lines if line["stage"] == "asks"] == ["pass", "fail"]
    isolated = [line["process"] for line in lines if line["stage"] == "isolated"]
    assert len(set(isolated)) == 2
    (late,) = [line for line in lines if line["stage"] == "late"]
    assert late["reason"] == "no time left"


@pytest.mark.slow
def test_a_dry_run_is_no_measurement(dry_run: list[Line], tables: ModuleType) -> None:
    """Its lines can be rendered, and are not taken for those of a GPU."""
    assert not tables.is_measured_on_gpu(dry_run)
    page = "\n".join(tables.gpu_sections(dry_run))
    for title in ("### Triton kernels", "### Attention", "### Known traps and recovery", "### Without a result"):
        assert title in page
    widths = [len(re.findall(r"(?<!\\)\|", row)) for row in page.splitlines() if row.startswith("| ")]
    assert min(widths) >= 3


def test_without_a_gpu_the_page_says_so_once(tables: ModuleType) -> None:
    """One section says that nothing was measured on a GPU; the committed page has it."""
    page = "\n".join(tables.gpu_sections(None))
    assert page.count("was measured on a GPU") == 1
    assert "## Limitations" in page
    if not (BENCHMARKS / "results" / "gpu.jsonl").exists():
        assert tables.LIMITATIONS in (ROOT / "docs" / "benchmarks.md").read_text("utf-8")


def test_tables_of_a_gpu(tables: ModuleType) -> None:
    """Ratios, errors of the plan and break-even times are those computed by hand."""
    gib = 1 << 30

    def line(stage: str, case: str, status: str = "done", **measured: object) -> Line:
        return {"stage": stage, "case": case, "status": status, **measured}

    step = {"micro_batches": "1 x 16,384", "graphs_warming_up": 1, "graphs_measuring": 0, "launches": 700}
    plan = {
        "checkpointing": "offload",
        "micro_batches": "3 x 10,944",
        "budget_bytes": 11 * gib,
        "planned_bytes": 11 * gib,
        "allocated_peak_bytes": 10 * gib,
        "reserved_peak_bytes": 10.5 * gib,
        "outside_torch_bytes": gib / 2,
        "evaluation_reserved_peak_bytes": 10 * gib,
        "tokens_per_s": 4000.4,
        "mfu": 0.31,
        "loss_first": 11.0,
        "loss_last": 9.5,
    }
    rates = {"no filters": {"ours": 9000.0, "transformers": 3000.0, "ratio": 3.0}}
    switch = {"off": "sort", "on": "kernel", "off_s": 0.0013, "on_s": 0.0002, "ratio": 6.5}
    written = [
        line("run", "program", device="cuda", date="2026-12-01"),
        line("facts", "device", name="NVIDIA H200", capability=[9, 0], total_bytes=140 * gib),
        line("training", "1,024 tokens, as written", tokens_per_s=100_000.0, mfu=0.4, warm_up_s=5.0, **step),
        line("training", "1,024 tokens, compiled", tokens_per_s=125_000.0, mfu=0.5, warm_up_s=41.0, **step),
        line("in 12 GB", "gpt2-xl, bf16-8bit, 32,768", **plan),
        line("decoding", "64 texts", tokens_per_s=rates),
        line("switches", "sampling, 64 texts", **switch),
        line("trainer", "windows of 512, tunesmith", useful_tokens_per_s=200_000.0),
        line("trainer", "windows of 512, Trainer tuned", useful_tokens_per_s=150_000.0),
        line("traps", "C3 offload, compiled", "fail", error="Unsupported: save_on_cpu | skipped"),
        line("traps", "C7 second GPU", "skipped", reason="needs two GPUs"),
    ]
    assert tables.is_measured_on_gpu(written)
    page = "\n".join(tables.gpu_sections(written))
    assert "Limitations" not in page
    for text in (
        "## On a GPU: NVIDIA H200",
        "Machine: NVIDIA H200, compute capability 9.0, 140 GiB",
        "1.25 times as fast as written, and compiling takes 36 s: it pays for runs that take more than 3.0 minutes",
        "| 11.00 | 10.00 | +10.0% | 10.50 | 10.00 | 0.50 | 4,000 | 31% | 11.00 to 9.50 |",
        "| 64 texts | no filters | 9,000 | 3,000 | 3.00 |",
        "| sampling, 64 texts | sort | 1.300 | kernel | 0.200 | 6.50 |",
        "| windows of 512, Trainer tuned | 150,000 | 0.75 |",
        "| traps | C3 offload, compiled | fail | error: Unsupported: save_on_cpu / skipped |",
        "0 of 1 pass.",
        "| traps | C7 second GPU | skipped | needs two GPUs |",
    ):
        assert text in page, text


def test_a_broken_last_line_is_left_out(tmp_path: Path, tables: ModuleType) -> None:
    """A run that was killed while it wrote leaves the lines before that."""
    path = tmp_path / "gpu.jsonl"
    path.write_text('{"stage": "run", "case": "program"}\n{"stage": "facts", "a": {"b": 1}', encoding="utf-8")
    assert [line["stage"] for line in tables.read_lines(path)] == ["run"]


def test_versions_of_a_source_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the package is not installed its own version is known, and no requirement of it is checked."""

    def unknown(name: str) -> str:
        if name == "tunesmith":
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.2.3"

    monkeypatch.setattr(importlib.metadata, "version", unknown)
    monkeypatch.setattr(system, "requires", unknown)
    assert environment()["tunesmith"] == tunesmith.__version__
    assert environment()["torch"] == "1.2.3"
    assert system.packages() == ()


def test_the_command_line_without_packages_that_may_be_missing(tmp_path: Path) -> None:
    """`plan` runs from a source tree where only cyclopts and its parser were added."""
    arguments = ["plan", "--model", "gpt2", "--gpu", "RTX 4070 Ti", "--json"]
    code = f"{WITHOUT}\nos.environ['TUNESMITH_CACHE'] = {str(tmp_path)!r}\n"
    code += "from tunesmith.cli import main\nsys.exit(main())"
    done = run(code, *arguments)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)
