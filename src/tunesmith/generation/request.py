"""A text to be written, what the model thinks of its tokens, and what became of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tunesmith.generation.sampling import SamplingRules

Watch = Callable[[int], bool]
"""Told every token of a text as it is written; says whether the text ends with it."""


@dataclass(frozen=True)
class WrittenToken:
    """What the model thought when it wrote a token.

    Attributes:
        token: its id.
        logprob: its log-probability in nats, under the model before temperature, filters and penalties.
        likeliest: ids and log-probabilities of the likeliest tokens there, the likeliest first.
    """

    token: int
    logprob: float
    likeliest: list[tuple[int, float]]


Report = Callable[[WrittenToken], object]
"""Told every token of a text before its watch is."""


@dataclass(frozen=True)
class Request:
    """A text to write.

    Attributes:
        prompt: token ids, none empty (begin with end-of-text to start a text from nothing).
        seed: of its chance.
        rules: how to choose tokens.
        max_new_tokens: longest continuation, at least 1.
        min_new_tokens: end-of-text cannot come before.
        watch: sees the tokens, and may end the text.
        report: told what the model thought at each token.
        n_likeliest: how many of the likeliest tokens it is told.
    """

    prompt: list[int]
    seed: int
    rules: SamplingRules
    max_new_tokens: int
    min_new_tokens: int = 0
    watch: Watch | None = None
    report: Report | None = None
    n_likeliest: int = 0


@dataclass(frozen=True)
class Continuation:
    """What was written behind one prompt.

    Attributes:
        tokens: ids, without end-of-text.
        logprobs: log-probability of each in nats, under the model before temperature, filters and penalties.
        finish_reason: "stop" at end-of-text or where the watch said so, "length" at the limit.
    """

    tokens: list[int]
    logprobs: list[float]
    finish_reason: Literal["stop", "length"]
