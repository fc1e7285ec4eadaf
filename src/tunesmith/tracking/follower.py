"""Reads what is added to a file of JSON lines, while somebody else writes it."""

import json
from pathlib import Path
from typing import Any


class Follower:
    """Remembers how far a file was read.

    A run that goes back to an earlier state rewrites its files; then everything is read again, and what is not beyond
    the furthest step so far is passed over: it was told before.

    Args:
        path: need not exist yet.
        skip: whether what is in it now is known already.
    """

    def __init__(self, path: Path, *, skip: bool) -> None:
        self._path = path
        self._furthest_step = -1
        self._file_number, self._position = _state(path) if skip else (None, 0)
        self._rewritten = False

    def new_lines(self) -> list[dict[str, Any]]:
        """What was added since the last time, whole lines only."""
        number, size = _state(self._path)
        if number is None:
            return []
        if self._file_number is not None and (number != self._file_number or size < self._position):
            self._position, self._rewritten = 0, True
        self._file_number = number
        with self._path.open("rb") as file:
            file.seek(self._position)
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._position += len(whole)
        lines = [line for part in whole.splitlines() if (line := _parsed(part))]
        if self._rewritten:
            lines = [line for line in lines if int(line.get("step", 0)) > self._furthest_step]
        self._furthest_step = max([self._furthest_step, *(int(line.get("step", 0)) for line in lines)])
        return lines


def _state(path: Path) -> tuple[int | None, int]:
    try:
        found = path.stat()
    except OSError:
        return None, 0
    return found.st_ino, found.st_size


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
