"""Resolve SOURCE arguments to readable files: a file, folder, archive, glob, standard input, or Hugging Face dataset.

The order is stable. A folder gives every readable file in it, sorted by path; links to folders are not followed, so a
loop of links does no harm. Files of unknown kinds in a folder are skipped and counted.

Nothing is unpacked to disk, so no path inside an archive (absolute or with `../`) can name a file outside of it.
Compressed files and archive members that expand as no text does are refused.
"""

import bz2
import glob
import gzip
import io
import lzma
import os
import shutil
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, BinaryIO, cast

from tunesmith.data.cache import content_hash
from tunesmith.data.hf_datasets import HUB_PREFIX, HFDataset
from tunesmith.errors import UserError
from tunesmith.utils.files import parse_json

TEXT_KINDS = (".txt", ".md")
ARROW_KINDS = (".parquet", ".arrow")
TABLE_KINDS = (".csv", ".tsv", ".json", ".jsonl", *ARROW_KINDS)
READABLE = (*TEXT_KINDS, *TABLE_KINDS)
ZIP = ".zip"
TAR = (".tar", ".tgz", ".tbz2", ".txz", ".tar.gz", ".tar.bz2", ".tar.xz")
STDIN_NAMES = ("-", "stdin:")
"""The second is what the command line makes of the first, which a parser takes for a flag."""
MANIFEST = "manifest.json"
TOKENS = "tokens.bin"

MAX_EXPANSION = 200
"""Text shrinks to a tenth at best; a bomb of zeros expands a thousand times."""
HARMLESS_BYTES = 64 << 20
"""Expansion is not limited below this size."""
FIRST_LINE_BYTES = 1 << 20


def _open_zstandard(path: Path) -> object:
    import pyarrow as pa

    return pa.input_stream(str(path), compression="zstd")


OPENERS: dict[str, Callable[[Path], object]] = {
    "": lambda path: path.open("rb"),
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": _open_zstandard,
}
"""By the suffix of a compressed file; all of them stream."""


@dataclass(frozen=True)
class SourceFile:
    """A file to read samples from.

    Attributes:
        path: where it is.
        name: shown in reports: the file's own name, or its path inside the named folder.
        kind: format of the content, as a suffix (".txt", ".csv", ...).
        compression: outer suffix (".gz", ...), or "".
        member: path inside the archive that `path` is, or "".
    """

    path: Path
    name: str
    kind: str
    compression: str = ""
    member: str = ""

    def open(self) -> BinaryIO:
        """Open the uncompressed bytes as a stream."""
        if self.member:
            return cast("BinaryIO", _open_member(self.path, self.member))
        stream = cast("BinaryIO", OPENERS[self.compression](self.path))
        if not self.compression:
            return stream
        return cast("BinaryIO", io.BufferedReader(BoundedReader(stream, self.path)))

    @cached_property
    def sha256(self) -> str:
        """Hash of the file as it is stored; of an archive, all of it."""
        return content_hash(self.path)

    @property
    def content_id(self) -> list[str]:
        """What the text depends on."""
        return [self.kind, self.compression, self.member, self.sha256]


@dataclass(frozen=True)
class ResolvedSources:
    """The files that SOURCE arguments name.

    Attributes:
        files: in reading order.
        argument_of_file: for each file the index of its SOURCE argument.
        n_arguments: number of SOURCE arguments.
        skipped: names of files in folders whose kind is not readable.
        prepared: a folder written by `prepare`, instead of files.
    """

    files: tuple[SourceFile | HFDataset, ...]
    argument_of_file: tuple[int, ...]
    n_arguments: int
    skipped: tuple[str, ...] = ()
    prepared: Path | None = None


@contextmanager
def resolve_sources(sources: Sequence[str]) -> Iterator[ResolvedSources]:
    """Resolve SOURCE arguments; standard input is kept in a temporary file while the context lasts.

    Raises:
        UserError: if an argument names nothing readable.
    """
    if any(is_prepared(source) for source in sources):
        if len(sources) > 1:
            raise UserError(
                "A prepared folder must be the only source, but {n_sources} sources were named",
                hint="prepare all of them together: tunesmith prepare FILE FILE --source-weights 2 1 --out DIR",
                n_sources=len(sources),
            )
        yield ResolvedSources((), (), 1, prepared=Path(sources[0]))
        return
    if sum(source in STDIN_NAMES for source in sources) > 1:
        raise UserError("standard input can be read only once", hint="name - once")
    with tempfile.TemporaryDirectory(prefix="tunesmith-") as folder:
        files: list[SourceFile | HFDataset] = []
        arguments: list[int] = []
        skipped: list[str] = []
        for number, source in enumerate(sources):
            resolved: Sequence[SourceFile | HFDataset]
            if source in STDIN_NAMES:
                path = spool_stdin(Path(folder))
                resolved = [SourceFile(path, "stdin", path.suffix)]
            elif source.startswith(HUB_PREFIX):
                resolved = [HFDataset.parse(source)]
            else:
                resolved, unreadable = _files_of(source)
                skipped += unreadable
            files += resolved
            arguments += [number] * len(resolved)
        yield ResolvedSources(tuple(files), tuple(arguments), len(sources), tuple(skipped))


def is_prepared(source: str) -> bool:
    """Whether a SOURCE is a folder written by `prepare`, or one from the cache."""
    folder = Path(source)
    return (folder / MANIFEST).is_file() and tokens_path(folder).is_file()


def tokens_path(corpus_folder: Path) -> Path:
    """Token file of a corpus folder: inside of it, or in the cache entry that it is a split of."""
    own = corpus_folder / TOKENS
    return own if own.exists() or corpus_folder.parent.name != "splits" else corpus_folder.parent.parent / TOKENS


def spool_stdin(folder: Path) -> Path:
    """Copy standard input to a file with the suffix of its content: JSON lines or plain text."""
    if sys.stdin is None or sys.stdin.isatty():
        raise UserError("- is standard input, and nothing is piped into it", hint="cat FILE | tunesmith prepare -")
    path = folder / "standard-input"
    with path.open("wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
    if not path.stat().st_size:
        raise UserError("standard input is empty", hint="cat FILE | tunesmith prepare -")
    with path.open("rb") as file:
        first = file.readline(FIRST_LINE_BYTES)
    try:
        is_json = isinstance(parse_json(first), dict)
    except ValueError:
        is_json = False
    return path.rename(path.with_suffix(".jsonl" if is_json else ".txt"))


def _files_of(source: str) -> tuple[list[SourceFile], list[str]]:
    """A file, or the readable files of a folder, archive or glob; and the names of unreadable ones."""
    path = Path(source)
    if path.is_file() and not _is_archive(path):
        return [_named_file(path)], []
    if path.is_file():
        candidates = [(path.name, path)]
    elif path.is_dir():
        candidates = sorted((below.relative_to(path).as_posix(), below) for below in _files_below(path))
    else:
        candidates = [(match.name, match) for match in _matching(source)]
    if not candidates and not path.is_dir():
        raise UserError(
            "no such file: {source}",
            hint="check the path; relative paths start at the current folder",
            source=source,
        )
    opened = [part for name, file in candidates if file.stat().st_size for part in _with_members(file, name)]
    skipped = [name for file, name in opened if file is None]
    readable = [file for file, _ in opened if file is not None]
    if not readable:
        raise UserError(
            "No readable text in {source}, only {skipped}" if skipped else "No readable text in {source}",
            hint="readable are {kinds}, also compressed ({compressions})",
            source=source,
            skipped=skipped[-1] if skipped else "",
            kinds=", ".join(READABLE),
            compressions=", ".join(filter(None, OPENERS)),
        )
    return readable, skipped


def _named_file(path: Path) -> SourceFile:
    """A file named by the user, which has to be readable."""
    file = _source_file(path, path.name)
    if file is None:
        raise UserError(
            "{path} is not a {kinds} or {last_kind} file",
            hint="save it as .txt with one sample a line, or as .csv with a text column",
            path=path,
            kinds=", ".join(READABLE[:-1]),
            last_kind=READABLE[-1],
        )
    if path.stat().st_size == 0:
        raise UserError("{path} is empty", hint="name a file that contains text", path=path)
    return file


def _with_members(path: Path, name: str) -> Iterator[tuple[SourceFile | None, str]]:
    """A file, or the members of an archive; None for a kind that is not readable."""
    if not _is_archive(path):
        yield _source_file(path, name), name
        return
    for member in _member_names(path):
        shown = f"{name}:{member}"
        kind = Path(member).suffix.lower()
        yield SourceFile(path, shown, kind, "", member) if kind in READABLE else None, shown


def _source_file(path: Path, name: str) -> SourceFile | None:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    compression = suffixes.pop() if suffixes and suffixes[-1] in OPENERS else ""
    kind = suffixes[-1] if suffixes else ""
    return SourceFile(path, name, kind, compression) if kind in READABLE else None


def _matching(pattern: str) -> list[Path]:
    """Files that match a glob, each once however many links lead to it."""
    matches = glob.glob(pattern, recursive=True)  # noqa: PTH207  Path.glob takes no absolute pattern
    shortest_first = sorted((Path(match) for match in matches), key=lambda path: (len(path.parts), path))
    return sorted({path.resolve(): path for path in reversed(shortest_first) if path.is_file()}.values())


def _files_below(folder: Path) -> Iterator[Path]:
    """Every file that is not hidden; links to folders are not followed."""
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (path for name in names if not name.startswith(".") and (path := Path(parent) / name).is_file())


def _is_archive(path: Path) -> bool:
    return path.name.lower().endswith((ZIP, *TAR))


def _member_names(path: Path) -> Iterator[str]:
    """Files in an archive that are not hidden, sorted."""
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


def _open_member(path: Path, name: str) -> io.BufferedReader:
    """Open a member of an archive as a stream; closing it closes the archive."""
    archive: zipfile.ZipFile | tarfile.TarFile
    stream: IO[bytes] | None
    if path.name.lower().endswith(ZIP):
        archive = zipfile.ZipFile(path)
        stream = archive.open(name)
    else:
        archive = tarfile.open(path)  # noqa: SIM115  closed with the stream
        stream = archive.extractfile(name)
    assert stream is not None  # only regular files are listed
    return io.BufferedReader(BoundedReader(stream, path, then=archive.close))


def _zip_members(path: Path) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.file_size > _max_expanded_bytes(info.compress_size):
                raise decompression_bomb_error(path, info.filename)
        return [info.filename for info in archive.infolist() if not info.is_dir()]


def _tar_members(path: Path) -> list[str]:
    with closing(tarfile.open(path)) as archive:
        names = []
        limit_bytes = _max_expanded_bytes(path.stat().st_size)
        for member in archive:  # each is checked before its content is skipped over
            if member.offset_data + member.size > limit_bytes:
                raise decompression_bomb_error(path, member.name)
            if member.isreg():
                names.append(member.name)
        return names


def _max_expanded_bytes(stored_bytes: int) -> int:
    return max(HARMLESS_BYTES, MAX_EXPANSION * stored_bytes)


def decompression_bomb_error(path: Path, member: str = "") -> UserError:
    """The error for a file, or for a member of an archive, that expands beyond the limit."""
    return UserError(
        "{path} contains {member!r}, which expands more than {times} times, as no text does"
        if member
        else "{path} expands more than {times} times, as no text does",
        hint="unpack it yourself if you trust it, and name the text file",
        path=path,
        member=member,
        times=MAX_EXPANSION,
    )


class BoundedReader(io.RawIOBase):
    """Decompressed bytes, with an error if there are too many of them.

    Args:
        stream: decompressing stream.
        path: file that it reads, whose size sets the limit.
        then: called when it is closed, after closing the stream.
    """

    def __init__(self, stream: IO[bytes], path: Path, then: Callable[[], object] = lambda: None) -> None:
        super().__init__()
        self._stream = stream
        self._path = path
        self._then = then
        self._limit_bytes = _max_expanded_bytes(path.stat().st_size)
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._stream.seekable()

    def seek(self, offset: int, whence: int = 0, /) -> int:
        self._position = self._stream.seek(offset, whence)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]  # what BufferedReader passes
        content = self._stream.read(len(buffer))
        buffer[: len(content)] = content
        self._position += len(content)
        if self._position > self._limit_bytes:
            raise decompression_bomb_error(self._path)
        return len(content)

    def close(self) -> None:
        self._stream.close()
        self._then()
        super().close()
