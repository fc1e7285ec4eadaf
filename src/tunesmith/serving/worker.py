"""One thread for each model: it alone touches the model, and writes all texts that were asked for side by side.

Orders come through a queue and are looked at between two steps, so that a new text joins those that are being written
at once, and one that nobody waits for any more gives up its place. What happens is told to the event loop, all of a
step at a time.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import TypeVar

from tunesmith.errors import UserError
from tunesmith.generation.engine import Engine
from tunesmith.generation.text_model import TextModel
from tunesmith.serving.live_text import LiveText, Tell, TextEvent, TextOrder
from tunesmith.serving.refusal import Refusal
from tunesmith.utils.device import use_device
from tunesmith.utils.oom import free_memory, is_out_of_memory

T = TypeVar("T")
Order = Callable[[], object]


class Worker:
    """Writes with one model.

    Args:
        writer: the model.
        texts_at_once: most that are written side by side.
    """

    def __init__(self, writer: TextModel, *, texts_at_once: int) -> None:
        self.writer = writer
        self.texts_at_once = texts_at_once
        self._orders: SimpleQueue[Order | None] = SimpleQueue()
        self._texts: dict[int, LiveText] = {}
        self._told: list[tuple[Tell, TextEvent]] = []
        self._engine = self._new_engine()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)  # a forced end does not wait for a text

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin; events are told in this loop."""
        self._loop = loop
        self._thread.start()

    def stop(self) -> None:
        """Finish the step and end."""
        self._orders.put(None)
        if self._thread.is_alive():
            self._thread.join()

    @property
    def is_alive(self) -> bool:
        """Whether it still works."""
        return self._thread.is_alive()

    @property
    def n_writing(self) -> int:
        """Texts that have a place."""
        return min(len(self._texts), self.texts_at_once)

    @property
    def n_waiting(self) -> int:
        """Texts that wait for one, with those that the thread has not seen yet."""
        return len(self._texts) - self.n_writing + self._orders.qsize()

    def write(self, order: TextOrder, tell: Tell) -> LiveText:
        """Let a text be written; returns what `cancel` and `cut` know it by."""
        text = LiveText(order, self.writer.tokenizer, lambda event: self._told.append((tell, event)))
        self._orders.put(lambda: self._begin(text))
        return text

    def cancel(self, text: LiveText) -> None:
        """Forget a text; nothing more is told of it once the thread has heard."""
        self._orders.put(lambda: self._forget(text))

    def cut(self, text: LiveText) -> None:
        """End a text where it is, as at its length limit; one that has not begun is refused."""
        self._orders.put(lambda: self._cut(text))

    def ask(self, job: Callable[[TextModel], T]) -> Future[T]:
        """Do something else with the model between two steps."""
        answer: Future[T] = Future()

        def do() -> None:
            try:
                answer.set_result(job(self.writer))
            except Exception as error:  # noqa: BLE001  it belongs to who asked
                answer.set_exception(error)

        self._orders.put(do)
        return answer

    def _work(self) -> None:
        use_device(self.writer.model.head_VC.device)  # each thread has a current GPU of its own
        while self._take_orders():
            try:
                finished = self._engine.step()
            except Exception as error:  # noqa: BLE001  nobody is left waiting, whatever it was
                failure: Exception | None = error
            else:
                failure = None
                for number, continuation in finished:
                    self._texts.pop(number).end(continuation.finish_reason)
            if failure is not None:  # outside of except, which holds the step's tensors
                self._recover(failure)
            self._deliver()

    def _take_orders(self) -> bool:
        """Do what was asked for meanwhile, and wait while there is nothing to write; False at the end."""
        while True:
            try:
                order = self._orders.get(block=self._engine.is_idle)
            except Empty:
                return True
            if order is None:
                return False
            order()
            self._deliver()

    def _begin(self, text: LiveText) -> None:
        try:
            self._texts[self._engine.submit(text.begin())] = text
        except UserError as error:
            text.tell(Refusal(400, "{problem}", code="context_length_exceeded", param="prompt", problem=error))

    def _forget(self, text: LiveText) -> bool:
        for number, known in self._texts.items():
            if known is text:
                self._engine.cancel(number)
                del self._texts[number]
                return True
        return False

    def _cut(self, text: LiveText) -> None:
        if not self._forget(text):
            return
        if text.has_begun:
            text.end("length")
        else:
            text.tell(Refusal(503, "the time limit passed before the text could begin", code="timeout"))

    def _recover(self, failure: Exception) -> None:
        """Begin anew with half as many texts where memory ran out; else say to all that it failed."""
        texts = list(self._texts.values())
        self._texts.clear()
        self._engine.close()
        del self._engine  # its cache goes before another one is made
        out_of_memory = is_out_of_memory(failure)
        failure.__traceback__ = None
        free_memory()
        if out_of_memory and self.texts_at_once > 1:
            self.texts_at_once = -(-self.texts_at_once // 2)
            self._engine = self._new_engine()
            for text in texts:
                self._begin(text)
            return
        self._engine = self._new_engine()
        reason = failure.message if isinstance(failure, UserError) else f"{type(failure).__name__}: {failure}"
        for text in texts:
            text.tell(Refusal(500, "the model failed: {reason}", code="model_failed", reason=reason))

    def _new_engine(self) -> Engine:
        model = self.writer.model
        return Engine(
            model,
            end_of_text_id=self.writer.tokenizer.end_of_text_id,
            texts_at_once=self.texts_at_once,
            positions=model.config.n_positions,
            logits=self.writer.logits,
        )

    def _deliver(self) -> None:
        """Tell in the event loop what has happened in this thread."""
        told, self._told = self._told, []
        if told and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(_tell_all, told)


def _tell_all(told: list[tuple[Tell, TextEvent]]) -> None:
    for tell, event in told:
        tell(event)
