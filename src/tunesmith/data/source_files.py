"""SOURCE arguments into files: a file, a folder, a glob, standard input, or a dataset, in a stable order.

A folder gives every readable file below it, sorted by path; links to folders are not followed, so a loop of links
cannot trap a run. Files of unknown kinds in a folder are left out, and counted.
"""

import bz2
import glob
import gzip
import io
import lzma
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, cast

from tunesmith.data.archives import is_archive, member_names, open_member
from tunesmith.data.content_hash import content_hash
from tunesmith.data.expansion import LimitedStream
from tunesmith.data.hub_datasets import HUB_PREFIX, HubDataset
from tunesmith.data.standard_input import STANDARD_INPUT, spool
from tunesmith.errors import UserError

TEXT_KINDS = (".txt", ".md")
TABLE_KINDS = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".arrow")
READABLE = (*TEXT_KINDS, *TABLE_KINDS)


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
"""By the suffix of a compressed file; all stream, none holds a whole file."""


@dataclass(frozen=True)
class SourceFile:
    """A file to read samples from.

    Attributes:
        path: where it is.
        name: how it is called in reports: its own name, or its path inside the named folder.
        kind: what it holds, as a suffix (".txt", ".csv", ...).
        compression: its outer suffix (".gz", ...), or "".
        member: its path inside the archive that `path` is, or "".
    """

    path: Path
    name: str
    kind: str
    compression: str
    member: str = ""

    def open(self) -> BinaryIO:
        """The uncompressed bytes, as a stream."""
        if self.member:
            return cast("BinaryIO", open_member(self.path, self.member))
        stream = cast("BinaryIO", OPENERS[self.compression](self.path))
        if not self.compression:
            return stream
        return cast("BinaryIO", io.BufferedReader(LimitedStream(stream, self.path)))

    @property
    def stored_bytes(self) -> int:
        """As it is stored; of an archive, all of it."""
        return self.path.stat().st_size

    @cached_property
    def sha256(self) -> str:
        """Of the file as it is stored."""
        return content_hash(self.path)


@dataclass(frozen=True)
class FoundSources:
    """What SOURCE arguments stand for.

    Attributes:
        files: to be read, in this order.
        argument_of_file: for each, which SOURCE argument it comes from, counted from 0.
        n_arguments: how many SOURCE arguments there were.
        skipped: names of files in folders whose kind is not readable.
        prepared: a folder that `prepare` wrote, in place of all these.
    """

    files: tuple[SourceFile | HubDataset, ...]
    argument_of_file: tuple[int, ...]
    n_arguments: int
    skipped: tuple[str, ...] = ()
    prepared: Path | None = None


@contextmanager
def found_sources(sources: Sequence[str]) -> Iterator[FoundSources]:
    """Resolve SOURCE arguments; standard input is kept in a temporary file while the context lasts.

    Raises:
        UserError: for one that stands for nothing readable.
    """
    if any(is_prepared(source) for source in sources):
        yield _only_prepared(sources)
        return
    if sum(source in STANDARD_INPUT for source in sources) > 1:
        raise UserError("standard input can be read only once", hint="name - once")
    with tempfile.TemporaryDirectory(prefix="tunesmith-") as folder:
        files: list[SourceFile | HubDataset] = []
        arguments: list[int] = []
        skipped: list[str] = []
        for number, source in enumerate(sources):
            found: Sequence[SourceFile | HubDataset]
            if source in STANDARD_INPUT:
                path = spool(Path(folder))
                found = [SourceFile(path, "stdin", path.suffix, "")]
            elif source.startswith(HUB_PREFIX):
                found = [HubDataset.of(source)]
            else:
                found, unreadable = _files_of(source)
                skipped += unreadable
            files += found
            arguments += [number] * len(found)
        yield FoundSources(tuple(files), tuple(arguments), len(sources), tuple(skipped))


def is_prepared(source: str) -> bool:
    """Whether a SOURCE is a folder that `prepare` wrote."""
    return (Path(source) / "manifest.json").is_file() and (Path(source) / "tokens.bin").is_file()


def _only_prepared(sources: Sequence[str]) -> FoundSources:
    if len(sources) > 1:
        raise UserError(
            "a prepared folder stands alone, and {n_sources} sources were named",
            hint="prepare all of them together: tunesmith prepare FILE FILE --weights 2 1 --out DIR",
            n_sources=len(sources),
        )
    return FoundSources((), (), 1, prepared=Path(sources[0]))


def _files_of(source: str) -> tuple[list[SourceFile], list[str]]:
    """A file, or what is readable in a folder, an archive, or among the matches of a glob; and what is not."""
    path = Path(source)
    if path.is_file() and not is_archive(path):
        return [_named_file(path)], []
    if path.is_file():
        inside = [(path.name, path)]
    elif path.is_dir():
        inside = sorted((below.relative_to(path).as_posix(), below) for below in _files_below(path))
    else:
        inside = [(match.name, match) for match in _matching(source)]
    if not inside and not path.is_dir():
        raise UserError(
            "there is no file {source}",
            hint="check the path; relative paths start at the current folder",
            source=source,
        )
    readable = [part for name, found in inside if found.stat().st_size for part in _opened_up(found, name)]
    skipped = [name for file, name in readable if file is None]
    kept = [file for file, _ in readable if file is not None]  # names do not depend on where the user stands
    if not kept:
        raise UserError(
            "{source} holds no text that can be read, only {skipped}"
            if skipped
            else "{source} holds no text that can be read",
            hint="readable are {kinds}, also compressed ({compressions})",
            source=source,
            skipped=skipped[-1] if skipped else "",
            kinds=", ".join(READABLE),
            compressions=", ".join(filter(None, OPENERS)),
        )
    return kept, skipped


def _named_file(path: Path) -> SourceFile:
    """A file that somebody named: it has to be readable."""
    found = _source_file(path, path.name)
    if found is None:
        raise UserError(
            "{path} is no {kinds} or {last_kind} file",
            hint="save it as .txt with one sample a line, or as .csv with a text column",
            path=path,
            kinds=", ".join(READABLE[:-1]),
            last_kind=READABLE[-1],
        )
    if path.stat().st_size == 0:
        raise UserError("{path} is empty", hint="name a file that holds text", path=path)
    return found


def _opened_up(path: Path, name: str) -> Iterator[tuple[SourceFile | None, str]]:
    """A file by its name, or the members of an archive; None for a kind that is not readable."""
    if not is_archive(path):
        yield _source_file(path, name), name
        return
    for member in member_names(path):
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
