"""What several processes cost: time and bytes of a step against one process that has the same tokens and threads.

    python benchmarks/distributed.py --processes 2 --model gpt2 --tokens 512 --steps 6

Every process has one thread and the same number of tokens a step. Bytes are what the loopback interface carried while
the steps ran (all processes together), beside what the model says: replicated, every process sends and receives
2 (n - 1) / n of the gradient's bytes, once a step; in parts, (n - 1) / n of the weights for the forward pass, of the
blocks' weights again for the backward pass, and of the gradient, at every micro-batch. Processes that share few cores
say nothing about cards: only the bytes carry over.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from record import keep

from tunesmith.data.dataloader import Batch
from tunesmith.distributed.env import torchrun_env
from tunesmith.distributed.fsdp import apply_fsdp
from tunesmith.distributed.init import init_world
from tunesmith.distributed.world import SINGLE_PROCESS, World
from tunesmith.model.gpt2 import GPT2
from tunesmith.model.hub import preset_shape
from tunesmith.training.optimizer import make_optimizer
from tunesmith.training.run_sync import make_strategy
from tunesmith.training.train_step import train_step

WAYS = ("replicated", "parts")
WARM_UP_STEPS = 2


def loopback_bytes() -> int:
    """Sent over the loopback interface so far, headers included."""
    lines = Path("/proc/net/dev").read_text("utf-8").splitlines()
    fields = next(line for line in lines if line.strip().startswith("lo:")).split(":")[1].split()
    return int(fields[8])


def work(model_name: str, tokens: int, steps: int, way: str) -> None:
    """One process: make the steps; the first one prints what they took."""

    def measured(world: World) -> None:
        torch.set_num_threads(1)
        shape = preset_shape(model_name)
        assert shape is not None, "name a preset"
        model = GPT2(shape)
        model.initialize(torch.Generator().manual_seed(0))
        parameters = sum(parameter.numel() for parameter in model.parameters())
        in_blocks = sum(parameter.numel() for parameter in model.transformer.h.parameters())
        if way == "parts" and world.size > 1:
            apply_fsdp(model, world, torch.device("cpu"))
        optimizer = make_optimizer(model.train(), weight_decay=0.0)
        strategy = make_strategy(world, model)
        ids = np.random.default_rng(world.rank).integers(0, shape.vocab_size, tokens)
        length = min(tokens, shape.n_positions)
        offsets = (*range(0, tokens, length), tokens)
        batch = Batch(ids, np.arange(tokens) % length, offsets, np.arange(tokens), ids, length)
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        seconds, before = [], 0
        for step in range(WARM_UP_STEPS + steps):
            world.all_reduce_max(0)  # all begin together
            if step == WARM_UP_STEPS:
                before = loopback_bytes()
            started_s = time.perf_counter()
            result = train_step(
                model,
                optimizer,
                [batch],
                learning_rate=1e-4,
                max_grad_norm=1.0,
                scaler=scaler,
                strategy=strategy,
                step_tokens=tokens * world.size,
            )
            result.nats.item()
            if step >= WARM_UP_STEPS:
                seconds.append(time.perf_counter() - started_s)
        world.all_reduce_max(0)
        sent_bytes = (loopback_bytes() - before) / steps
        if world.is_main_process:
            found = {
                "seconds_per_step": sorted(seconds)[len(seconds) // 2],
                "bytes_per_step": sent_bytes,
                "parameters": parameters,
                "parameters_in_blocks": in_blocks,
            }
            print("FOUND", json.dumps(found), flush=True)

    place = torchrun_env()
    if place is None:
        measured(SINGLE_PROCESS)
        return
    with init_world(place, device="cpu") as world:
        measured(world)


def start(processes: int, arguments: list[str]) -> dict[str, float]:
    """Run this file in so many processes; what the first one found."""
    launcher = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}"]
    launcher += ["--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0"]
    done = subprocess.run(
        [*launcher, __file__, "--work", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    found = [line for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    if not found:
        raise SystemExit(done.stderr)
    values: dict[str, float] = json.loads(found[0].removeprefix("FOUND "))
    return values


def computed_bytes(way: str, processes: int, parameters: float, in_blocks: float) -> float:
    """Of a step of one micro-batch in fp32, by all processes together."""
    passes = 2 * parameters if way == "replicated" else 2 * parameters + in_blocks
    return 4 * passes * (processes - 1)


def main() -> None:
    """Measure one process, then several in both ways."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--model", default="gpt2")
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--work", choices=WAYS)
    asked = parser.parse_args()
    if asked.work:
        work(asked.model, asked.tokens, asked.steps, asked.work)
        return
    arguments = [f"--model={asked.model}", f"--tokens={asked.tokens}", f"--steps={asked.steps}"]
    alone = start(1, ["replicated", *arguments])
    ways = {}
    for way in WAYS:
        found = start(asked.processes, [way, *arguments])
        computed = computed_bytes(way, asked.processes, found["parameters"], found["parameters_in_blocks"])
        ways[way] = {
            "seconds_per_step": found["seconds_per_step"],
            "of_one_process": found["seconds_per_step"] / alone["seconds_per_step"],
            "bytes_per_step": found["bytes_per_step"],
            "computed_bytes_per_step": computed,
            "measured_over_computed": found["bytes_per_step"] / computed,
        }
    result = {
        "processes": asked.processes,
        "model": asked.model,
        "tokens_per_process": asked.tokens,
        "seconds_per_step_alone": alone["seconds_per_step"],
        **ways,
    }
    print(json.dumps(result, indent=2))
    keep("distributed", result)


if __name__ == "__main__":
    main()
