"""Predicted against measured peak memory on a CPU: sizes, state plans, recomputation, micro-batches.

    python memory.py [--sizes gpt2 gpt2-medium] [--quick]

Each combination runs two optimizer steps of a random model in a process of its own, whose largest resident memory
is compared with what was predicted before them: the closed form of `tunesmith.planning.memory_model`, corrected by two
short micro-batches (`tunesmith.training.memory_calibration`).
"""

import argparse
import json
import statistics
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from record import keep

from tunesmith.config import ActivationCheckpointing
from tunesmith.model.gpt2_config import GPT2Config

SHAPES = {
    "distilgpt2": GPT2Config(50257, 1024, 768, 6, 12, 3072),
    "gpt2": GPT2Config(50257, 1024, 768, 12, 12, 3072),
    "gpt2-medium": GPT2Config(50257, 1024, 1024, 24, 16, 4096),
}


@dataclass(frozen=True)
class Combination:
    """What is run."""

    size: str
    memory_mode: str
    activation_checkpointing: ActivationCheckpointing
    tokens: int
    micro_batches: int
    document_tokens: int


def combinations(sizes: list[str]) -> list[Combination]:
    """Every state plan, every recomputation, one and two micro-batches, long and short documents."""
    chosen: list[Combination] = []
    for size in sizes:
        few = 512 if size == "gpt2-medium" else 1024
        kinds = [
            ("fp32", "none", few, 2, 512),
            ("fp32", "selective", 2 * few, 1, 512),
            ("fp32", "full", 2 * few, 1, 512),
            ("8bit", "none", few, 2, 512),
            ("split-8bit", "none", few, 2, 512),
            ("split-8bit", "selective", few, 2, 64),
            ("split-8bit+fused-backward", "none", few, 1, 512),
            ("bf16-8bit", "none", 2 * few, 1, 256),
            ("bf16-8bit+fused-backward", "full", few, 1, 512),
            ("bf16-4bit", "none", few, 2, 512),
            ("bf16-4bit+fused-backward", "selective", few, 1, 512),
            ("cpu-offload", "none", few, 2, 512),
        ]
        chosen += [Combination(size, *kind) for kind in kinds]
    return chosen


def run(combination: Combination) -> dict[str, Any]:
    """Two steps; predicted and measured bytes."""
    from tunesmith.utils.device import configure_allocators

    configure_allocators()
    import numpy as np
    import torch

    from tunesmith.data.dataloader import Batch
    from tunesmith.model.activation_checkpointing import apply_activation_checkpointing
    from tunesmith.model.gpt2 import GPT2
    from tunesmith.model.gpt2_config import SHORT_DOCUMENT_TOKENS
    from tunesmith.optim.state_format import STATE_FORMATS
    from tunesmith.planning.memory_model import Calibration, StepSpec, estimate_memory
    from tunesmith.training.memory_calibration import calibrate
    from tunesmith.training.optimizer import make_optimizer
    from tunesmith.training.train_step import train_step
    from tunesmith.utils.device import peak_memory_bytes, resolve_dtype

    shape, states = SHAPES[combination.size], STATE_FORMATS[combination.memory_mode]
    dtype = resolve_dtype("auto", torch.device("cpu")).value

    with torch.device("meta"):
        model = GPT2(shape)
    model.to_empty(device="cpu")
    model.initialize(torch.Generator().manual_seed(0))
    model.train()
    model.compute_dtype = dtype
    apply_activation_checkpointing(model, combination.activation_checkpointing)
    optimizer = make_optimizer(model, weight_decay=0.01, plan=states)
    demand = StepSpec(
        shape,
        states,
        combination.activation_checkpointing,
        combination.tokens,
        combination.micro_batches,
        dtype.itemsize,
        "cpu",
        share_of_short=float(combination.document_tokens <= SHORT_DOCUMENT_TOKENS),
    )
    before = peak_memory_bytes(torch.device("cpu"))
    closed = estimate_memory(demand, Calibration()).peak_bytes + estimate_memory(demand, Calibration()).host
    correction = calibrate(model, optimizer, demand)
    predicted = estimate_memory(demand, correction).peak_bytes + estimate_memory(demand, correction).host
    calibrated = peak_memory_bytes(torch.device("cpu"))

    ids = np.random.default_rng(0).integers(0, shape.vocab_size, combination.tokens)
    positions = np.arange(combination.tokens) % combination.document_tokens
    offsets = tuple(range(0, combination.tokens + 1, combination.document_tokens))
    batch = Batch(ids, positions, offsets, np.arange(combination.tokens), ids, combination.document_tokens)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    for _ in range(2):
        batches = [batch] * combination.micro_batches
        train_step(model, optimizer, batches, learning_rate=1e-4, max_grad_norm=1.0, scaler=scaler)
    peak = peak_memory_bytes(torch.device("cpu"))
    return {
        **vars(combination),
        "loaded_bytes": before,
        "calibrated_bytes": calibrated,
        "closed_form_bytes": closed,
        "correction": vars(correction),
        "predicted_bytes": predicted,
        "measured_bytes": peak,
        "error": predicted / peak - 1,
    }


def main() -> None:
    """Measure every combination and print the errors."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", nargs="+", default=list(SHAPES), choices=SHAPES)
    parser.add_argument("--one", type=int, default=None)
    arguments = parser.parse_args()
    chosen = combinations(arguments.sizes)
    if arguments.one is not None:
        print(json.dumps(run(chosen[arguments.one])))
        return
    rows = []
    for number, combination in enumerate(chosen):
        command = [sys.executable, __file__, "--sizes", *arguments.sizes, "--one", str(number)]
        answer = subprocess.run(command, capture_output=True, text=True, check=True)
        rows.append(json.loads(answer.stdout))
        measured, predicted = (rows[-1][f"{kind}_bytes"] / 2**20 for kind in ("measured", "predicted"))
        print(
            f"{vars(combination)}: measured {measured:,.0f}, predicted {predicted:,.0f} MiB, {rows[-1]['error']:+.1%}",
            flush=True,
        )
    errors = [abs(row["error"]) for row in rows]
    print(f"{len(rows)} combinations: largest {max(errors):.1%}, median {statistics.median(errors):.1%}")
    keep("memory", {"rows": rows, "largest_error": max(errors), "median_error": statistics.median(errors)})


if __name__ == "__main__":
    main()
