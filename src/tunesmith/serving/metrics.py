"""Figures for Prometheus, in a registry of the server's own."""

from collections.abc import Callable, Sequence
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from tunesmith.serving.served_model import ServedModel
from tunesmith.serving.worker import Worker

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """What the server has done and is doing.

    Attributes:
        requests: by model and outcome: ok, hung_up, or the code of an error.
        prompt_tokens: read.
        generated_tokens: written.
        duration_s: of whole requests.
        first_token_s: from a request to the first piece of its texts.
    """

    def __init__(self, models: Sequence[ServedModel]) -> None:
        self._registry = CollectorRegistry()
        self.requests = self._counter("requests", "Completion requests", "model", "outcome")
        self.prompt_tokens = self._counter("prompt_tokens", "Tokens read", "model")
        self.generated_tokens = self._counter("generated_tokens", "Tokens written", "model")
        self.duration_s = self._seconds("request_duration_seconds", "Of whole completion requests")
        self.first_token_s = self._seconds("time_to_first_token_seconds", "Until the first text")
        self._gauge("texts_writing", "Texts being written", models, lambda worker: worker.n_writing)
        self._gauge("texts_waiting", "Texts waiting for a place", models, lambda worker: worker.n_waiting)
        self._gauge("texts_at_once", "Most texts written side by side", models, lambda worker: worker.texts_at_once)

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(f"tunesmith_{name}", meaning, labels, registry=self._registry)

    def _seconds(self, name: str, meaning: str) -> Histogram:
        return Histogram(f"tunesmith_{name}", meaning, ["model"], buckets=SECONDS, registry=self._registry)

    def _gauge(self, name: str, meaning: str, models: Sequence[ServedModel], value: Callable[[Worker], float]) -> None:
        gauge = Gauge(f"tunesmith_{name}", meaning, ["model"], registry=self._registry)
        for model in models:
            gauge.labels(model.name).set_function(partial(value, model.worker))

    def text(self) -> bytes:
        """All of them, as Prometheus reads them."""
        return generate_latest(self._registry)
