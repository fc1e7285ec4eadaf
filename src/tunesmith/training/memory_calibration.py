"""Memory calibration: correct the memory model by measured peaks, which include workspaces and fragmentation.

Where memory is tight, a few short backward passes are measured before a run (`calibrate`); every run that ends without
running out of memory records its peak for the next plan on this machine (`MemoryCalibrator`).
"""

from dataclasses import dataclass, replace

import numpy as np
import torch

from tunesmith.data.dataloader import Batch
from tunesmith.model.compile import eager_mode
from tunesmith.model.gpt2 import GPT2
from tunesmith.optim.in_backward_adamw import InBackwardAdamW
from tunesmith.planning.calibration_cache import CalibrationCache
from tunesmith.planning.hardware import Hardware
from tunesmith.planning.memory_model import Calibration, StepSpec, estimate_memory, snapshot_bytes
from tunesmith.training.train_step import backward_pass
from tunesmith.utils.device import peak_memory_bytes, reset_peak_memory

STEP_TOKENS = (256, 512, 512)
"""The last one shows the fragmentation that steps of the same size leave in a heap."""
CALIBRATE_ABOVE = 0.75
"""Of the budget: above it short steps are measured before the run."""
SHORT_DOCUMENT_TOKENS = 64
MIN_FACTOR, MAX_FACTOR = 0.8, 1.5
"""Of activations measured over computed; anything else is noise."""


@dataclass(frozen=True)
class MemoryCalibrator:
    """Predicted and measured memory of one run on one machine.

    Attributes:
        peak_before_bytes: the peak of this process, or of its GPU, before the run.
    """

    demand: StepSpec
    hardware: Hardware
    experience: CalibrationCache
    peak_before_bytes: int

    def before_run(self, model: GPT2, optimizer: torch.optim.Optimizer, predicted_bytes: int) -> CalibrationCache:
        """Measure short steps if the prediction is near the limit and no measurement backs it."""
        is_roomy = predicted_bytes < CALIBRATE_ABOVE * self.hardware.budget.value
        if is_roomy or self.experience.knows(self.demand, self.hardware):
            return self.experience
        return self.experience.learn(self.demand, self.hardware, calibrate(model, optimizer, self.demand))

    def after_run(self, measured_bytes: int) -> None:
        """Record the peak of a whole run, unless something earlier in the same process had a higher one."""
        if measured_bytes <= self.peak_before_bytes:
            return
        known = self.experience.correction(self.demand, self.hardware)
        memory = estimate_memory(self.demand, Calibration(activations=known.activations))
        computed = memory.peak_bytes
        if self.hardware.kind == "cpu":
            computed += memory.host + snapshot_bytes(self.demand)
        correction = Calibration(known.activations, measured_bytes - computed)
        self.experience.learn(self.demand, self.hardware, correction)


def calibrate(model: GPT2, optimizer: torch.optim.Optimizer, demand: StepSpec) -> Calibration:
    """Measure the memory peaks of short steps and compare them with the memory model.

    Args:
        model: in training mode on its device; it is not updated.
        optimizer: of its parameters.
        demand: of the run; its number of tokens does not matter.
    """
    device = model.head_VC.device
    _warm_up_optimizer()
    on_gpu = device.type == "cuda"
    measured: list[int] = []
    in_tensors: list[int] = []
    for tokens in STEP_TOKENS:
        reset_peak_memory(device)
        with eager_mode(model):  # each new size would compile for half a minute
            for _ in range(min(demand.micro_batches, 2)):  # from the second on, gradients exist
                _backward_pass(model, optimizer, demand, tokens)
        measured.append(peak_memory_bytes(device))
        in_tensors.append(torch.cuda.max_memory_allocated(device) if on_gpu else measured[-1])
        optimizer.zero_grad(set_to_none=True)
    # The memory of a process grows in large jumps, as its heap does, and so does what a GPU reserves:
    # two peaks of either give no slope. Allocated tensors on a GPU do.
    factor = _slope(demand, in_tensors) if on_gpu else 1.0
    return Calibration(
        activations=factor, workspace_bytes=measured[-1] - _predicted_peak(demand, STEP_TOKENS[-1], factor)
    )


def _warm_up_optimizer() -> None:
    """Make a first update: torch imports its compiler for it, 150 MB, and no pass here updates anything."""
    nothing = torch.nn.Parameter(torch.zeros(1))
    nothing.grad = torch.zeros(1)
    torch.optim.AdamW([nothing], fused=True).step()


def _slope(demand: StepSpec, measured: list[int]) -> float:
    """Return activations measured over computed, from two peaks."""
    fewer, more = (
        (_predicted_peak(demand, tokens, 1.0), _predicted_peak(demand, tokens, 2.0)) for tokens in STEP_TOKENS[:2]
    )
    of_activations = (more[1] - more[0]) - (fewer[1] - fewer[0])
    unexplained = (measured[1] - measured[0]) - (more[0] - fewer[0])
    factor = 1 + unexplained / of_activations if of_activations else 1.0
    return min(max(factor, MIN_FACTOR), MAX_FACTOR)


def _predicted_peak(demand: StepSpec, tokens: int, activations: float) -> int:
    """Return the peak that the memory model computes for micro-batches of that size."""
    memory = estimate_memory(replace(demand, tokens=tokens), Calibration(activations=activations))
    return memory.peak_bytes + (memory.host if demand.device == "cpu" else 0)


def _backward_pass(model: GPT2, optimizer: torch.optim.Optimizer, demand: StepSpec, tokens: int) -> None:
    """Run forward and backward over documents of the run's usual length."""
    length = min(SHORT_DOCUMENT_TOKENS if demand.share_of_short > 0.5 else tokens, demand.shape.n_positions)
    ids = np.random.default_rng(tokens).integers(0, demand.shape.vocab_size, tokens)
    offsets = (*range(0, tokens, length), tokens)
    batch = Batch(ids, np.arange(tokens) % length, offsets, np.arange(tokens), ids, length)
    scaler = torch.amp.GradScaler(model.head_VC.device.type, enabled=False)
    if isinstance(optimizer, InBackwardAdamW) and demand.micro_batches == 1:
        before = optimizer.prev_grad_norm
        with optimizer.measuring():
            backward_pass(model, batch, tokens, scaler)
        optimizer.prev_grad_norm = before
    else:
        backward_pass(model, batch, tokens, scaler)
