"""Two stages of a pipeline at the same time."""

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def read_ahead(items: Iterator[T]) -> Generator[T, None, None]:
    """The same items, each made in a thread while the caller is busy with the one before.

    One item is ahead at most, so memory stays bounded. What the iterator raises is raised here, in its place.
    """
    with ThreadPoolExecutor(max_workers=1) as thread:
        upcoming = thread.submit(_next_of, items)
        while item := upcoming.result():
            upcoming = thread.submit(_next_of, items)
            yield item[0]


def _next_of(items: Iterator[T]) -> tuple[T, ...]:
    """The next item in a tuple that is empty at the end: StopIteration cannot cross threads."""
    return next(((item,) for item in items), ())
