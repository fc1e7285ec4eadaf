"""MLflow, through its own library; where it writes is MLFLOW_TRACKING_URI, else MLflow's default."""

import logging
import os
import time
from collections.abc import Mapping
from typing import Any

from tunesmith.tracking.tracker import TrackedRun

EXPERIMENT = "tunesmith"
"""Unless MLFLOW_EXPERIMENT_NAME says otherwise."""
RUN_TAG = "tunesmith.run_id"
MOST_CHARACTERS = 500
"""Of a parameter's value; longer ones some servers refuse."""
MOST_AT_ONCE = 100
"""Parameters."""


class MLflowTracker:
    """Logs to a run of MLflow that goes on over resumes; nothing global is touched."""

    def __init__(self) -> None:
        self._samples: list[dict[str, Any]] = []

    def start(self, run: TrackedRun) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Param

        for talkative in ("mlflow", "alembic"):
            logging.getLogger(talkative).setLevel(logging.WARNING)
        self._client = MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        found = self._client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self._client.create_experiment(name)
        before = self._client.search_runs([experiment], f"tags.`{RUN_TAG}` = '{run.run_id}'") if run.is_resumed else []
        if before:
            self._run_id = before[0].info.run_id
            self._client.update_run(self._run_id, "RUNNING")
            return
        self._run_id = self._client.create_run(experiment, run_name=run.name, tags={RUN_TAG: run.run_id}).info.run_id
        params = [Param(name, str(value)[:MOST_CHARACTERS]) for name, value in run.settings.items()]
        for start in range(0, len(params), MOST_AT_ONCE):
            self._client.log_batch(self._run_id, params=params[start : start + MOST_AT_ONCE])

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        self._client.log_batch(
            self._run_id, metrics=[Metric(name, value, now_ms, step) for name, value in metrics.items()]
        )

    def sample(self, step: int, prompt: str, text: str) -> None:
        self._samples.append({"step": step, "prompt": prompt, "text": text})

    def finish(self, outcome: Mapping[str, Any], card: str) -> None:
        self._client.log_dict(self._run_id, {"samples": self._samples}, "samples.json")
        if card:
            self._client.log_text(self._run_id, card, "model-card.md")
        for name, value in outcome.items():
            self._client.set_tag(self._run_id, f"outcome.{name}", str(value))
        self._client.set_terminated(self._run_id, "FINISHED" if outcome.get("status") == "finished" else "KILLED")
