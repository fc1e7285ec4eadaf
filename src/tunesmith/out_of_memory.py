"""When memory runs out, the same work is done in smaller pieces.

Memory is freed outside of `except`: while an exception is handled, its frames still hold the tensors of what failed.
"""

import gc
from collections.abc import Callable
from typing import TypeVar

from tunesmith.errors import DoesNotFitError

T = TypeVar("T")

SIGNS = (
    "out of memory",  # CUDA's own errors
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "can't allocate memory",  # torch's allocator on the CPU
    "not enough memory",  # the same on Windows
)
"""What errors about memory say that are no `OutOfMemoryError`."""


def in_pieces(work: Callable[[int], T], *, pieces: int, most: int, what: str, hint: str) -> tuple[T, int]:
    """Do something, in twice as many pieces each time memory runs out.

    Args:
        work: does all of it in so many pieces, from the beginning.
        pieces: to start with.
        most: it cannot be cut further.
        what: the smallest piece, in the person's language, for the error.
        hint: what to do if even that does not fit.

    Returns:
        What came of it, and in how many pieces it was done.

    Raises:
        DoesNotFitError: if even the smallest pieces do not fit.
    """
    while True:
        done = _attempt(work, pieces)
        if done is not None:
            return done[0], pieces
        free_memory()
        if pieces >= most:
            raise DoesNotFitError("memory ran out with {what} at once", hint="{advice}", what=what, advice=hint)
        pieces = min(pieces * 2, most)


def _attempt(work: Callable[[int], T], pieces: int) -> tuple[T] | None:
    """What came of it; None where memory ran out."""
    try:
        return (work(pieces),)
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
        if not is_out_of_memory(error):
            raise
        return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on the card or on the host."""
    import torch  # noqa: PLC0415

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)


def free_memory() -> None:
    """Let go of what nobody holds any more, the card's cache included."""
    import torch  # noqa: PLC0415

    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
