"""How this process keeps memory between training steps.

A training step frees hundreds of megabytes and asks for the same sizes again a moment later. The C library hands large
blocks back to the system each time, and the system clears every page anew: measured on two cores with GPT-2 124M, a
third of a step. Keeping them costs nothing but that memory freed after a peak stays with the process. On a card, torch
already keeps what is freed; there segments that can grow save the gaps between blocks of different sizes.

What the C library does is a setting of the whole process, so the command line makes it and the library does not by
itself. torch's allocator for GPUs is set up by both, when a GPU is first used (`set_up_gpu_allocator`).
"""

import ctypes
import os
import sys
import threading
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Of mallopt(3), the GNU C library."""
CARD_SETTING = "PYTORCH_ALLOC_CONF"
OLD_CARD_SETTING = "PYTORCH_CUDA_ALLOC_CONF"
GROWING_SEGMENTS = "expandable_segments:True"
FIXED_SEGMENTS = "expandable_segments:False"
EXACT_PINNED_BLOCKS = "pinned_max_round_threshold_mb:1"
"""Above 1 MB pinned host memory is taken as asked for, not rounded up to a power of two."""
TRIAL_BYTES = 1 << 21

CAPTURE_LOCK = threading.RLock()
"""Held while a CUDA graph is captured: two captures at once disturb each other, and so does whatever waits for the
whole GPU or unmaps its memory meanwhile."""


class _GpuAllocator:
    """What torch's allocator for GPUs was told in this process."""

    lock = threading.Lock()
    is_set_up = False
    segments_grow = False


def set_up_allocators() -> None:
    """Make the settings, before torch is imported; what the user has set stays."""
    keep_freed_memory()
    if sys.platform == "linux" and OLD_CARD_SETTING not in os.environ:  # Windows has no segments that grow
        os.environ.setdefault(CARD_SETTING, GROWING_SEGMENTS)


def set_up_gpu_allocator(device: "torch.device") -> None:
    """Let segments grow where they can, and pinned blocks be of exact size; once per process, what the user set stays.

    Some drivers under WSL refuse to map segments that grow (pytorch #192330), so one allocation tries it.

    Args:
        device: a GPU; the trial is made there.
    """
    with _GpuAllocator.lock:
        if _GpuAllocator.is_set_up:
            return
        _GpuAllocator.is_set_up = True
        asked = [os.environ[name] for name in (CARD_SETTING, OLD_CARD_SETTING) if name in os.environ]
        if asked and asked != [GROWING_SEGMENTS]:
            _GpuAllocator.segments_grow = any("expandable_segments:true" in setting.lower() for setting in asked)
            return
        _GpuAllocator.segments_grow = (
            sys.platform == "linux" and _accepts_settings(GROWING_SEGMENTS) and _can_allocate(device)
        )
        if not _GpuAllocator.segments_grow:
            _accepts_settings(FIXED_SEGMENTS)


def segments_grow() -> bool:
    """Whether torch's segments on GPUs grow; where they do not, more may be reserved than is ever used at once."""
    return _GpuAllocator.segments_grow


def pinned_empty(shape: "torch.Size | tuple[int, ...]", dtype: "torch.dtype") -> "torch.Tensor":
    """Host memory that a GPU reads and writes by itself; ordinary memory where no more may be pinned, as under WSL."""
    import torch

    try:
        return torch.empty(shape, dtype=dtype, pin_memory=True)
    except RuntimeError:  # whatever the driver says of it: slower transfers are better than none
        return torch.empty(shape, dtype=dtype)


def pinned_bytes(n_bytes: int) -> int:
    """What a pinned block takes; torch before 2.13, and an allocator that the user set up, round to powers of two."""
    asked = [os.environ[name] for name in (CARD_SETTING, OLD_CARD_SETTING) if name in os.environ]
    is_ours = not asked or asked == [GROWING_SEGMENTS] or "pinned_max_round_threshold_mb" in asked[0]
    return n_bytes if is_ours and _torch_pins_exactly() else 1 << max(n_bytes - 1, 0).bit_length()


@cache
def _torch_pins_exactly() -> bool:
    try:
        major, minor = version("torch").split(".")[:2]
    except PackageNotFoundError:
        return True  # a plan for another machine
    return (int(major), int(minor)) >= (2, 13)


def _accepts_settings(segments: str) -> bool:
    """Tell torch's allocator, with exact pinned blocks where it knows of them."""
    import torch

    for settings in (f"{segments},{EXACT_PINNED_BLOCKS}", segments):
        try:
            torch._C._accelerator_setAllocatorSettings(settings)  # noqa: SLF001
        except (AttributeError, RuntimeError, ValueError):  # another release of torch, which knows less
            continue
        return True
    return False


def _can_allocate(device: "torch.device") -> bool:
    """Whether a block can be had with the present settings; a full GPU says nothing about them."""
    import torch

    try:
        torch.empty(TRIAL_BYTES, dtype=torch.uint8, device=device)
    except torch.OutOfMemoryError:
        return True
    except RuntimeError:
        return False
    return True


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
