"""Write texts: requests in, continuations out, side by side, without padding, each as if it were alone.

A text that ends gives its place to the next one at once. Every text has its own chance, drawn from its own seed, so
what it becomes depends on its seed and prompt and not on its neighbours. A text ends at end-of-text, where its watch
says so, or at its length limit. Where the model's positions end, the last half of them is read again and the text goes
on.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

from tunesmith.errors import UserError
from tunesmith.generation.decoder import Decoder
from tunesmith.generation.history import History
from tunesmith.generation.sampling import Floats, SamplingRules, choose_token, likeliest_tokens, logprob_of
from tunesmith.model.gpt2 import GPT2
from tunesmith.model.packed import inference

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


class Engine:
    """Texts that are being written, and those that wait.

    Args:
        model: on its device, in evaluation mode or not: dropout is off here.
        end_of_text_id: ends a text.
        texts_at_once: most that are written side by side.
        positions: longest text with its prompt; beyond the model's own, texts slide.
        logits: hidden states to logits; the model's own unless its head is packed.
    """

    def __init__(
        self,
        model: GPT2,
        *,
        end_of_text_id: int,
        texts_at_once: int,
        positions: int,
        logits: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self._model = model
        self._end_of_text_id = end_of_text_id
        self._n_positions = min(positions, model.config.n_positions)
        self._texts_at_once = texts_at_once
        self._decoder = Decoder(model, logits or model.logits, texts=texts_at_once, positions=self._n_positions)
        self._waiting: deque[tuple[int, Request]] = deque()
        self._writing: list[_Text] = []
        self._submitted = 0

    def submit(self, request: Request) -> int:
        """Let a text wait for its turn; returns the number it is known by.

        Raises:
            UserError: if the prompt is longer than the model reads.
        """
        if len(request.prompt) > self._model.config.n_positions:
            raise UserError(
                "the prompt has {n_tokens} tokens, and the model reads at most {n_positions}",
                hint="shorten the prompt",
                n_tokens=len(request.prompt),
                n_positions=self._model.config.n_positions,
            )
        self._waiting.append((self._submitted, request))
        self._submitted += 1
        return self._submitted - 1

    def cancel(self, number: int) -> None:
        """Forget a text; its place is free for another one."""
        self._waiting = deque(entry for entry in self._waiting if entry[0] != number)
        for place, text in enumerate(self._writing):
            if text.number == number:
                self._give_up(place)
                return

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to write."""
        return not self._waiting and not self._writing

    def step(self) -> list[tuple[int, Continuation]]:
        """One more token of every text; the texts that end with it, by their numbers."""
        with inference(self._model):
            logits_of_texts = self._logits()
        finished = []
        for place, logits_V in reversed(list(enumerate(logits_of_texts))):  # the last first: it may take a place
            text = self._writing[place]
            if text.write(logits_V, self._end_of_text_id):
                finished.append((text.number, text.continuation()))
                self._give_up(place)
        return finished[::-1]

    def run(self) -> Iterator[tuple[int, Continuation]]:
        """Write everything that was submitted; texts come as they end."""
        while not self.is_idle:
            yield from self.step()

    def _logits(self) -> list[Floats]:
        """Behind every text, [V]: texts that go on read their newest token, new ones their prompt."""
        rows: list[Floats] = []
        full = [place for place in range(len(self._writing)) if self._decoder.length(place) == self._n_positions]
        if full:
            kept = max(self._n_positions // 2, 2)
            self._decoder.read({place: self._writing[place].history.tokens[-kept:-1] for place in full})
        if self._writing:
            rows += list(self._decoder.step([text.history.tokens[-1] for text in self._writing]).numpy())
        new: dict[int, list[int]] = {}
        while self._waiting and len(self._writing) < self._texts_at_once:
            number, request = self._waiting.popleft()
            new[len(self._writing)] = request.prompt
            self._writing.append(_Text(number, request))
        if new:
            rows += list(self._decoder.read(new).numpy())
        return rows

    def _give_up(self, place: int) -> None:
        """The last text takes the place, so that texts stand side by side."""
        last = self._writing.pop()
        if place < len(self._writing):
            self._writing[place] = last
            self._decoder.move(len(self._writing), place)


class _Text:
    """One text while it is written."""

    def __init__(self, number: int, request: Request) -> None:
        self.number = number
        self.request = request
        self.history = History(request.prompt, request.rules)
        self.tokens: list[int] = []
        self.logprobs: list[float] = []
        self.stopped = False
        self._random = np.random.default_rng(request.seed)

    def write(self, logits_V: Floats, end_of_text_id: int) -> bool:
        """Choose the next token; whether the text ends here."""
        request = self.request
        _refuse_no_numbers(logits_V)
        too_early = len(self.tokens) < request.min_new_tokens
        weighed_V = self.history.weigh(logits_V, end_of_text_id if too_early else None)
        token = choose_token(weighed_V, request.rules, self._random.random())
        if token == end_of_text_id:
            self.stopped = True
            return True
        self.tokens.append(token)
        self.logprobs.append(logprob_of(logits_V, token))
        self.history.append(token)
        if request.report is not None:
            likeliest = likeliest_tokens(logits_V, request.n_likeliest)
            request.report(WrittenToken(token, self.logprobs[-1], likeliest))
        self.stopped = request.watch is not None and request.watch(token)
        return self.stopped or len(self.tokens) == request.max_new_tokens

    def continuation(self) -> Continuation:
        return Continuation(self.tokens, self.logprobs, "stop" if self.stopped else "length")


def continue_texts(
    model: GPT2,
    prompts: list[list[int]],
    *,
    seeds: list[int],
    rules: SamplingRules,
    max_new_tokens: int,
    end_of_text_id: int,
) -> list[Continuation]:
    """Continue each prompt, all of them side by side.

    Args:
        model: on its device, in evaluation mode or not: dropout is off here.
        prompts: token ids of each, none empty (begin with end-of-text to start a text from nothing).
        seeds: one for each prompt.
        rules: how to choose tokens.
        max_new_tokens: longest continuation.
        end_of_text_id: ends a text.

    Raises:
        UserError: if a prompt is longer than the model reads.
    """
    engine = Engine(
        model,
        end_of_text_id=end_of_text_id,
        texts_at_once=len(prompts),
        positions=max(map(len, prompts)) + max_new_tokens,
    )
    for prompt, seed in zip(prompts, seeds, strict=True):
        engine.submit(Request(prompt, seed, rules, max_new_tokens))
    return [continuation for _, continuation in sorted(engine.run(), key=lambda finished: finished[0])]


def _refuse_no_numbers(logits_V: Floats) -> None:
    if not np.isfinite(logits_V.max()):  # NaN is the largest of all
        raise UserError(
            "the model computes no numbers (NaN or infinity): its weights are damaged or the precision is too low",
            hint="try --precision fp32; if that does not help, get or train the model again",
        )
