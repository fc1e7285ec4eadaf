"""What a tracker is to us: somebody who is told of a run. Each is a small file around its own library."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class TrackedRun:
    """The run that is tracked.

    Attributes:
        folder: of the run.
        name: for people.
        run_id: the same over all resumes.
        settings: what was asked and what was decided, flat, by "asked/..." and "plan/...".
        is_resumed: whether it goes on with what was tracked before.
    """

    folder: Path
    name: str
    run_id: str
    settings: Mapping[str, Any]
    is_resumed: bool


class Tracker(Protocol):
    """Whoever is told of a run. All methods are called in one thread, and may raise whatever they like."""

    def start(self, run: TrackedRun) -> None:
        """A run begins."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """A line of numbers, by "train/...", "evaluation/...", "machine/..." with units in the names."""

    def sample(self, step: int, prompt: str, text: str) -> None:
        """A text that the model wrote."""

    def finish(self, outcome: Mapping[str, Any], card: str) -> None:
        """The run is over, or stopped.

        Args:
            outcome: as in `run.json`.
            card: the model card in Markdown; empty where there is no model yet.
        """
