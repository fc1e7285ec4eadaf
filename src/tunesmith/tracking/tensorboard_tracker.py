"""TensorBoard: event files in the run folder; look with `tensorboard --logdir RUN`."""

import time
from collections.abc import Mapping
from typing import Any

from tunesmith.tracking.tracker import TrackedRun
from tunesmith.utils.files import to_json

FOLDER = "tensorboard"
MOST_CHARACTERS = 20_000


class TensorBoardTracker:
    """Writes event files with TensorBoard's own writer; TensorFlow is not needed."""

    def start(self, run: TrackedRun) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._writer = EventFileWriter(str(run.folder / FOLDER))
        self._text("settings", to_json(dict(run.settings), indent=1, default=str), 0)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._add(Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in metrics.items()]), step)

    def sample(self, step: int, prompt: str, text: str) -> None:
        self._text(f"samples/{prompt or '(from nothing)'}", text, step)

    def finish(self, outcome: Mapping[str, Any], card: str) -> None:
        if card:
            self._text("model card", card, int(outcome.get("steps") or 0))
        self._writer.close()

    def _text(self, tag: str, text: str, step: int) -> None:
        from tensorboard.plugins.text.summary_v2 import text_pb

        self._add(text_pb(tag, text[:MOST_CHARACTERS]), step)

    def _add(self, summary: Any, step: int) -> None:  # noqa: ANN401  the library has no types
        from tensorboard.compat.proto.event_pb2 import Event

        self._writer.add_event(Event(wall_time=time.time(), step=step, summary=summary))
