"""`/v1/completions`: whole answers and streams, in OpenAI's form."""

import secrets
import time
from asyncio import to_thread
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tunesmith.config import ServeConfig
from tunesmith.serving.answer import Answer, Choice, ReadPrompt
from tunesmith.serving.body import read_body
from tunesmith.serving.completion_request import CompletionRequest, read_request
from tunesmith.serving.events import Answered
from tunesmith.serving.hang_up import HungUp, unless_hung_up
from tunesmith.serving.json_response import JsonResponse
from tunesmith.serving.live_text import Ended, Piece
from tunesmith.serving.metrics import Metrics
from tunesmith.serving.refusal import Refusal
from tunesmith.serving.served_model import ServedModel, find_model
from tunesmith.utils.files import to_json

READING_S = 30.0
"""How long a client may take to read what was written, beyond the time that writing may take."""
RETRY_AFTER_S = 2
SEEDS_DRAWN = 2**31


class Completions:
    """Answers requests for completions.

    Args:
        models: that are served.
        config: limits, and the seed that seeds are drawn from where a request names none.
        metrics: counts.
        on_answer: told of every request that is done with.
    """

    def __init__(
        self,
        models: Sequence[ServedModel],
        config: ServeConfig,
        metrics: Metrics,
        on_answer: Callable[[Answered], object],
    ) -> None:
        self._models = models
        self._config = config
        self._metrics = metrics
        self._on_answer = on_answer
        self._random = np.random.default_rng(config.seed)

    async def answer(self, request: Request) -> Response:
        """One request.

        Raises:
            Refusal: if it cannot be answered.
        """
        begun_s = time.monotonic()
        asked = read_request(await read_body(request))
        model = find_model(self._models, asked.model)
        self._refuse_too_much(asked)
        prompts = await to_thread(lambda: [ReadPrompt.of(prompt, model) for prompt in asked.prompts])
        self._refuse_when_busy(asked, model)
        seed = int(self._random.integers(SEEDS_DRAWN)) if asked.seed is None else asked.seed
        exchange = _Exchange(Answer(asked, model, prompts, seed), self, begun_s, self._config.max_seconds)
        return _EventStream(exchange) if asked.stream else await exchange.whole(request.receive)

    def _refuse_too_much(self, asked: CompletionRequest) -> None:
        if asked.most_tokens > self._config.max_new_tokens:
            raise Refusal(
                400,
                "max_tokens is {asked:,}; this server writes at most {most:,} (--max-new-tokens)",
                param="max_tokens",
                asked=asked.most_tokens,
                most=self._config.max_new_tokens,
            )
        n_texts = len(asked.prompts) * asked.n_written
        if n_texts > self._config.max_waiting:
            raise Refusal(
                400,
                "the request asks for {asked:,} texts; this server takes at most {most:,} at once (--max-waiting)",
                param="n",
                asked=n_texts,
                most=self._config.max_waiting,
            )

    def _refuse_when_busy(self, asked: CompletionRequest, model: ServedModel) -> None:
        room = self._config.max_waiting + model.worker.texts_at_once - model.n_texts
        if len(asked.prompts) * asked.n_written > room:
            self._metrics.requests.labels(model.name, "busy").inc()
            raise Refusal(
                503,
                "{model} is busy: {texts:,} texts are being written or wait for their turn",
                code="busy",
                retry_after_s=RETRY_AFTER_S,
                model=model.name,
                texts=model.n_texts,
            )

    def done(self, answer: Answer, duration_s: float) -> None:
        """Count an answer."""
        name, usage = answer.model.name, answer.usage()
        self._metrics.requests.labels(name, answer.outcome).inc()
        self._metrics.prompt_tokens.labels(name).inc(usage["prompt_tokens"])
        written = sum(
            max(choice.ended.n_tokens if choice.ended else 0, len(choice.tokens)) for choice in answer.choices
        )
        self._metrics.generated_tokens.labels(name).inc(written)
        self._metrics.duration_s.labels(name).observe(duration_s)
        if answer.first_text_s is not None:
            self._metrics.first_token_s.labels(name).observe(answer.first_text_s)
        self._on_answer(Answered(name, answer.outcome, len(answer.choices), written, duration_s))


class _Exchange:
    """An answer on its way to its client."""

    def __init__(self, answer: Answer, completions: Completions, begun_s: float, max_seconds: float) -> None:
        self._answer = answer
        self._completions = completions
        self._begun_s = begun_s
        self._max_seconds = max_seconds
        self._head = {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": answer.model.name,
        }

    async def whole(self, receive: Receive) -> Response:
        """All of it at once."""
        answer = self._answer
        answer.begin()
        try:
            body = await unless_hung_up(receive, self._whole(), most_s=self._max_seconds + READING_S)
            answer.outcome = "ok"
            return JsonResponse(body)
        except HungUp:
            return Response(status_code=499)  # which nobody reads
        except Refusal as refusal:
            answer.outcome = str(refusal.body["error"]["code"])
            raise
        finally:
            self._end()

    async def _whole(self) -> dict[str, Any]:
        answer = self._answer
        async with aclosing(self._events()) as events:
            async for _ in events:
                pass
        of_prompts = await answer.prompt_logprobs()
        n_written, n_choices = answer.asked.n_written, answer.asked.n_choices
        choices = []
        for number, of_prompt in enumerate(of_prompts):
            written = answer.choices[number * n_written :][:n_written]
            if n_written > n_choices:
                written = sorted(written, key=lambda choice: -choice.mean_logprob)[:n_choices]
            choices += [self._choice(choice, of_prompt) for choice in written]
        numbered = [{**choice, "index": index} for index, choice in enumerate(choices)]
        return {**self._head, "choices": numbered, "usage": answer.usage()}

    def _choice(self, choice: Choice, of_prompt: dict[str, Any] | None) -> dict[str, Any]:
        before = choice.prompt.text if self._answer.asked.echo else ""
        logprobs = self._answer.logprobs(choice.tokens, len(before))
        if of_prompt and logprobs:
            logprobs = {name: of_prompt[name] + values for name, values in logprobs.items()}
        reason = choice.ended.finish_reason if choice.ended else "length"
        return {"text": before + choice.text, "logprobs": logprobs, "finish_reason": reason, "seed": choice.seed}

    async def stream(self, send: Send, receive: Receive) -> None:
        """Piece by piece."""
        answer = self._answer
        answer.begin()
        try:
            await unless_hung_up(receive, self._send_all(send), most_s=self._max_seconds + READING_S)
        except HungUp:
            pass
        finally:
            self._end()

    async def _send_all(self, send: Send) -> None:
        answer = self._answer
        try:
            async with aclosing(self._messages()) as messages:
                async for message in messages:
                    await send({"type": "http.response.body", "body": message.encode(), "more_body": True})
            answer.outcome = "ok"
        except Refusal as refusal:  # the answer has begun: the error is a part of it
            answer.outcome = str(refusal.body["error"]["code"])
            await send({"type": "http.response.body", "body": _event(refusal.body).encode(), "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _messages(self) -> AsyncGenerator[str, None]:
        answer = self._answer
        index_of = {id(choice): index for index, choice in enumerate(answer.choices)}
        echo = answer.asked.echo
        if echo:
            of_prompts = await answer.prompt_logprobs()
            for index, choice in enumerate(answer.choices):
                of_prompt = of_prompts[index // answer.asked.n_written]
                finish = None if answer.asked.most_tokens else "length"
                yield self._chunk(index, choice, choice.prompt.text, of_prompt, finish)
        async with aclosing(self._events()) as events:
            async for happened in events:
                if happened is None:
                    yield ": waiting\n\n"
                    continue
                choice, event = happened
                index = index_of[id(choice)]
                if isinstance(event, Piece):
                    logprobs = answer.logprobs(event.tokens, len(choice.prompt.text) if echo else 0)
                    yield self._chunk(index, choice, event.text, logprobs, None)
                else:
                    yield self._chunk(index, choice, "", None, event.finish_reason)
        if answer.asked.wants_usage:
            yield _event({**self._head, "choices": [], "usage": answer.usage()})
        yield "data: [DONE]\n\n"

    def _chunk(
        self, index: int, choice: Choice, text: str, logprobs: dict[str, Any] | None, finish_reason: str | None
    ) -> str:
        part = {
            "text": text,
            "index": index,
            "logprobs": logprobs,
            "finish_reason": finish_reason,
            "seed": choice.seed,
        }
        usage = {"usage": None} if self._answer.asked.wants_usage else {}
        return _event({**self._head, "choices": [part], **usage})

    async def _events(self) -> AsyncGenerator[tuple[Choice, Piece | Ended] | None, None]:
        async with aclosing(self._answer.events(self._max_seconds)) as events:
            async for event in events:
                if event and self._answer.first_text_s is None:
                    self._answer.first_text_s = time.monotonic() - self._begun_s
                yield event

    def _end(self) -> None:
        self._answer.close()
        self._completions.done(self._answer, time.monotonic() - self._begun_s)


class _EventStream(Response):
    """Server-sent events."""

    def __init__(self, exchange: _Exchange) -> None:
        super().__init__(
            media_type="text/event-stream", headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        )
        del self.headers["content-length"]
        self._exchange = exchange

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await self._exchange.stream(send, receive)


def _event(value: dict[str, Any]) -> str:
    return f"data: {to_json(value, separators=(',', ':'))}\n\n"
