"""Run one stage of a pipeline in a background thread."""

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def prefetch(items: Iterator[T]) -> Generator[T, None, None]:
    """Yield the same items; the next one is computed in a thread while the caller uses the current one.

    At most one item is ahead, so memory stays bounded. Exceptions of the iterator are raised here, in order.
    """
    with ThreadPoolExecutor(max_workers=1) as thread:
        upcoming = thread.submit(_next_item, items)
        while item := upcoming.result():
            upcoming = thread.submit(_next_item, items)
            yield item[0]


def _next_item(items: Iterator[T]) -> tuple[T, ...]:
    """Wrap the next item in a tuple, empty at the end: StopIteration cannot cross threads."""
    return next(((item,) for item in items), ())
