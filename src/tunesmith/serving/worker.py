"""The worker thread of a model: it alone touches the model, and generates all requested sequences side by side.

Commands come through a queue and are executed between two steps, so that a new sequence joins those that are being
generated at once, and a canceled one gives up its slot. Events are delivered to the event loop, all of a step at a
time: pieces of text that are certain, each with the tokens that begin in it. What a character or a stop string may
still be made of is held back, and so are its tokens.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from queue import Empty, SimpleQueue
from typing import Literal, TypeVar

from tunesmith.data.tokenizer import TextTokenizer
from tunesmith.errors import UserError
from tunesmith.generation.detokenizer import IncrementalDetokenizer, StopStringMatcher
from tunesmith.generation.engine import Engine
from tunesmith.generation.loading import LoadedModel
from tunesmith.generation.sequence import GenerationRequest, TokenLogprob
from tunesmith.serving.api_errors import APIError
from tunesmith.utils.device import use_device
from tunesmith.utils.oom import free_memory, is_out_of_memory

T = TypeVar("T")


@dataclass(frozen=True)
class TextToken:
    """A token with its offset: characters of the generated text before it."""

    entry: TokenLogprob
    offset: int


@dataclass(frozen=True)
class TextDelta:
    """More of a text."""

    text: str
    tokens: list[TextToken]


@dataclass(frozen=True)
class SequenceEnded:
    """The text is finished.

    Attributes:
        finish_reason: "stop" at end-of-text or a stop string, "length" at a limit.
        n_tokens: generated.
    """

    finish_reason: Literal["stop", "length"]
    n_tokens: int


SequenceEvent = TextDelta | SequenceEnded | APIError
EventSink = Callable[[SequenceEvent], object]


@dataclass(eq=False)
class SequenceStream:
    """Turns the tokens of one request into events.

    Started again, after memory ran out, it repeats no event: the same seed generates the same text.

    Attributes:
        request: without callbacks.
        sink: receives every event; called in the worker's thread.
        has_begun: whether a token was generated.
    """

    request: GenerationRequest
    stops: tuple[str, ...]
    tokenizer: TextTokenizer
    sink: EventSink
    has_begun: bool = False
    _tokens: list[TextToken] = field(default_factory=list)
    _certain: int = 0
    _sent_characters: int = 0
    _sent_tokens: int = 0

    def begin(self) -> GenerationRequest:
        """Return the request for the engine, from the beginning."""
        self._tokens = []
        self._certain = 0
        detokenizer = IncrementalDetokenizer(self.tokenizer, self.request.prompt[1:])
        self._matcher = StopStringMatcher(detokenizer, self.stops, self._on_text)
        return replace(self.request, should_stop=self._should_stop, on_token=self._on_token)

    def end(self, finish_reason: Literal["stop", "length"]) -> None:
        """Send what was held back, and the end."""
        self._matcher.end()
        tokens = self._tokens
        if self._matcher.stopped:  # those after the cut belong to the stop string
            tokens = [token for token in tokens if token.offset < len(self._matcher.text)]
        self._send_up_to(self._certain, len(tokens))
        self.sink(SequenceEnded(finish_reason, len(self._tokens)))

    def _on_text(self, piece: str) -> None:
        self._certain += len(piece)

    def _on_token(self, entry: TokenLogprob) -> None:
        self.has_begun = True
        self._tokens.append(TextToken(entry, len(self._matcher.text)))

    def _should_stop(self, token: int) -> bool:
        stops = self._matcher(token)
        if not stops and self._certain > self._sent_characters:
            n_certain = self._sent_tokens
            while n_certain < len(self._tokens) and self._tokens[n_certain].offset < self._certain:
                n_certain += 1
            self._send_up_to(self._certain, n_certain)
        return stops

    def _send_up_to(self, characters: int, n_tokens: int) -> None:
        text = self._matcher.text[self._sent_characters : characters]
        tokens = self._tokens[self._sent_tokens : n_tokens]
        if text or tokens:
            self.sink(TextDelta(text, tokens))
        self._sent_characters = max(self._sent_characters, characters)
        self._sent_tokens = max(self._sent_tokens, n_tokens)


class Worker:
    """Generates with one model in a thread of its own.

    Attributes:
        batch_size: most sequences generated side by side; halved where memory runs out.
    """

    def __init__(self, loaded: LoadedModel, *, batch_size: int) -> None:
        self.loaded = loaded
        self.batch_size = batch_size
        self._commands: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._streams: dict[int, SequenceStream] = {}
        self._events: list[tuple[EventSink, SequenceEvent]] = []
        self._engine = self._new_engine()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)  # a forced end does not wait for a text

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start the thread; events are delivered in this loop."""
        self._loop = loop
        self._thread.start()

    def stop(self) -> None:
        """Finish the step and end."""
        self._commands.put(None)
        if self._thread.is_alive():
            self._thread.join()

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    @property
    def n_running(self) -> int:
        """Sequences that have a slot."""
        return min(len(self._streams), self.batch_size)

    @property
    def n_waiting(self) -> int:
        """Sequences without a slot, and commands that the thread has not seen yet."""
        return len(self._streams) - self.n_running + self._commands.qsize()

    def generate(self, request: GenerationRequest, stops: tuple[str, ...], sink: EventSink) -> SequenceStream:
        """Queue a sequence; returns its handle for `cancel` and `truncate`."""
        stream = SequenceStream(request, stops, self.loaded.tokenizer, lambda event: self._events.append((sink, event)))
        self._commands.put(lambda: self._begin(stream))
        return stream

    def cancel(self, stream: SequenceStream) -> None:
        """Drop a sequence; it has no more events once the thread has seen this."""
        self._commands.put(lambda: self._drop(stream))

    def truncate(self, stream: SequenceStream) -> None:
        """End a sequence where it is, as at its length limit; one that has not begun gets an error."""
        self._commands.put(lambda: self._truncate(stream))

    def submit(self, job: Callable[[LoadedModel], T]) -> Future[T]:
        """Do something else with the model between two steps."""
        result: Future[T] = Future()

        def run() -> None:
            try:
                result.set_result(job(self.loaded))
            except Exception as error:  # noqa: BLE001  it belongs to the caller
                result.set_exception(error)

        self._commands.put(run)
        return result

    def _work(self) -> None:
        use_device(self.loaded.model.head_VC.device)  # each thread has a current GPU of its own
        while self._execute_commands():
            try:
                finished = self._engine.step()
            except Exception as error:  # noqa: BLE001  no client is left waiting, whatever it was
                failure: Exception | None = error
            else:
                failure = None
                for number, output in finished:
                    self._streams.pop(number).end(output.finish_reason)
            if failure is not None:  # outside of except, which keeps the step's tensors alive
                self._recover(failure)
            self._deliver()

    def _execute_commands(self) -> bool:
        """Execute what is queued, and wait while there is nothing to generate; false at the end."""
        while True:
            try:
                command = self._commands.get(block=self._engine.is_idle)
            except Empty:
                return True
            if command is None:
                return False
            command()
            self._deliver()

    def _begin(self, stream: SequenceStream) -> None:
        try:
            self._streams[self._engine.submit(stream.begin())] = stream
        except UserError as error:
            stream.sink(APIError(400, "{problem}", code="context_length_exceeded", param="prompt", problem=error))

    def _drop(self, stream: SequenceStream) -> bool:
        for number, known in self._streams.items():
            if known is stream:
                self._engine.cancel(number)
                del self._streams[number]
                return True
        return False

    def _truncate(self, stream: SequenceStream) -> None:
        if not self._drop(stream):
            return
        if stream.has_begun:
            stream.end("length")
        else:
            stream.sink(APIError(503, "the time limit passed before the text could begin", code="timeout"))

    def _recover(self, failure: Exception) -> None:
        """Start again with half the batch size where memory ran out; else report the failure to all."""
        streams = list(self._streams.values())
        self._streams.clear()
        self._engine.close()
        del self._engine  # its cache goes before another one is made
        out_of_memory = is_out_of_memory(failure)
        failure.__traceback__ = None
        free_memory()
        if out_of_memory and self.batch_size > 1:
            self.batch_size = -(-self.batch_size // 2)
            self._engine = self._new_engine()
            for stream in streams:
                self._begin(stream)
            return
        self._engine = self._new_engine()
        reason = failure.message if isinstance(failure, UserError) else f"{type(failure).__name__}: {failure}"
        for stream in streams:
            stream.sink(APIError(500, "the model failed: {reason}", code="model_failed", reason=reason))

    def _new_engine(self) -> Engine:
        model = self.loaded.model
        return Engine(
            model,
            end_of_text_id=self.loaded.tokenizer.end_of_text_id,
            batch_size=self.batch_size,
            positions=model.config.n_positions,
            logits=self.loaded.logits,
        )

    def _deliver(self) -> None:
        """Call the sinks in the event loop."""
        events, self._events = self._events, []
        if events and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(_call_sinks, events)


def _call_sinks(events: list[tuple[EventSink, SequenceEvent]]) -> None:
    for sink, event in events:
        sink(event)
