"""Archives are read where they are, and nothing in them can reach outside."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tunesmith.data.readers import ReadingOptions, open_source
from tunesmith.data.source_files import ResolvedSources, resolve_sources
from tunesmith.errors import UserError

MEMBERS = {
    "b/two.txt": b"three\nfour\n",
    "a/one.csv": b"text\nfirst text here\n",
    "../../outside.txt": b"five\n",
    "photo.jpg": b"no text",
    "__MACOSX/._two.txt": b"hidden",
    "empty.txt": b"",
}


def sources_of(source: Path) -> ResolvedSources:
    """What a SOURCE stands for."""
    with resolve_sources([str(source)]) as found:
        return found


def make_zip(path: Path) -> None:
    """A zip with these members."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in MEMBERS.items():
            archive.writestr(name, content)


def make_tar(path: Path) -> None:
    """A tar with these members, a link out of it and a folder."""
    with tarfile.open(path, f"w:{path.suffix[1:].replace('tar', '').replace('tgz', 'gz')}") as archive:
        for name, content in MEMBERS.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        link = tarfile.TarInfo("passwd.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)


@pytest.mark.parametrize("name", ["texts.zip", "texts.tar", "texts.tar.gz", "texts.tgz", "texts.tar.xz"])
def test_members_are_samples(name: str, tmp_path: Path) -> None:
    """Text and tables inside are read in the order of their names; links, hidden files and other kinds are not."""
    inner = tmp_path / "inner"
    inner.mkdir()
    (make_zip if name.endswith("zip") else make_tar)(inner / name)
    for source in (inner / name, inner):  # named, or found in a folder
        found = sources_of(source)
        texts = []
        for file in found.files:
            _, lists = open_source(file, ReadingOptions(split_on="line"), end_of_text="<|endoftext|>")
            texts += [text for some in lists for text in some.texts]
        assert texts == ["first text here", "three", "four"]
        assert [file.name for file in found.files] == [f"{name}:{m}" for m in ("a/one.csv", "b/two.txt", "empty.txt")]
        assert found.skipped == (f"{name}:photo.jpg",)
    assert {path.name for path in tmp_path.rglob("*")} == {"inner", name}


def test_a_zip_bomb_is_refused(tmp_path: Path) -> None:
    """What expands as no text does is named before it is read."""
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros.txt", b"0" * (65 << 20))
    with pytest.raises(UserError, match=r"'zeros.txt', which expands .* times"):
        sources_of(path)


def test_a_tar_bomb_is_refused(tmp_path: Path) -> None:
    """Likewise, before what lies behind the member is looked for."""
    path = tmp_path / "bomb.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        entry = tarfile.TarInfo("zeros.txt")
        entry.size = 65 << 20
        archive.addfile(entry, io.BytesIO(bytes(entry.size)))
    with pytest.raises(UserError, match=r"'zeros.txt', which expands .* times"):
        sources_of(path)


@pytest.mark.parametrize(("name", "module"), [("bomb.txt.gz", gzip), ("bomb.txt.bz2", bz2), ("bomb.txt.xz", lzma)])
def test_a_compressed_bomb_is_refused(name: str, module: Any, tmp_path: Path) -> None:
    """A single compressed file is read up to the limit and not beyond it."""
    path = tmp_path / name
    path.write_bytes(module.compress(b"0" * (65 << 20)))
    (file,) = sources_of(path).files
    assert path.stat().st_size < 100_000
    with file.open() as stream:
        assert len(stream.read(64 << 20)) == 64 << 20
        with pytest.raises(UserError, match="expands more than 200 times"):
            stream.read()


@pytest.mark.parametrize("name", ["cut.zip", "cut.tar.gz", "cut.tar"])
def test_damaged_archives_are_named(name: str, tmp_path: Path) -> None:
    """A cut-off archive is one clear error."""
    path = tmp_path / name
    (make_zip if name.endswith("zip") else make_tar)(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="cannot be read as an archive"):
        sources_of(path)
