"""What a run teaches about memory: predicted and measured side by side, kept for the next plan on this machine."""

from dataclasses import dataclass

import torch

from tunesmith.model.gpt2 import GPT2
from tunesmith.planning.calibration_cache import CalibrationCache
from tunesmith.planning.hardware import Hardware
from tunesmith.planning.memory_model import Calibration, StepSpec, estimate_memory, snapshot_bytes
from tunesmith.training.calibration import calibrate

TIGHT = 0.75
"""Of the budget: above it two short steps are made first, to know better."""


@dataclass(frozen=True)
class MemoryLesson:
    """One run on one machine.

    Attributes:
        demand: what it does.
        hardware: where.
        experience: of runs before.
        peak_before_bytes: the most that this process, or its card, ever took before the run.
    """

    demand: StepSpec
    hardware: Hardware
    experience: CalibrationCache
    peak_before_bytes: int

    def before(self, model: GPT2, optimizer: torch.optim.Optimizer, predicted_bytes: int) -> CalibrationCache:
        """Measure two short steps if the prediction is near the limit and rests on nothing measured."""
        if predicted_bytes < TIGHT * self.hardware.budget.value or self.experience.knows(self.demand, self.hardware):
            return self.experience
        return self.experience.learn(self.demand, self.hardware, calibrate(model, optimizer, self.demand))

    def after(self, measured_bytes: int) -> None:
        """Keep what a whole run took at its peak, unless that peak is of something earlier in the same process."""
        if measured_bytes <= self.peak_before_bytes:
            return
        known = self.experience.correction(self.demand, self.hardware)
        memory = estimate_memory(self.demand, Calibration(activations=known.activations))
        computed = memory.peak_bytes
        if self.hardware.kind == "cpu":
            computed += memory.host + snapshot_bytes(self.demand)
        correction = Calibration(known.activations, measured_bytes - computed)
        self.experience.learn(self.demand, self.hardware, correction)
