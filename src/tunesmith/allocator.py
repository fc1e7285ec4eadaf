"""How this process keeps memory between training steps.

A training step frees hundreds of megabytes and asks for the same sizes again a moment later. The C library hands large
blocks back to the system each time, and the system clears every page anew: measured on two cores with GPT-2 124M, a
third of a step. Keeping them costs nothing but that memory freed after a peak stays with the process. On a card, torch
already keeps what is freed; there segments that can grow save the gaps between blocks of different sizes.

These are settings of the whole process, so the command line makes them and the library does not by itself.
"""

import ctypes
import os
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Of mallopt(3), the GNU C library."""
CARD_SETTING = "PYTORCH_ALLOC_CONF"
OLD_CARD_SETTING = "PYTORCH_CUDA_ALLOC_CONF"


def set_up_allocators() -> None:
    """Make the settings, before torch is imported; what the user has set stays."""
    keep_freed_memory()
    if sys.platform == "linux" and OLD_CARD_SETTING not in os.environ:  # Windows has no segments that grow
        os.environ.setdefault(CARD_SETTING, "expandable_segments:True")


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
