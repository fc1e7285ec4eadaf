"""Ctrl-C and SIGTERM as a wish: the loop finishes its step, saves, and ends."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """Whether somebody asked the run to end."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def __call__(self) -> bool:
        return self._event.is_set()

    def set(self) -> None:
        """Ask for the end; safe from any thread."""
        self._event.set()


@contextmanager
def stop_on_signals(request: StopRequest, *, on_request: Callable[[], None]) -> Iterator[None]:
    """Turn the first Ctrl-C or SIGTERM into a stop request; the second one acts as it always did.

    Outside the main thread signals cannot be caught, and the request is only set by hand.

    Args:
        request: to be set.
        on_request: called at once, to tell the user.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        request.set()
        restore()
        on_request()

    for number in previous:
        signal.signal(number, on_signal)
    try:
        yield
    finally:
        restore()
