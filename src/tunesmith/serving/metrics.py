"""Prometheus metrics, in a registry of the server's own."""

from collections.abc import Callable, Sequence
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from tunesmith.serving.served_model import ServedModel
from tunesmith.serving.worker import Worker

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """Counters of completion requests, and gauges of the workers.

    Attributes:
        requests: by model and outcome: ok, client_disconnected, or the code of an error.
        first_token_s: from a request to the first piece of its texts.
    """

    def __init__(self, models: Sequence[ServedModel]) -> None:
        self._registry = CollectorRegistry()
        self.requests = self._counter("requests", "Completion requests", "model", "outcome")
        self.prompt_tokens = self._counter("prompt_tokens", "Prompt tokens", "model")
        self.generated_tokens = self._counter("generated_tokens", "Tokens generated", "model")
        self.duration_s = self._seconds("request_duration_seconds", "Of whole completion requests")
        self.first_token_s = self._seconds("time_to_first_token_seconds", "Until the first text")
        self._gauge("sequences_running", "Sequences being generated", models, lambda worker: worker.n_running)
        self._gauge("sequences_waiting", "Sequences queued", models, lambda worker: worker.n_waiting)
        self._gauge("batch_size", "Most sequences generated side by side", models, lambda worker: worker.batch_size)

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(f"tunesmith_{name}", meaning, labels, registry=self._registry)

    def _seconds(self, name: str, meaning: str) -> Histogram:
        return Histogram(f"tunesmith_{name}", meaning, ["model"], buckets=SECONDS, registry=self._registry)

    def _gauge(self, name: str, meaning: str, models: Sequence[ServedModel], value: Callable[[Worker], float]) -> None:
        gauge = Gauge(f"tunesmith_{name}", meaning, ["model"], registry=self._registry)
        for model in models:
            gauge.labels(model.name).set_function(partial(value, model.worker))

    def text(self) -> bytes:
        """Return all of them, in Prometheus's text format."""
        return generate_latest(self._registry)
