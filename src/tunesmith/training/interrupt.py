"""Ctrl-C and SIGTERM as a wish: the loop finishes its step, saves, and ends."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """Whether somebody asked the run to end.

    A plain flag without a lock: a signal may come while the handler of another one sets it.
    """

    def __init__(self) -> None:
        self._is_set = False

    def __call__(self) -> bool:
        return self._is_set

    def set(self) -> None:
        """Ask for the end; safe from any thread and from a signal handler."""
        self._is_set = True


@contextmanager
def stop_on_signals(request: StopRequest) -> Iterator[None]:
    """Turn the first Ctrl-C or SIGTERM into a stop request; the second one acts as it always did.

    The handler does nothing else: it may interrupt anything, a callback or a write to the terminal included. Who makes
    steps looks at the request between them. Outside the main thread signals cannot be caught, and the request is only
    set by hand.

    Args:
        request: to be set.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not set from Python

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        request.set()
        restore()

    for number in previous:
        signal.signal(number, on_signal)
    try:
        yield
    finally:
        restore()
