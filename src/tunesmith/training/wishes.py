"""What people ask of a running training from outside, save now or stop: an empty file in its folder for each wish.

The loop looks for them between steps, twice a second at most, so that they cost nothing.
"""

import time
from pathlib import Path

SAVE, STOP = "save", "stop"
WISHES = (SAVE, STOP)
LOOKS_EVERY_S = 0.5


class Wishes:
    """What is wished of the run whose process this is.

    Args:
        folder: where wishes are left; it need not exist yet.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: set[str] = set()
        self._looked_s = float("-inf")

    def forget(self) -> None:
        """Drop what was wished of an earlier process."""
        self._seen.clear()
        for wish in WISHES:
            _file(self._folder, wish).unlink(missing_ok=True)

    def take(self, wish: str) -> bool:
        """Whether this is wished; it is granted with that, and not wished any more."""
        now_s = time.monotonic()
        if now_s - self._looked_s >= LOOKS_EVERY_S:
            self._looked_s = now_s
            self._seen.update(wished(self._folder))
        if wish not in self._seen:
            return False
        self._seen.discard(wish)
        _file(self._folder, wish).unlink(missing_ok=True)
        return True


def make_wish(folder: Path, wish: str) -> None:
    """Ask it of the run that goes on there."""
    assert wish in WISHES
    _file(folder, wish).touch()


def wished(folder: Path) -> tuple[str, ...]:
    """What was asked and not granted yet."""
    return tuple(wish for wish in WISHES if _file(folder, wish).exists())


def _file(folder: Path, wish: str) -> Path:
    return folder / f".wish-{wish}"
