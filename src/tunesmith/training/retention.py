"""Which checkpoints stay on disk: two to resume from, and, as far as --keep-gb allows, older ones as plain models."""

from pathlib import Path

from tunesmith.training.checkpoint import OPTIMIZER, RANDOM, STATE
from tunesmith.training.checksums import CHECKSUMS
from tunesmith.utils.files import remove_folder

RESUMABLE_KEPT = 2
"""The last one, and the one before it, in case the last one gets damaged."""


def drop_old(folders: list[Path], keep_bytes: float | None) -> None:
    """Delete or lighten old checkpoints; the newest stays whatever it takes.

    Args:
        folders: all of this run, plain models among them, oldest first.
        keep_bytes: how much they may take together; None keeps what a resume can need and nothing else.
    """
    left_bytes = float("inf") if keep_bytes is None else keep_bytes
    for age, folder in enumerate(reversed(folders)):
        if keep_bytes is None and age >= RESUMABLE_KEPT:
            remove_folder(folder)
            continue
        if age >= RESUMABLE_KEPT or (age and folder_bytes(folder) > left_bytes):
            make_plain_model(folder)
        size = folder_bytes(folder)
        if age and size > left_bytes:
            remove_folder(folder)
        else:
            left_bytes -= size


def make_plain_model(folder: Path) -> None:
    """Take away what only a resume needs; first the file that says that it can be resumed from."""
    for name in (STATE, CHECKSUMS, OPTIMIZER, RANDOM):
        (folder / name).unlink(missing_ok=True)


def folder_bytes(folder: Path) -> int:
    """Of all files in it."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
