"""A guard against compressed files that expand as no text does."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import IO

from tunesmith.errors import UserError

LARGEST_EXPANSION = 200
"""Text shrinks to a tenth at best; a bomb of zeros expands a thousand times."""
HARMLESS_BYTES = 64 << 20
"""Below this size an expansion is not looked at."""


def expansion_limit_bytes(stored_bytes: int) -> int:
    """How large the content of a compressed file may be."""
    return max(HARMLESS_BYTES, LARGEST_EXPANSION * stored_bytes)


def expands_too_much(path: Path, member: str = "") -> UserError:
    """The error for a file, or for something in an archive, with content beyond the limit."""
    return UserError(
        "{path} holds {member!r}, which expands more than {times} times, as no text does"
        if member
        else "{path} expands more than {times} times, as no text does",
        hint="unpack it yourself if you trust it, and name the text file",
        path=path,
        member=member,
        times=LARGEST_EXPANSION,
    )


class LimitedStream(io.RawIOBase):
    """Decompressed bytes that end in an error where there are too many of them.

    Args:
        stream: what decompresses.
        path: the file it reads, whose size sets the limit.
        then: what to do when it is closed, besides closing the stream.
    """

    def __init__(self, stream: IO[bytes], path: Path, then: Callable[[], object] = lambda: None) -> None:
        super().__init__()
        self._stream = stream
        self._path = path
        self._then = then
        self._limit_bytes = expansion_limit_bytes(path.stat().st_size)
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._stream.seekable()

    def seek(self, offset: int, whence: int = 0, /) -> int:
        self._position = self._stream.seek(offset, whence)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]  # what BufferedReader passes
        content = self._stream.read(len(buffer))
        buffer[: len(content)] = content
        self._position += len(content)
        if self._position > self._limit_bytes:
            raise expands_too_much(self._path)
        return len(content)

    def close(self) -> None:
        self._stream.close()
        self._then()
        super().close()
