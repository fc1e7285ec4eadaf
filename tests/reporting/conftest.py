"""Run folders: some written by hand, with numbers that the tests choose, some by real training."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

PLAN: dict[str, Any] = {
    "device": "cpu",
    "device_name": "a CPU",
    "precision": "float32",
    "context_length": 64,
    "tokens_per_step": 1000,
    "tokens_per_micro_batch": 500,
    "micro_batches_per_step": 2,
    "memory_mode": "fp32",
    "steps_per_epoch": 100,
    "steps": 400,
    "epochs": 4.0,
    "learning_rate": 1e-3,
    "warmup_steps": 20,
    "max_grad_norm": 1.0,
    "seed": 42,
    "train_samples": 900,
    "train_tokens": 90_000,
    "val_samples": 100,
    "val_tokens": 10_000,
    "peak_memory_bytes": 1 << 30,
    "peak_memory_parts": {"weights": 1 << 29},
    "step_s": 0.5,
    "flops_per_token": 1e7,
    "device_flops_per_s": 1e11,
    "reasons": {"steps": "4 epochs of 100 steps"},
}


def step_line(step: int, loss: float, **more: Any) -> dict[str, Any]:
    """A step that takes half a second and learns from a thousand tokens."""
    return {
        "kind": "step",
        "step": step,
        "epoch": step / 100,
        "train_loss": loss,
        "learning_rate": 1e-3,
        "grad_norm": 0.8,
        "tokens": 1000 * step,
        "tokens_per_s": 2000.0,
        "peak_memory_bytes": 900 << 20,
        "eta_s": 1.0,
        "training_s": 0.5 * step,
        "data_wait_s": 0.001 * step,
        "elapsed_s": 0.6 * step,
        **more,
    }


def evaluation_line(step: int, nats: float) -> dict[str, Any]:
    """What the validation split said."""
    return {
        "kind": "eval",
        "step": step,
        "epoch": step / 100,
        "val_loss": nats,
        "val_perplexity": 2.718281828459045**nats,
        "is_best": False,
    }


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a run folder from lines of metrics and of samples."""

    def make(
        name: str = "run",
        lines: Iterable[dict[str, Any]] = (),
        *,
        samples: Iterable[dict[str, Any]] = (),
        plan: dict[str, Any] | None = None,
        asked: dict[str, Any] | None = None,
        status: str = "finished",
        data: dict[str, Any] | None = None,
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        source = {"name": "a.txt", "samples": 1000, "encoding": "utf-8", "split_on": "line", "reason": "short lines"}
        description = {
            "config": {"model": "tiny", "out": name, "sources": ["a.txt"], "val_fraction": 0.1, **(asked or {})},
            "plan": {**PLAN, **(plan or {})},
            "environment": {"python": "3.11"},
            "data": {"fingerprint": "f" * 64, "samples": 1000, "sources": [source], **(data or {})},
            "length_histogram": [{"from_tokens": 8, "to_tokens": 16, "samples": 1000}],
            "result": {"status": status},
        }
        (folder / "run.json").write_text(json.dumps(description), "utf-8")
        for file, content in (("metrics.jsonl", lines), ("samples.jsonl", samples)):
            (folder / file).write_text("".join(json.dumps(line) + "\n" for line in content), "utf-8")
        return folder

    return make


@pytest.fixture
def healthy(make_run: Callable[..., Path]) -> Path:
    """A run in which nothing stands out."""
    losses = [3.0 + 3.0 * 0.98**step for step in range(1, 401)]
    lines = [step_line(step, loss) for step, loss in enumerate(losses, 1)]
    evaluations = [
        evaluation_line(step, nats) for step, nats in ((0, 6.0), (100, 3.6), (200, 3.2), (300, 3.05), (400, 3.04))
    ]
    samples = [
        {
            "step": step,
            "is_final": step == 400,
            "prompt": "The",
            "text": f"The text of {step}",
            "seed": 42,
            "finish_reason": "stop",
        }
        for step in (0, 100, 200, 300, 400)
    ]
    return make_run("healthy", [*evaluations[:1], *lines, *evaluations[1:]], samples=samples)
