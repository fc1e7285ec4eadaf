"""A few short real steps teach what the closed form of memory cannot know: libraries' workspaces and fragments.

Nothing is learned from them: gradients are made and dropped.
"""

from dataclasses import replace

import numpy as np
import torch

from tunesmith.data.batches import Batch
from tunesmith.model.compile import eager_mode
from tunesmith.model.gpt2 import GPT2
from tunesmith.optim.in_backward_adamw import InBackwardAdamW
from tunesmith.planning.memory_model import Calibration, StepSpec, estimate_memory
from tunesmith.training.step import backward_pass
from tunesmith.utils.device import peak_memory_bytes, reset_peak_memory

STEP_TOKENS = (256, 512, 512)
"""The last one shows what fragments are left in a heap by steps of the same size."""
SHORT_DOCUMENT_TOKENS = 64
LEAST_FACTOR, LARGEST_FACTOR = 0.8, 1.5
"""Of activations measured over computed; anything else is noise."""


def calibrate(model: GPT2, optimizer: torch.optim.Optimizer, demand: StepSpec) -> Calibration:
    """Measure the peaks of short steps and compare them with the closed form.

    Args:
        model: in training mode on its device, as it will be trained.
        optimizer: of its parameters.
        demand: what will be trained; the number of tokens does not matter.
    """
    device = model.head_VC.device
    _load_what_an_update_loads()
    on_gpu = device.type == "cuda"
    measured: list[int] = []
    in_tensors: list[int] = []
    for tokens in STEP_TOKENS:
        reset_peak_memory(device)
        with eager_mode(model):  # of sizes that no step has, each compiled for half a minute
            for _ in range(min(demand.micro_batches, 2)):  # the second one finds gradients, as all others of a step do
                _pass(model, optimizer, demand, tokens)
        measured.append(peak_memory_bytes(device))
        in_tensors.append(torch.cuda.max_memory_allocated(device) if on_gpu else measured[-1])
        optimizer.zero_grad(set_to_none=True)
    # A process's memory grows in leaps as its heap does, so two of its peaks say nothing of a slope.
    # Of a GPU that reserves whole segments neither do two peaks of those.
    factor = _slope(demand, in_tensors) if on_gpu else 1.0
    return Calibration(activations=factor, workspace_bytes=measured[-1] - _computed(demand, STEP_TOKENS[-1], factor))


def _load_what_an_update_loads() -> None:
    """The first update of a process makes torch import its compiler, 150 MB; no pass here updates anything."""
    nothing = torch.nn.Parameter(torch.zeros(1))
    nothing.grad = torch.zeros(1)
    torch.optim.AdamW([nothing], fused=True).step()


def _slope(demand: StepSpec, measured: list[int]) -> float:
    """Activations measured over computed, from two peaks."""
    fewer, more = ((_computed(demand, tokens, 1.0), _computed(demand, tokens, 2.0)) for tokens in STEP_TOKENS[:2])
    of_activations = (more[1] - more[0]) - (fewer[1] - fewer[0])
    unexplained = (measured[1] - measured[0]) - (more[0] - fewer[0])
    factor = 1 + unexplained / of_activations if of_activations else 1.0
    return min(max(factor, LEAST_FACTOR), LARGEST_FACTOR)


def _computed(demand: StepSpec, tokens: int, activations: float) -> int:
    """What the closed form says of a step of such micro-batches."""
    memory = estimate_memory(replace(demand, tokens=tokens), Calibration(activations=activations))
    return memory.peak_bytes + (memory.host if demand.device == "cpu" else 0)


def _pass(model: GPT2, optimizer: torch.optim.Optimizer, demand: StepSpec, tokens: int) -> None:
    """Forward and backward over documents like those to come."""
    length = min(SHORT_DOCUMENT_TOKENS if demand.share_of_short > 0.5 else tokens, demand.shape.n_positions)
    ids = np.random.default_rng(tokens).integers(0, demand.shape.vocab_size, tokens)
    offsets = (*range(0, tokens, length), tokens)
    batch = Batch(ids, np.arange(tokens) % length, offsets, np.arange(tokens), ids, length)
    scaler = torch.amp.GradScaler(model.head_VC.device.type, enabled=False)
    if isinstance(optimizer, InBackwardAdamW) and demand.micro_batches == 1:
        before = optimizer.norm_before
        with optimizer.measuring():
            backward_pass(model, batch, tokens, scaler)
        optimizer.norm_before = before
    else:
        backward_pass(model, batch, tokens, scaler)
