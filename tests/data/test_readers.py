"""Files of every kind into samples, nothing lost on the way."""

import bz2
import csv
import gzip
import io
import json
import lzma
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from tunesmith.data.readers import ReadingOptions, SourceReport, open_source
from tunesmith.data.source_files import ResolvedSources, resolve_sources
from tunesmith.data.table_readers import TableColumns
from tunesmith.errors import UserError

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
needs_real_text = pytest.mark.skipif(not SHARED.is_dir(), reason="the real texts are not beside this checkout")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
LINE = ReadingOptions(split_on="line")


def sources_of(source: Path) -> ResolvedSources:
    """What a SOURCE stands for."""
    with resolve_sources([str(source)]) as found:
        return found


def read(path: Path, options: ReadingOptions = LINE) -> tuple[list[str], list[SourceReport]]:
    """All samples of a source, and the reports of its files."""
    texts, reports = [], []
    for file in sources_of(path).files:
        report, lists = open_source(file, options, end_of_text="<|endoftext|>")
        texts += [text for some in lists for text in some.texts]
        reports.append(report)
    return texts, reports


def write(folder: Path, name: str, content: bytes) -> Path:
    """A file with exactly these bytes."""
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"a\nb\n", ["a", "b"]),
        (b"a\r\nb\r\n", ["a", "b"]),
        (b"a\rb\r", ["a", "b"]),
        (b"a\nb\r\nc\rd", ["a", "b", "c", "d"]),
        (b"a\n\n \nb", ["a", "b"]),
        (b"\xef\xbb\xbfa\n", ["a"]),
        ("a\x0cb\u2028c\x85d\n".encode(), ["a\x0cb\u2028c\x85d"]),
        (b" a \t\n", [" a \t"]),
    ],
)
def test_lines(content: bytes, expected: list[str], tmp_path: Path) -> None:
    """LF, CRLF and CR end a line and nothing else does; spaces are kept; empty lines are left out and counted."""
    texts, (report,) = read(write(tmp_path, "a.txt", content))
    assert texts == expected
    assert report.samples == len(expected)
    assert report.empty_samples == content.count(b"\n\n") * 2


def visible(text: str) -> bool:
    """Whether a sample is not empty."""
    return bool(text) and not text.isspace()


@given(st.lists(TEXT.filter(lambda text: not set(text) & {"\n", "\r", "\ufeff"} and "<|endoftext|>" not in text)))
def test_any_lines_come_back(lines: list[str]) -> None:
    """Whatever is written one a line is read as it was."""
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), "a.txt", "".join(f"{line}\n" for line in [*lines, "end"]).encode())
        texts, _ = read(path, ReadingOptions(split_on="line", encoding="utf-8"))
        assert texts == [*filter(visible, lines), "end"]


@given(st.lists(TEXT.filter(lambda text: "\r" not in text), min_size=1))
def test_any_table_comes_back(cells: list[str]) -> None:
    """Whatever csv and json write into a text field is read as it was, line breaks and quotes included."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    writer.writerow(["id", "text"])
    writer.writerows((number, cell) for number, cell in enumerate(cells))
    rows = [{"id": number, "text": cell} for number, cell in enumerate(cells)]
    forms = {
        "a.csv": buffer.getvalue(),
        "a.json": json.dumps({"version": 1, "data": rows}),
        "a.jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows),
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, content in forms.items():
            texts, _ = read(write(Path(folder), name, content.encode()), ReadingOptions(encoding="utf-8"))
            assert texts == list(filter(visible, cells)), name


SAMPLES = ["one, with a comma", 'two "quoted"\nlines', "三つ目の文です"]


def arrow_file(path: Path, rows: list[dict[str, Any]], *, stream: bool = False) -> None:
    """Arrow's file form or stream form."""
    table = pa.Table.from_pylist(rows)
    new = pa.ipc.new_stream if stream else pa.ipc.new_file
    with new(str(path), table.schema) as writer:
        writer.write_table(table)


def table_files(folder: Path, field: str) -> list[Path]:
    """The same samples in every kind of table, under any field name."""
    rows = [{"id": number, field: text} for number, text in enumerate(SAMPLES)]
    for delimiter, name in ((",", "t.csv"), ("\t", "t.tsv")):
        with (folder / name).open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ["id", field], delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)
    (folder / "t.json").write_text(json.dumps(rows), encoding="utf-8")
    (folder / "t.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    parquet.write_table(pa.Table.from_pylist(rows), folder / "t.parquet")
    arrow_file(folder / "t.arrow", rows)
    arrow_file(folder / "stream.arrow", rows, stream=True)
    return sorted(folder.iterdir())


@pytest.mark.parametrize("field", ["text", "body"])
def test_every_kind_of_table(field: str, tmp_path: Path) -> None:
    """Each kind gives the same samples, from `text` or from the only field that can be meant."""
    for path in table_files(tmp_path, field):
        texts, (report,) = read(path, ReadingOptions())
        assert texts == SAMPLES, path.name
        assert report.split_on == "row"


def zstandard(content: bytes) -> bytes:
    """Compress as the zstd program does."""
    return bytes(pa.compress(content, codec="zstd", asbytes=True))


@pytest.mark.parametrize(
    ("suffix", "compress"),
    [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress), (".zst", zstandard)],
)
def test_compressed_files(suffix: str, compress: Callable[[bytes], bytes], tmp_path: Path) -> None:
    """Compressed text and tables are read as if they were not; a cut-off one is an error."""
    assert read(write(tmp_path, f"a.txt{suffix}", compress(b"one\ntwo\n")))[0] == ["one", "two"]
    assert read(write(tmp_path, f"a.csv{suffix}", compress(b"text\nthree\n")))[0] == ["three"]
    cut = write(tmp_path, f"cut.txt{suffix}", compress(b"one\ntwo\n" * 5000)[:-12])
    with pytest.raises(UserError, match=r"cut.txt.* cannot be decompressed"):
        read(cut)


def test_folders_and_globs(tmp_path: Path) -> None:
    """A folder is read below, sorted by path, without hidden files or loops of links; other kinds are named."""
    for name in ("b.txt", "a/z.txt", "a/y.md", ".hidden.txt", "a/photo.jpg", "empty.txt"):
        write(tmp_path, name, b"" if name == "empty.txt" else name.encode())
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    found = sources_of(tmp_path)
    assert [file.name for file in found.files] == ["a/y.md", "a/z.txt", "b.txt"]
    assert found.skipped == ("a/photo.jpg",)
    matched = sources_of(tmp_path / "**" / "*.txt")
    assert [file.name for file in matched.files] == ["z.txt", "b.txt"]


def test_unusable_sources(tmp_path: Path) -> None:
    """Missing, empty and unknown files, and folders without text, are refused before anything is read."""
    (tmp_path / "nothing").mkdir()
    for source, named in [
        (tmp_path / "nothing", "No readable text"),
        (tmp_path / "none.txt", "no such file"),
        (tmp_path / "*.text", "no such file"),
        (write(tmp_path, "a.pdf", b"x"), "is not a .txt, .md"),
        (write(tmp_path, "a.txt", b""), "is empty"),
    ]:
        with pytest.raises(UserError, match=named):
            sources_of(source)


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        (
            "a.csv",
            b"id,body\n1,a\n",
            "no column 'text'; its columns are 'id', 'body', and none of them looks like text",
        ),
        (
            "b.csv",
            b"title,abstract\nwhat is the matter,nothing of importance\n",
            "'title', 'abstract' could be meant",
        ),
        ("c.csv", b"id,text\n1,a\n2,b,c\n", "line 3 has 3 fields where the header has 2"),
        ("d.csv", b'id,text\n1,"never closed\n', "is not a valid table near line"),
        ("e.jsonl", b'{"text": "a"}\n{"text": \n', "line 2 is not JSON"),
        ("f.jsonl", b'{"text": 5}\n', "row 1: 'text' is 5, not text"),
        ("g.json", b'{"a": [1], "b": [2]}', "an object with 2 arrays"),
        ("h.json", b"[1]", "entry 1 is not an object"),
        ("i.parquet", b"PAR1 not really", "cannot be read as parquet"),
        ("j.arrow", b"ARROW1 not really", "cannot be read as arrow"),
        ("k.csv", b"text\n", "has no rows"),
    ],
)
def test_damaged_tables_are_named(name: str, content: bytes, named: str, tmp_path: Path) -> None:
    """What is wrong with a table is said with its place."""
    with pytest.raises(UserError, match=named):
        read(write(tmp_path, name, content))


def test_the_asked_field_is_taken_or_named(tmp_path: Path) -> None:
    """--text-field overrules; one that does not exist is an error that lists those that do."""
    path = write(tmp_path, "a.csv", b"text,title\nlong enough to be a text,a title\n")
    assert read(path, ReadingOptions(columns=TableColumns("title")))[0] == ["a title"]
    with pytest.raises(UserError, match="no column 'tittle'; its columns are 'text', 'title'"):
        read(path, ReadingOptions(columns=TableColumns("tittle")))


def pairs(path: Path, options: ReadingOptions) -> list[tuple[str, str]]:
    """What is given and what is learned of each sample."""
    (file,) = sources_of(path).files
    _, lists = open_source(file, options, end_of_text="<|endoftext|>")
    return [pair for some in lists for pair in zip(*some.parts(), strict=True)]


@pytest.mark.parametrize("names", [("question", "answer"), ("instruction", "output"), ("prompt", "completion")])
def test_known_pairs_are_recognized(names: tuple[str, str], tmp_path: Path) -> None:
    """Question and answer, instruction and output: the first is given, the second is learned."""
    rows = [dict(zip(names, ("Why?\nReally?", "Because."), strict=True)), dict(zip(names, ("How?", ""), strict=True))]
    path = write(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows)).encode())
    assert pairs(path, ReadingOptions()) == [("Why?\nReally?\n", "Because.")]


def test_asked_pairs_and_templates(tmp_path: Path) -> None:
    """--prompt-field, --completion-field and --template say what a pair is; half a pair is refused."""
    path = write(tmp_path, "a.csv", b"text,q,a\nx,2+2?,4\n")
    columns = TableColumns(prompt="q", completion="a", template="Q: {prompt}\nA: {completion} (end)")
    assert pairs(path, ReadingOptions(columns=columns)) == [("Q: 2+2?\nA: ", "4 (end)")]
    assert read(path, ReadingOptions())[0] == ["x"]
    with pytest.raises(UserError, match="go together"):
        read(path, ReadingOptions(columns=TableColumns(prompt="q")))
    with pytest.raises(UserError, match="no column 'b'; its columns are 'text', 'q', 'a'"):
        read(path, ReadingOptions(columns=TableColumns(prompt="q", completion="b")))


def test_markers_are_borders_and_counted(tmp_path: Path) -> None:
    """A literal end-of-text in a text ends a sample there."""
    texts, (report,) = read(write(tmp_path, "a.txt", b"one<|endoftext|>two\n<|endoftext|>three\n"))
    assert texts == ["one", "two", "three"]
    assert report.eot_markers == 2


@needs_real_text
@pytest.mark.parametrize(
    ("source", "samples", "split_on"),
    [
        ("names", 32_033, {"line"}),
        ("titles-hn", 2001, {"line"}),
        ("csv-poll-tweets", 448, {"row"}),
        ("speeches-a", 25, {"document"}),
        ("novels-a", 8, {"document"}),
        ("tinyshakespeare", 7222, {"blank-line"}),
        ("aozora-a", 4, {"document"}),
        ("jsonl-gsm8k", 7473, {"row"}),
    ],
)
def test_real_texts_are_split_as_a_person_would(source: str, samples: int, split_on: set[str]) -> None:
    """`auto` finds the borders of real collections, and decodes them without a replacement character."""
    texts, reports = read(SHARED / source, ReadingOptions())
    assert len(texts) == samples
    assert {report.split_on for report in reports} == split_on
    assert not any("\ufffd" in text for text in texts)
    if source == "csv-poll-tweets":
        assert sum("\n" in text for text in texts) == 46
    if source == "aozora-a":
        by_name = dict(zip([report.name for report in reports], texts, strict=True))
        assert by_name["wagahai_neko.sjis.txt"] == by_name["wagahai_neko.utf8.txt"]
