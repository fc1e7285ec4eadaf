"""One sequence while it is generated: the request, its tokens, its random numbers, and when it ends.

Shapes: V vocabulary.
References: Keskar et al. 2019, "CTRL" (repetition penalty); Paulus et al. 2017 (no n-gram twice). Both look at prompt
and output, as in transformers.
"""

from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tunesmith.errors import UserError
from tunesmith.generation.sampling import Floats, SamplingParams, sample_token, token_logprob, top_logprobs

StopCallback = Callable[[int], bool]
"""Called with every generated token; true ends the sequence."""


@dataclass(frozen=True)
class TokenLogprob:
    """A generated token with its log-probability in nats, before temperature, filters and penalties.

    Attributes:
        top: ids and log-probabilities of the likeliest tokens at this place, the likeliest first.
    """

    token: int
    logprob: float
    top: list[tuple[int, float]]


TokenCallback = Callable[[TokenLogprob], object]
"""Called with every generated token, before the stop callback."""


@dataclass(frozen=True)
class GenerationRequest:
    """A sequence to generate.

    Attributes:
        prompt: token ids, at least one (end-of-text to start from nothing).
        max_new_tokens: at least 1.
        min_new_tokens: end-of-text cannot come before.
        n_top_logprobs: how many of the likeliest tokens `on_token` receives.
    """

    prompt: list[int]
    seed: int
    params: SamplingParams
    max_new_tokens: int
    min_new_tokens: int = 0
    should_stop: StopCallback | None = None
    on_token: TokenCallback | None = None
    n_top_logprobs: int = 0


@dataclass(frozen=True)
class GenerationOutput:
    """The generated tokens of one request.

    Attributes:
        tokens: ids, without end-of-text.
        logprobs: in nats, before temperature, filters and penalties.
        finish_reason: "stop" at end-of-text or by the stop callback, "length" at the limit.
    """

    tokens: list[int]
    logprobs: list[float]
    finish_reason: Literal["stop", "length"]


class LogitsProcessor:
    """Repetition penalty and n-gram blocking over the tokens of one sequence.

    Attributes:
        tokens: prompt and output.
    """

    def __init__(self, prompt: list[int], params: SamplingParams) -> None:
        self.tokens: list[int] = []
        self._penalty = params.repetition_penalty
        self._ngram_size = params.no_repeat_ngram_size
        self._seen: dict[int, None] = {}
        self._followers: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for token in prompt:
            self.append(token)

    def append(self, token: int) -> None:
        """Add a token to the sequence."""
        self.tokens.append(token)
        if self._penalty != 1:
            self._seen[token] = None
        if 0 < self._ngram_size <= len(self.tokens):
            *before, last = self.tokens[-self._ngram_size :]
            self._followers[tuple(before)].append(last)

    def process_logits(self, logits_V: Floats, forbidden: int | None) -> Floats:
        """Return the logits with repetitions penalized or excluded; the same array where nothing changes.

        Args:
            logits_V: the model's.
            forbidden: a token that may not come now.
        """
        excluded = [] if forbidden is None else [forbidden]
        if 0 < self._ngram_size <= len(self.tokens) + 1:
            excluded += self._followers.get(tuple(self.tokens[len(self.tokens) - self._ngram_size + 1 :]), [])
        if not excluded and not self._seen:
            return logits_V
        processed_V = logits_V.copy()
        if self._seen:
            seen = np.fromiter(self._seen, np.int64, len(self._seen))
            values = processed_V[seen]
            processed_V[seen] = np.where(values < 0, values * self._penalty, values / self._penalty)
        processed_V[excluded] = -np.inf
        return processed_V


class Sequence:
    """A sequence that takes one token after the other.

    Attributes:
        request_id: returned by `Engine.submit`.
        new_tokens: generated so far.
        logprobs: of the new tokens, in nats, under the model itself.
    """

    def __init__(self, request_id: int, request: GenerationRequest, end_of_text_id: int) -> None:
        self.request_id = request_id
        self.request = request
        self.new_tokens: list[int] = []
        self.logprobs: list[float] = []
        self._processor = LogitsProcessor(request.prompt, request.params)
        self._end_of_text_id = end_of_text_id
        self._stopped = False
        self._random = np.random.default_rng(request.seed)
        self._uniforms: deque[float] = deque()

    @property
    def tokens(self) -> list[int]:
        """Prompt and new tokens."""
        return self._processor.tokens

    @property
    def needs_all_logits(self) -> bool:
        """Whether the logits of all tokens are needed, and not only that of the sampled one."""
        return self.request.n_top_logprobs > 0 or self.request.params.no_repeat_ngram_size > 0

    @property
    def tokens_left(self) -> int:
        """How many tokens until the length limit."""
        return self.request.max_new_tokens - len(self.new_tokens)

    @property
    def tokens_before_end(self) -> int:
        """How many tokens must come before end-of-text may."""
        return max(self.request.min_new_tokens - len(self.new_tokens), 0)

    def draw_uniform(self, ahead: int = 0) -> float:
        """Return the random number of the next token, or of a later one; the same on every call."""
        while len(self._uniforms) <= ahead:
            self._uniforms.append(self._random.random())
        return self._uniforms[ahead]

    def sample(self, logits_V: Floats) -> bool:
        """Sample the next token from the model's logits; returns whether the sequence ends here.

        Raises:
            UserError: if they are NaN or infinite.
        """
        _check_finite(logits_V.max())  # NaN is the largest of all
        forbidden = self._end_of_text_id if self.tokens_before_end else None
        processed_V = self._processor.process_logits(logits_V, forbidden)
        token = sample_token(processed_V, self.request.params, self.draw_uniform())
        return self._append(token, token_logprob(logits_V, token), top_logprobs(logits_V, self.request.n_top_logprobs))

    def append(self, token: int, logprob: float) -> bool:
        """Add a token that was sampled with this sequence's random number; returns whether the sequence ends here.

        Raises:
            UserError: if its log-probability is NaN or infinite.
        """
        _check_finite(logprob)
        return self._append(token, logprob, [])

    def _append(self, token: int, logprob: float, top: list[tuple[int, float]]) -> bool:
        self._uniforms.popleft()
        if token == self._end_of_text_id:
            self._stopped = True
            return True
        self.new_tokens.append(token)
        self.logprobs.append(logprob)
        self._processor.append(token)
        if self.request.on_token is not None:
            self.request.on_token(TokenLogprob(token, logprob, top))
        self._stopped = self.request.should_stop is not None and self.request.should_stop(token)
        return self._stopped or self.tokens_left == 0

    def output(self) -> GenerationOutput:
        """Return what was generated."""
        return GenerationOutput(self.new_tokens, self.logprobs, "stop" if self._stopped else "length")


def _check_finite(number: float) -> None:
    if not np.isfinite(number):
        raise UserError(
            "the model returns NaN or infinity: its weights are damaged or the precision is too low",
            hint="try --precision fp32; if that does not help, get or train the model again",
        )
