"""JSON-lines files that a full disk cannot hurt: what does not fit is kept in memory and written when there is room."""

from pathlib import Path
from typing import Any

from tunesmith.utils.files import to_json


class LinesFile:
    """A file that grows by one object a line.

    Args:
        path: it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._waiting: list[str] = []

    @property
    def waiting(self) -> bool:
        """Whether lines are still in memory, because the disk is full or fails."""
        return bool(self._waiting)

    def append(self, line: dict[str, Any]) -> None:
        """Add an object; never half of it."""
        self._waiting.append(to_json(line) + "\n")
        self.flush()

    def flush(self) -> None:
        """Try once more to write what waits."""
        if not self._waiting:
            return
        before_bytes = 0
        try:
            with self._path.open("ab", buffering=0) as file:
                before_bytes = file.tell()
                try:
                    for line in self._waiting:
                        _write_all(file.write, line.encode("utf-8"))
                except OSError:
                    file.truncate(before_bytes)  # a half line would damage the next one
                    raise
        except OSError:
            return
        self._waiting.clear()


def _write_all(write: Any, content: bytes) -> None:  # noqa: ANN401
    """A raw file may take less than it is given."""
    while content:
        content = content[write(content) :]
