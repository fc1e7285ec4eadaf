"""How this process keeps memory between training steps.

A training step frees hundreds of megabytes and asks for the same sizes again a moment later. The C library hands large
blocks back to the system each time, and the system clears every page anew: measured on two cores with GPT-2 124M, a
third of a step. Keeping them costs nothing but that memory freed after a peak stays with the process.

It is a setting of the whole process, so the command line makes it and the library does not by itself.
"""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Of mallopt(3), the GNU C library."""


def keep_freed_memory() -> bool:
    """Let freed blocks of any size be used again by this process; True where the C library can do that."""
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl has none
        return False
    never = -1
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, never))
