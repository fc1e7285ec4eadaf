"""When memory runs out, the same work is done in smaller pieces.

Memory is freed outside of `except`: while an exception is handled, its frames still reference what failed.
"""

import gc
from collections.abc import Callable
from typing import TypeVar

from tunesmith.errors import DoesNotFitError
from tunesmith.utils.device import CAPTURE_LOCK

T = TypeVar("T")

SIGNS = (
    "out of memory",  # CUDA's own errors, of the runtime and of the driver
    "cudaErrorMemoryAllocation",
    "CUDA_ERROR_OUT_OF_MEMORY",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUSOLVER_STATUS_ALLOC_FAILED",
    "can't allocate memory",  # torch's allocator on the CPU
    "not enough memory",  # the same on Windows
)
"""Texts of errors about memory that are not an `OutOfMemoryError`."""
SIGNS_ON_A_FULL_GPU = (
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "CUDNN_STATUS_NOT_INITIALIZED",
    "CUDNN_STATUS_INTERNAL_ERROR",
    "CUSOLVER_STATUS_NOT_INITIALIZED",
)
"""Errors of libraries without memory for their first workspace; on a GPU with free memory they mean something else."""
FULL_BYTES = 1 << 28
"""A GPU with less than this left cannot start a library."""


def in_pieces(work: Callable[[int], T], *, pieces: int, most: int, what: str, hint: str) -> tuple[T, int]:
    """Do something, in twice as many pieces each time memory runs out.

    Args:
        work: does all of it in that many pieces, from the beginning.
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
    """Whether an error says that memory ran out, on the GPU or on the host."""
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if not isinstance(error, RuntimeError):
        return False
    message = str(error)
    if any(sign in message for sign in SIGNS):
        return True
    return any(sign in message for sign in SIGNS_ON_A_FULL_GPU) and _gpu_is_full()


def free_memory() -> None:
    """Free what is no longer referenced, the cache of every GPU that this process uses included.

    A replayed CUDA graph may still run in memory that is cached: every GPU finishes first what it was given.
    """
    import torch

    gc.collect()
    if not torch.cuda.is_initialized():
        return
    with CAPTURE_LOCK:  # neither waiting nor freeing goes with a capture in another thread
        for index in range(torch.cuda.device_count()):
            if torch.cuda.memory_reserved(index):  # to wait for another one would start CUDA there
                torch.cuda.synchronize(index)
        torch.cuda.empty_cache()


def _gpu_is_full() -> bool:
    """Whether the current GPU has too little memory left for a library."""
    import torch

    if not torch.cuda.is_initialized():
        return False
    try:
        free_bytes, _ = torch.cuda.mem_get_info()
    except RuntimeError:  # CUDA answers nothing any more: whatever it was, it was worse
        return False
    return free_bytes < FULL_BYTES
