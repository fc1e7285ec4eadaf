"""`/v1/completions`: whole responses and streams, in OpenAI's form.

A request asks for one or several texts for each of its prompts. All of them are given to the worker at once, and their
events come back through one queue.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tunesmith.config import ServeConfig
from tunesmith.generation.detokenizer import IncrementalDetokenizer
from tunesmith.generation.sequence import GenerationRequest, TokenLogprob
from tunesmith.serving.api_errors import APIError, JsonResponse
from tunesmith.serving.completion_request import CompletionRequest, Prompt, read_body, read_request
from tunesmith.serving.logprobs import format_logprobs, score_prompt
from tunesmith.serving.metrics import Metrics
from tunesmith.serving.served_model import ServedModel, find_model
from tunesmith.serving.server import RequestFinished
from tunesmith.serving.worker import SequenceEnded, SequenceEvent, SequenceStream, TextDelta, TextToken
from tunesmith.utils.files import to_json

T = TypeVar("T")
READ_TIMEOUT_S = 30.0
"""For a client to read the response, beyond the time that generation may take."""
KEEP_ALIVE_S = 15.0
"""After this time without an event a stream sends a comment: proxies close what looks dead."""
RETRY_AFTER_S = 2
SEEDS = 2**64
DRAWN_SEEDS = 2**31


@dataclass(frozen=True)
class EncodedPrompt:
    """A tokenized prompt.

    Attributes:
        ids: with an end-of-text at their beginning.
        n_given: how many of them came from the client.
    """

    ids: list[int]
    n_given: int
    text: str

    @classmethod
    def of(cls, prompt: Prompt, model: ServedModel) -> "EncodedPrompt":
        """Tokenize; an end-of-text at the beginning is not doubled.

        Raises:
            APIError: for ids that the model does not have, and for too many of them.
        """
        tokenizer = model.loaded.tokenizer
        if isinstance(prompt, str):
            text = "" if prompt == tokenizer.end_of_text else prompt
            [given] = tokenizer.encode([text])
        else:
            given, vocab_size = prompt, tokenizer.vocab_size
            if not all(0 <= token < vocab_size for token in given):
                raise APIError(
                    400, "prompt contains token ids that are not from 0 to {last}", param="prompt", last=vocab_size - 1
                )
            text = tokenizer.decode(given)
        ids = given if given[:1] == [tokenizer.end_of_text_id] else [tokenizer.end_of_text_id, *given]
        if len(ids) > model.context_length:
            raise APIError(
                400,
                "the prompt has {tokens:,} tokens, and {model} reads at most {most:,}",
                code="context_length_exceeded",
                param="prompt",
                tokens=len(given),
                model=model.name,
                most=model.context_length - 1,
            )
        return cls(ids, len(given), text)


@dataclass(eq=False)
class Choice:
    """One text of the response, as far as it is generated."""

    prompt: EncodedPrompt
    seed: int
    text: str = ""
    tokens: list[TextToken] = field(default_factory=list)
    ended: SequenceEnded | None = None

    @property
    def n_tokens(self) -> int:
        """Generated so far, as far as is known."""
        return self.ended.n_tokens if self.ended else len(self.tokens)

    @property
    def mean_logprob(self) -> float:
        """Of its tokens; what `best_of` compares."""
        return sum(token.entry.logprob for token in self.tokens) / max(len(self.tokens), 1)


class CompletionsEndpoint:
    """Handles completion requests.

    Args:
        models: that are served.
        config: limits, and the seed of the seeds for requests without one.
        metrics: of the server.
        on_finished: called after every request.
    """

    def __init__(
        self,
        models: Sequence[ServedModel],
        config: ServeConfig,
        metrics: Metrics,
        on_finished: Callable[[RequestFinished], object],
    ) -> None:
        self._models = models
        self._config = config
        self._metrics = metrics
        self._on_finished = on_finished
        self._random = np.random.default_rng(config.seed)

    async def create(self, http_request: Request) -> Response:
        """Handle a request.

        Raises:
            APIError: if it is invalid, too large, or the server is busy.
        """
        started_s = time.monotonic()
        request = read_request(await read_body(http_request))
        model = find_model(self._models, request.model)
        self._check_limits(request)
        prompts = await asyncio.to_thread(lambda: [EncodedPrompt.of(prompt, model) for prompt in request.prompts])
        self._check_queue(request, model)
        seed = int(self._random.integers(DRAWN_SEEDS)) if request.seed is None else request.seed
        completion = _Completion(request, model, prompts, seed, self._config.request_timeout, started_s, self._record)
        return _EventStream(completion) if request.stream else await completion.respond(http_request.receive)

    def _check_limits(self, request: CompletionRequest) -> None:
        if request.max_new_tokens > self._config.max_new_tokens:
            raise APIError(
                400,
                "max_tokens is {asked:,}; this server generates at most {most:,} (--max-new-tokens)",
                param="max_tokens",
                asked=request.max_new_tokens,
                most=self._config.max_new_tokens,
            )
        n_texts = len(request.prompts) * request.n_generated
        if n_texts > self._config.max_queue:
            raise APIError(
                400,
                "the request asks for {asked:,} texts; this server takes at most {most:,} at once (--max-queue)",
                param="n",
                asked=n_texts,
                most=self._config.max_queue,
            )

    def _check_queue(self, request: CompletionRequest, model: ServedModel) -> None:
        n_free = self._config.max_queue + model.worker.batch_size - model.n_texts
        if len(request.prompts) * request.n_generated > n_free:
            self._metrics.requests.labels(model.name, "busy").inc()
            raise APIError(
                503,
                "{model} is busy: {texts:,} texts are being generated or queued",
                code="busy",
                retry_after_s=RETRY_AFTER_S,
                model=model.name,
                texts=model.n_texts,
            )

    def _record(self, completion: "_Completion", duration_s: float) -> None:
        name, usage = completion.model.name, completion.usage()
        self._metrics.requests.labels(name, completion.outcome).inc()
        self._metrics.prompt_tokens.labels(name).inc(usage["prompt_tokens"])
        n_tokens = sum(
            max(choice.ended.n_tokens if choice.ended else 0, len(choice.tokens)) for choice in completion.choices
        )
        self._metrics.generated_tokens.labels(name).inc(n_tokens)
        self._metrics.duration_s.labels(name).observe(duration_s)
        if completion.first_text_s is not None:
            self._metrics.first_token_s.labels(name).observe(completion.first_text_s)
        self._on_finished(RequestFinished(name, completion.outcome, len(completion.choices), n_tokens, duration_s))


class _Completion:
    """A request that is being answered.

    Attributes:
        choices: every text that is generated, prompt by prompt.
        outcome: for metrics: ok, client_disconnected or the code of an error.
        first_text_s: from the request to the first text.
    """

    def __init__(
        self,
        request: CompletionRequest,
        model: ServedModel,
        prompts: list[EncodedPrompt],
        seed: int,
        request_timeout: float,
        started_s: float,
        record: Callable[["_Completion", float], object],
    ) -> None:
        self.model = model
        self.outcome = "client_disconnected"
        self.first_text_s: float | None = None
        self.choices = [
            Choice(prompt, (seed + number * request.n_generated + text) % SEEDS)
            for number, prompt in enumerate(prompts)
            for text in range(request.n_generated)
        ]
        self._request = request
        self._prompts = prompts
        self._max_seconds = request_timeout
        self._started_s = started_s
        self._record = record
        self._events: asyncio.Queue[tuple[Choice, SequenceEvent]] = asyncio.Queue()
        self._streams: list[SequenceStream] = []
        self._head = {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": model.name,
        }

    def usage(self) -> dict[str, int]:
        """Return the number of the client's tokens, and of generated ones."""
        n_given = sum(prompt.n_given for prompt in self._prompts)
        n_generated = sum(choice.n_tokens for choice in self.choices)
        return {
            "prompt_tokens": n_given,
            "completion_tokens": n_generated,
            "total_tokens": n_given + n_generated,
        }

    async def respond(self, receive: Receive) -> Response:
        """Generate the whole response."""
        self._begin()
        try:
            body = await self._unless_disconnected(receive, self._body())
            self.outcome = "ok"
            return JsonResponse(body)
        except ClientDisconnected:
            return Response(status_code=499)  # the client is gone
        except APIError as error:
            self.outcome = str(error.body["error"]["code"])
            raise
        finally:
            self._end()

    async def stream(self, send: Send, receive: Receive) -> None:
        """Send the response piece by piece."""
        self._begin()
        try:
            with suppress(ClientDisconnected):
                await self._unless_disconnected(receive, self._send_all(send))
        finally:
            self._end()

    def _begin(self) -> None:
        """Give every text to the worker."""
        self.model.n_texts += len(self.choices)
        if self._request.max_new_tokens:
            self._streams = [self._generate(choice) for choice in self.choices]

    def _generate(self, choice: Choice) -> SequenceStream:
        request = GenerationRequest(
            choice.prompt.ids,
            choice.seed,
            self._request.params,
            self._request.max_new_tokens,
            self._request.min_tokens or 0,
            n_top_logprobs=self._request.logprobs or 0,
        )
        return self.model.worker.generate(
            request, self._request.stops, lambda event: self._events.put_nowait((choice, event))
        )

    def _end(self) -> None:
        """Cancel what is not finished, and record the outcome."""
        self.model.n_texts -= len(self.choices)
        for stream, choice in zip(self._streams, self.choices, strict=False):
            if choice.ended is None:
                self.model.worker.cancel(stream)
        self._record(self, time.monotonic() - self._started_s)

    def _unless_disconnected(self, receive: Receive, work: Coroutine[Any, Any, T]) -> Coroutine[Any, Any, T]:
        return run_until_disconnect(receive, work, timeout_s=self._max_seconds + READ_TIMEOUT_S)

    async def _updates(self) -> AsyncGenerator[tuple[Choice, TextDelta | SequenceEnded] | None, None]:
        """Yield events until every text has ended; None after some time without one.

        Raises:
            APIError: if a text cannot be generated.
        """
        n_open = len(self._streams)
        time_limit = asyncio.get_running_loop().call_later(self._max_seconds, self._truncate)
        try:
            while n_open:
                try:
                    async with asyncio.timeout(KEEP_ALIVE_S):  # Python 3.11's wait_for may swallow a cancellation
                        choice, event = await self._events.get()
                except TimeoutError:
                    yield None
                    continue
                if isinstance(event, APIError):
                    raise event
                if isinstance(event, SequenceEnded):
                    choice.ended = event
                    n_open -= 1
                else:
                    choice.text += event.text
                    choice.tokens += event.tokens
                if self.first_text_s is None:
                    self.first_text_s = time.monotonic() - self._started_s
                yield choice, event
        finally:
            time_limit.cancel()

    def _truncate(self) -> None:
        for stream in self._streams:
            self.model.worker.truncate(stream)

    async def _body(self) -> dict[str, Any]:
        async with aclosing(self._updates()) as updates:
            async for _ in updates:
                pass
        n_generated, n_choices = self._request.n_generated, self._request.n_choices
        entries: list[dict[str, Any]] = []
        for number, prompt_logprobs in enumerate(await self._prompt_logprobs()):
            choices = self.choices[number * n_generated :][:n_generated]
            if n_generated > n_choices:
                choices = sorted(choices, key=lambda choice: -choice.mean_logprob)[:n_choices]
            entries += [self._whole_entry(choice, prompt_logprobs) for choice in choices]
        numbered = [{**entry, "index": index} for index, entry in enumerate(entries)]
        return {**self._head, "choices": numbered, "usage": self.usage()}

    def _whole_entry(self, choice: Choice, prompt_logprobs: dict[str, Any] | None) -> dict[str, Any]:
        echoed = choice.prompt.text if self._request.echo else ""
        logprobs = self._logprobs(choice.tokens, len(echoed))
        if prompt_logprobs and logprobs:
            logprobs = {name: prompt_logprobs[name] + values for name, values in logprobs.items()}
        reason = choice.ended.finish_reason if choice.ended else "length"
        return {"text": echoed + choice.text, "logprobs": logprobs, "finish_reason": reason, "seed": choice.seed}

    async def _send_all(self, send: Send) -> None:
        try:
            async with aclosing(self._messages()) as messages:
                async for message in messages:
                    await send({"type": "http.response.body", "body": message.encode(), "more_body": True})
            self.outcome = "ok"
        except APIError as error:  # the response has begun: the error is a part of it
            self.outcome = str(error.body["error"]["code"])
            await send({"type": "http.response.body", "body": _sse(error.body).encode(), "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _messages(self) -> AsyncGenerator[str, None]:
        index_of = {choice: index for index, choice in enumerate(self.choices)}
        echo = self._request.echo
        if echo:
            prompt_logprobs = await self._prompt_logprobs()
            for index, choice in enumerate(self.choices):
                logprobs = prompt_logprobs[index // self._request.n_generated]
                finish_reason = None if self._request.max_new_tokens else "length"
                yield self._chunk(index, choice, choice.prompt.text, logprobs, finish_reason)
        async with aclosing(self._updates()) as updates:
            async for update in updates:
                if update is None:
                    yield ": waiting\n\n"
                    continue
                choice, event = update
                if isinstance(event, TextDelta):
                    logprobs = self._logprobs(event.tokens, len(choice.prompt.text) if echo else 0)
                    yield self._chunk(index_of[choice], choice, event.text, logprobs, None)
                else:
                    yield self._chunk(index_of[choice], choice, "", None, event.finish_reason)
        if self._request.includes_usage:
            yield _sse({**self._head, "choices": [], "usage": self.usage()})
        yield "data: [DONE]\n\n"

    def _chunk(
        self, index: int, choice: Choice, text: str, logprobs: dict[str, Any] | None, finish_reason: str | None
    ) -> str:
        entry = {
            "text": text,
            "index": index,
            "logprobs": logprobs,
            "finish_reason": finish_reason,
            "seed": choice.seed,
        }
        usage = {"usage": None} if self._request.includes_usage else {}
        return _sse({**self._head, "choices": [entry], **usage})

    def _logprobs(self, tokens: list[TextToken], offset: int) -> dict[str, Any] | None:
        """Return the log-probabilities of generated tokens; None where they are not requested."""
        if self._request.logprobs is None:
            return None
        entries = [(token.entry.token, token.entry, offset + token.offset) for token in tokens]
        return format_logprobs(entries, self.model.token_names)

    async def _prompt_logprobs(self) -> list[dict[str, Any] | None]:
        """Return those of each prompt, where it is echoed and log-probabilities are requested."""
        n_top = self._request.logprobs
        if n_top is None or not self._request.echo:
            return [None] * len(self._prompts)
        return [await self._score(prompt, n_top) for prompt in self._prompts]

    async def _score(self, prompt: EncodedPrompt, n_top: int) -> dict[str, Any]:
        job = self.model.worker.submit(lambda loaded: score_prompt(loaded, prompt.ids, n_top))
        scores: list[TokenLogprob | None] = [*(await asyncio.wrap_future(job))]
        if prompt.n_given == len(prompt.ids):  # the client gave the end-of-text, which nothing predicts
            scores = [None, *scores]
        detokenizer = IncrementalDetokenizer(self.model.loaded.tokenizer)
        entries = []
        offset = 0
        for token, score in zip(prompt.ids[len(prompt.ids) - len(scores) :], scores, strict=True):
            entries.append((token, score, offset))
            offset += len(detokenizer.push(token))
        return format_logprobs(entries, self.model.token_names)


class _EventStream(Response):
    """Server-sent events."""

    def __init__(self, completion: _Completion) -> None:
        super().__init__(
            media_type="text/event-stream", headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        )
        del self.headers["content-length"]
        self._completion = completion

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await self._completion.stream(send, receive)


def _sse(value: dict[str, Any]) -> str:
    return f"data: {to_json(value, separators=(',', ':'))}\n\n"


class ClientDisconnected(Exception):  # noqa: N818  not an error
    """The client did not wait for the response, or did not read it in time."""


async def run_until_disconnect(receive: Receive, work: Coroutine[Any, Any, T], *, timeout_s: float) -> T:
    """Do the work while the client is connected.

    Args:
        receive: the request's, its body read.
        work: canceled when the client disconnects.
        timeout_s: limit of the work; more only if the client does not read.

    Raises:
        ClientDisconnected: if it was canceled.
    """
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_wait_for_disconnect(receive))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED, timeout=timeout_s)
        if task.done():
            return task.result()
        raise ClientDisconnected
    finally:
        for future in (task, watch):
            future.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
