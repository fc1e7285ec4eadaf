"""Work that ends when its client is gone."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

T = TypeVar("T")


class HungUp(Exception):  # noqa: N818  nobody's error
    """The client did not wait for the answer, or did not read it in time."""


async def unless_hung_up(receive: Receive, work: Coroutine[Any, Any, T], *, most_s: float) -> T:
    """Do the work while the client is there.

    Args:
        receive: the request's, its body read.
        work: cancelled when the client hangs up.
        most_s: it may take; longer only if the client does not read.

    Raises:
        HungUp: if it was cancelled.
    """
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_hang_up(receive))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED, timeout=most_s)
        if task.done():
            return task.result()
        raise HungUp
    finally:
        for future in (task, watch):
            future.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


async def _hang_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
