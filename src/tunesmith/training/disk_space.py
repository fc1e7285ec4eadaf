"""Room on the disk: asked for before a run begins, and before every checkpoint."""

import errno
import os
import shutil
from pathlib import Path

from tunesmith.errors import UserError

SMALL_FILES_BYTES = 64 << 10
"""Of a checkpoint: configuration, counters, checksums; its tokenizer is counted as overhead."""
OVERHEAD = 1.02


def refuse_too_little(folder: Path, *, weights_bytes: int, optimizer_bytes: int) -> None:
    """Check that a new run will find room.

    At the fullest instant there are a checkpoint and the next one being written, and the best model and its successor.

    Args:
        folder: where the run will write; it need not exist.
        weights_bytes: of a model folder.
        optimizer_bytes: what a checkpoint adds to it.

    Raises:
        UserError: if there is not enough.
    """
    needed = 2 * (weights_bytes + optimizer_bytes) + 2 * weights_bytes
    place = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.is_dir())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise UserError(
            "the run needs {needed_gib:.2f} GiB on the disk for two checkpoints and two models, and "
            "{free_gib:.2f} GiB are free in {place}",
            hint="make room, name an --out on another disk, or learn only adapters: --lora-rank 8",
            needed_gib=needed / 2**30,
            free_gib=free / 2**30,
            place=place,
        )


def has_room(folder: Path, n_bytes: int) -> bool:
    """Whether a checkpoint with tensors of that size fits."""
    return shutil.disk_usage(folder).free >= n_bytes * OVERHEAD + SMALL_FILES_BYTES


def no_room(folder: Path) -> OSError:
    """What the system would say, said before it has to."""
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
