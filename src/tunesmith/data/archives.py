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

from tunesmith.data.expansion import LimitedStream, expands_too_much, expansion_limit_bytes
from tunesmith.errors import UserError

ZIP = ".zip"
TAR = (".tar", ".tgz", ".tbz2", ".txz", ".tar.gz", ".tar.bz2", ".tar.xz")


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
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001  a damaged index makes the libraries raise errors of all kinds
        raise UserError(
            "{path} cannot be read as an archive: {error}",
            hint="it is damaged or of another kind; get it again",
            path=path,
            error=error,
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
    return io.BufferedReader(LimitedStream(stream, path, then=archive.close))


def _zip_members(path: Path) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.file_size > expansion_limit_bytes(info.compress_size):
                raise expands_too_much(path, info.filename)
        return [info.filename for info in archive.infolist() if not info.is_dir()]


def _tar_members(path: Path) -> list[str]:
    with closing(tarfile.open(path)) as archive:
        names = []
        limit_bytes = expansion_limit_bytes(path.stat().st_size)
        for member in archive:  # each is looked at before its content is skipped over
            if member.offset_data + member.size > limit_bytes:
                raise expands_too_much(path, member.name)
            if member.isreg():
                names.append(member.name)
        return names
