"""Text files inside .zip and .tar archives, read where they are: nothing is ever unpacked to disk.

So no path inside an archive, absolute or with `../`, can name a file outside it, and links and devices in it are not
followed. An archive member that expands as no text does is refused before it is read.
"""

import io
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import IO

from tunesmith.errors import UserError

ZIP = ".zip"
TAR = (".tar", ".tgz", ".tbz2", ".txz", ".tar.gz", ".tar.bz2", ".tar.xz")
LARGEST_EXPANSION = 200
"""Text shrinks to a tenth at best; a zip bomb of zeros expands a thousand times."""
HARMLESS_BYTES = 64 << 20
"""Below this size an expansion is not looked at."""


def is_archive(path: Path) -> bool:
    """Whether a file is one, by its name."""
    return path.name.lower().endswith((ZIP, *TAR))


def member_names(path: Path) -> Iterator[str]:
    """Files in an archive that are not hidden, sorted.

    Raises:
        UserError: if it cannot be read or holds a member that expands as no text does.
    """
    try:
        names = _zip_members(path) if path.name.lower().endswith(ZIP) else _tar_members(path)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError) as error:
        raise UserError(
            f"{path} cannot be read as an archive: {error}", hint="it is damaged or of another kind; get it again"
        ) from None
    yield from sorted(name for name in names if not any(part.startswith((".", "__")) for part in Path(name).parts))


def open_member(path: Path, name: str) -> io.BufferedReader:
    """A member's bytes as a stream; closing it closes the archive."""
    archive: zipfile.ZipFile | tarfile.TarFile
    stream: IO[bytes] | None
    if path.name.lower().endswith(ZIP):
        archive = zipfile.ZipFile(path)
        stream = archive.open(name)
    else:
        archive = tarfile.open(path)  # noqa: SIM115  closed with the stream
        stream = archive.extractfile(name)
    assert stream is not None  # only regular files are listed
    return io.BufferedReader(_MemberStream(stream, archive))


def _zip_members(path: Path) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.file_size > max(HARMLESS_BYTES, LARGEST_EXPANSION * info.compress_size):
                raise UserError(
                    f"{path} holds {info.filename!r}, which expands {info.file_size / max(info.compress_size, 1):,.0f} "
                    "times, as no text does",
                    hint="unpack it yourself if you trust it, and name the text file",
                )
        return [info.filename for info in archive.infolist() if not info.is_dir()]


def _tar_members(path: Path) -> list[str]:
    with closing(tarfile.open(path)) as archive:
        return [member.name for member in archive.getmembers() if member.isreg()]


class _MemberStream(io.RawIOBase):
    """A member that takes its archive along when it is closed."""

    def __init__(self, stream: IO[bytes], archive: zipfile.ZipFile | tarfile.TarFile) -> None:
        super().__init__()
        self._stream = stream
        self._archive = archive

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._stream.seekable()

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]  # what BufferedReader passes
        content = self._stream.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def close(self) -> None:
        self._stream.close()
        self._archive.close()
        super().close()
