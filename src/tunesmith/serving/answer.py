"""The answer to one request for completions, while it is made.

A request asks for one or several texts behind each of its prompts. They are given to the model's thread all at once,
and what happens to them comes back through one queue.
"""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

from tunesmith.generation.request import WrittenToken
from tunesmith.generation.text_stream import TextStream
from tunesmith.serving.completion_request import CompletionRequest, Prompt
from tunesmith.serving.live_text import Ended, LiveText, Piece, PlacedToken, TextEvent, TextOrder
from tunesmith.serving.prompt_scores import score_prompt
from tunesmith.serving.refusal import Refusal
from tunesmith.serving.served_model import ServedModel

SEEDS = 2**64
SILENCE_S = 15.0
"""After so long without news a stream says that it is alive: proxies close what looks dead."""


@dataclass(frozen=True)
class ReadPrompt:
    """A prompt as the model reads it.

    Attributes:
        ids: with an end-of-text at their beginning.
        n_given: how many of them the client gave.
        text: as text.
    """

    ids: list[int]
    n_given: int
    text: str

    @classmethod
    def of(cls, prompt: Prompt, model: ServedModel) -> "ReadPrompt":
        """Tokenize; an end-of-text at the beginning is not doubled.

        Raises:
            Refusal: for what the model cannot read.
        """
        tokenizer = model.writer.tokenizer
        if isinstance(prompt, str):
            text = "" if prompt == tokenizer.end_of_text else prompt
            [given] = tokenizer.encode([text])
        else:
            given, vocab_size = prompt, tokenizer.vocab_size
            if not all(0 <= token < vocab_size for token in given):
                raise Refusal(
                    400, "prompt holds token ids that are not from 0 to {last}", param="prompt", last=vocab_size - 1
                )
            text = tokenizer.decode(given)
        ids = given if given[:1] == [tokenizer.end_of_text_id] else [tokenizer.end_of_text_id, *given]
        if len(ids) > model.context_tokens:
            raise Refusal(
                400,
                "the prompt has {tokens:,} tokens, and {model} reads at most {most:,}",
                code="context_length_exceeded",
                param="prompt",
                tokens=len(given),
                model=model.name,
                most=model.context_tokens - 1,
            )
        return cls(ids, len(given), text)


@dataclass
class Choice:
    """One text of the answer.

    Attributes:
        prompt: what it continues.
        seed: writes the same text again.
        text: so far.
        tokens: so far.
        ended: how, once it has.
    """

    prompt: ReadPrompt
    seed: int
    text: str = ""
    tokens: list[PlacedToken] = field(default_factory=list)
    ended: Ended | None = None

    @property
    def n_tokens(self) -> int:
        """So far, as far as is known."""
        return self.ended.n_tokens if self.ended else len(self.tokens)

    @property
    def mean_logprob(self) -> float:
        """Of its tokens; what `best_of` compares."""
        return sum(token.written.logprob for token in self.tokens) / max(len(self.tokens), 1)


class Answer:
    """What is being made for a request.

    Attributes:
        asked: the request.
        model: that writes.
        prompts: as it reads them.
        choices: every text that is written, prompt by prompt.
        outcome: for the figures: ok, hung_up or the code of an error.
        first_text_s: from the request to the first text.
    """

    def __init__(self, asked: CompletionRequest, model: ServedModel, prompts: list[ReadPrompt], seed: int) -> None:
        self.asked = asked
        self.model = model
        self.prompts = prompts
        self.outcome = "hung_up"
        self.first_text_s: float | None = None
        self.choices = [
            Choice(prompt, (seed + number * asked.n_written + text) % SEEDS)
            for number, prompt in enumerate(prompts)
            for text in range(asked.n_written)
        ]
        self._events: asyncio.Queue[tuple[Choice, TextEvent]] = asyncio.Queue()
        self._texts: list[LiveText] = []

    def begin(self) -> None:
        """Give every text to the model's thread."""
        self.model.n_texts += len(self.choices)
        if self.asked.most_tokens:
            self._texts = [self._write(choice) for choice in self.choices]

    def _write(self, choice: Choice) -> LiveText:
        asked = self.asked
        order = TextOrder(
            choice.prompt.ids,
            choice.seed,
            asked.rules,
            asked.most_tokens,
            asked.min_tokens or 0,
            asked.stops,
            asked.logprobs or 0,
        )
        return self.model.worker.write(order, lambda event: self._events.put_nowait((choice, event)))

    def close(self) -> None:
        """Nobody waits any more: texts that are not finished give up their places."""
        self.model.n_texts -= len(self.choices)
        for text, choice in zip(self._texts, self.choices, strict=False):
            if choice.ended is None:
                self.model.worker.cancel(text)

    async def events(self, most_s: float) -> AsyncGenerator[tuple[Choice, Piece | Ended] | None, None]:
        """What happens until every text has ended; None where nothing has happened for a while.

        Args:
            most_s: after so long the texts end where they are.

        Raises:
            Refusal: if a text cannot be written.
        """
        n_open = len(self._texts)
        limit = asyncio.get_running_loop().call_later(most_s, self._cut)
        try:
            while n_open:
                try:
                    async with asyncio.timeout(SILENCE_S):  # Python 3.11's wait_for may swallow a cancellation
                        choice, event = await self._events.get()
                except TimeoutError:
                    yield None
                    continue
                if isinstance(event, Refusal):
                    raise event
                if isinstance(event, Ended):
                    choice.ended = event
                    n_open -= 1
                else:
                    choice.text += event.text
                    choice.tokens += event.tokens
                yield choice, event
        finally:
            limit.cancel()

    def _cut(self) -> None:
        for text in self._texts:
            self.model.worker.cut(text)

    async def prompt_logprobs(self) -> list[dict[str, Any] | None]:
        """Of each prompt, where the answer begins with it and tells log-probabilities."""
        n_likeliest = self.asked.logprobs
        if n_likeliest is None or not self.asked.echo:
            return [None] * len(self.prompts)
        return [await self._scored(prompt, n_likeliest) for prompt in self.prompts]

    async def _scored(self, prompt: ReadPrompt, n_likeliest: int) -> dict[str, Any]:
        scored = await asyncio.wrap_future(
            self.model.worker.ask(lambda writer: score_prompt(writer, prompt.ids, n_likeliest))
        )
        given: list[WrittenToken | None] = [*scored]
        if prompt.n_given == len(prompt.ids):  # the client gave the end-of-text, which nothing predicts
            given = [None, *scored]
        stream = TextStream(self.model.writer.tokenizer)
        logprobs = self._no_logprobs()
        offset = 0
        for token, thought in zip(prompt.ids[-len(given) :], given, strict=True):
            self._add(logprobs, token, thought, offset)
            offset += len(stream.push(token))
        return logprobs

    def logprobs(self, tokens: list[PlacedToken], characters_before: int) -> dict[str, Any] | None:
        """Of tokens, as OpenAI writes them; None where they were not asked for."""
        if self.asked.logprobs is None:
            return None
        logprobs = self._no_logprobs()
        for token in tokens:
            self._add(logprobs, token.written.token, token.written, characters_before + token.offset)
        return logprobs

    @staticmethod
    def _no_logprobs() -> dict[str, Any]:
        return {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}

    def _add(self, logprobs: dict[str, Any], token: int, thought: WrittenToken | None, offset: int) -> None:
        names = self.model.token_names
        logprobs["tokens"].append(names[token])
        logprobs["token_logprobs"].append(thought.logprob if thought else None)
        likeliest = {names[other]: logprob for other, logprob in thought.likeliest} if thought else None
        logprobs["top_logprobs"].append(likeliest)
        logprobs["text_offset"].append(offset)

    def usage(self) -> dict[str, int]:
        """Tokens that the client gave, and that were written for it."""
        given = sum(prompt.n_given for prompt in self.prompts)
        written = sum(choice.n_tokens for choice in self.choices)
        return {"prompt_tokens": given, "completion_tokens": written, "total_tokens": given + written}
