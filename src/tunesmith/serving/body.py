"""The body of a request, if it is one that this server takes."""

import asyncio

from starlette.requests import ClientDisconnect, Request

from tunesmith.serving.refusal import Refusal

MOST_BYTES = 4 * 2**20
MOST_S = 30.0


async def read_body(request: Request) -> bytes:
    """All of it.

    Raises:
        Refusal: if it is not said to be JSON, is too large or comes too slowly.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # what pages of other sites may send without asking is not this
        raise Refusal(415, "the body must be JSON: send the header Content-Type: application/json")
    try:
        async with asyncio.timeout(MOST_S):
            return await _read(request)
    except TimeoutError:
        raise Refusal(408, "the body did not come within {most:g} s", most=MOST_S) from None
    except ClientDisconnect:
        raise Refusal(400, "the body ended too early") from None


async def _read(request: Request) -> bytes:
    parts = []
    n_bytes = 0
    async for part in request.stream():
        parts.append(part)
        n_bytes += len(part)
        if n_bytes > MOST_BYTES:
            raise Refusal(413, "the body is larger than {most:,} bytes", most=MOST_BYTES)
    return b"".join(parts)
