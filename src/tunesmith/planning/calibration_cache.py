"""What runs on this machine taught about memory: kept in the cache, one line for each kind of run.

A kind of run is a model's shape, its state plan and recomputation, the arithmetic, the device, and the versions of
torch and tunesmith: where any of them is new, the closed form is used alone.
"""

import json
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from tunesmith import __version__
from tunesmith.data.cache import cache_folder
from tunesmith.planning.hardware import GIB, Hardware
from tunesmith.planning.memory_model import Calibration, StepSpec
from tunesmith.utils.files import write_json

FILE = "memory_calibration.json"
GPU_WORKSPACE_BYTES = GIB // 6
"""Of matrix libraries and fragments, where nothing is known yet."""
PROCESS_BYTES = 450 << 20
"""Of Python and torch on a CPU, where nothing is known yet."""
LOADED_LATER_BYTES = 150 << 20
"""What torch imports at the first update."""


@dataclass(frozen=True)
class CalibrationCache:
    """Calibrations of earlier runs on this machine.

    Attributes:
        corrections: of the closed form, by the name of a kind of run.
        held_bytes: what this process held before, beyond Python and torch: a notebook's tables, an earlier run. It
            counts where a run takes the same memory, on a CPU; a later run in another process does not need it.
    """

    corrections: dict[str, Calibration]
    held_bytes: int = 0

    @classmethod
    def kept(cls) -> "CalibrationCache":
        """From the cache, in this process as it is now; nothing known where there is none, or it cannot be read."""
        held_bytes = max(psutil.Process().memory_info().rss - PROCESS_BYTES, 0)
        try:
            content = json.loads(_path().read_text("utf-8"))
            corrections = {name: Calibration(**correction) for name, correction in content.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            corrections = {}
        return cls(corrections, held_bytes)

    def knows(self, demand: StepSpec, hardware: Hardware) -> bool:
        """Whether such a run was made here before."""
        return calibration_key(demand, hardware) in self.corrections

    def correction(self, demand: StepSpec, hardware: Hardware) -> Calibration:
        """What is known, or what is usual, with the memory that this process has already."""
        usual_bytes = GPU_WORKSPACE_BYTES if hardware.kind == "cuda" else PROCESS_BYTES + LOADED_LATER_BYTES
        known = self.corrections.get(calibration_key(demand, hardware), Calibration(workspace_bytes=usual_bytes))
        return replace(known, workspace_bytes=known.workspace_bytes + self._held_bytes(hardware))

    def learn(self, demand: StepSpec, hardware: Hardware, correction: Calibration) -> "CalibrationCache":
        """With one more kind of run, in the cache too where that can be written.

        Args:
            demand: what was run.
            hardware: where.
            correction: as it was measured in this process, with all of its memory.
        """
        workspace_bytes = max(correction.workspace_bytes - self._held_bytes(hardware), 0)
        corrections = {
            **self.corrections,
            calibration_key(demand, hardware): replace(correction, workspace_bytes=workspace_bytes),
        }
        try:
            _path().parent.mkdir(parents=True, exist_ok=True)
            write_json(_path(), {name: asdict(known) for name, known in corrections.items()})
        except OSError:
            pass  # a cache: the next run measures again
        return replace(self, corrections=corrections)

    def _held_bytes(self, hardware: Hardware) -> int:
        return self.held_bytes if hardware.kind == "cpu" else 0


def calibration_key(demand: StepSpec, hardware: Hardware) -> str:
    """The name of a kind of run."""
    shape = demand.shape
    parts = (
        hardware.name,
        f"torch {_torch_version()}",
        f"tunesmith {__version__}",
        f"{shape.n_layer}x{shape.n_embd}x{shape.n_inner}x{shape.n_head}, {shape.vocab_size} tokens",
        demand.states.label,
        demand.activation_checkpointing,
        hardware.precision,
        f"lora {demand.lora.rank} {' '.join(demand.lora.targets)}" if demand.lora else f"frozen {demand.frozen}",
    )
    return "; ".join(parts)


@cache
def _torch_version() -> str:
    """Asked of the installed packages, without importing it; a plan asks for every way it looks at."""
    try:
        return version("torch")
    except PackageNotFoundError:
        return "none"


def _path() -> Path:
    return cache_folder() / FILE
