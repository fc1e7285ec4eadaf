"""Weights & Biases, through its own library; without a key it writes offline (`wandb sync` sends it later)."""

import os
from collections.abc import Mapping
from typing import Any

from tunesmith.tracking.tracker import TrackedRun

PROJECT = "tunesmith"
"""Unless WANDB_PROJECT says otherwise."""


class WandbTracker:
    """Logs to a run of W&B that goes on over resumes."""

    def start(self, run: TrackedRun) -> None:
        import wandb

        self._wandb = wandb
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run.name,
            id=run.run_id,
            resume="allow",
            dir=str(run.folder),
            config=dict(run.settings),
            mode=None if "WANDB_MODE" in os.environ or wandb.api.api_key else "offline",  # it must never ask a person
            settings=wandb.Settings(console="off", silent=True),
        )
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        self._table = wandb.Table(columns=["step", "prompt", "text"])

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log({"step": step, **metrics})

    def sample(self, step: int, prompt: str, text: str) -> None:
        self._table.add_data(step, prompt, text)

    def finish(self, outcome: Mapping[str, Any], card: str) -> None:
        self._run.log({"samples": self._table})
        self._run.summary.update({f"outcome/{name}": value for name, value in outcome.items()})
        if card:
            self._run.notes = card
        self._run.finish(exit_code=0)
