"""Files into samples, nothing lost on the way."""

import csv
import io
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.data.sources import read_samples, source_path
from tunesmith.errors import UserError

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
needs_real_text = pytest.mark.skipif(not SHARED.is_dir(), reason="the real texts are not beside this checkout")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def texts(path: Path, text_field: str = "text") -> list[str]:
    """The samples' texts."""
    return [sample.text for sample in read_samples(path, text_field=text_field)]


def write(folder: Path, name: str, content: bytes) -> Path:
    """A file with exactly these bytes."""
    path = folder / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"a\nb\n", ["a", "b"]),
        (b"a\r\nb\r\n", ["a", "b"]),
        (b"a\rb\r", ["a", "b"]),
        (b"a\nb\r\nc\rd", ["a", "b", "c", "d"]),
        (b"a\n\nb", ["a", "", "b"]),
        (b"\xef\xbb\xbfa\n", ["a"]),
        ("a\x0cb\u2028c\x85d\n".encode(), ["a\x0cb\u2028c\x85d"]),
        (b" a \t\n", [" a \t"]),
    ],
)
def test_lines(content: bytes, expected: list[str], tmp_path: Path) -> None:
    """LF, CRLF and CR end a line and nothing else does; spaces and a missing last line end are kept as they are."""
    assert texts(write(tmp_path, "a.txt", content)) == expected


@given(st.lists(TEXT.filter(lambda text: not set(text) & {"\n", "\r"}).filter(lambda text: text[:1] != "\ufeff")))
def test_any_lines_come_back(lines: list[str]) -> None:
    """Whatever is written one a line is read as it was."""
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), "a.txt", "".join(f"{line}\n" for line in lines).encode())
        assert texts(path) == lines


@given(st.lists(TEXT.filter(lambda text: "\r" not in text), min_size=1))
def test_any_table_comes_back(cells: list[str]) -> None:
    """Whatever Python's csv module writes into a column is read as it was, line breaks and quotes included."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    writer.writerow(["id", "text"])
    writer.writerows((number, cell) for number, cell in enumerate(cells))
    with tempfile.TemporaryDirectory() as folder:
        assert texts(write(Path(folder), "a.csv", buffer.getvalue().encode())) == cells


def test_other_column_and_byte_order_mark(tmp_path: Path) -> None:
    """--text-field names the column; a byte order mark is not part of the first column's name."""
    path = write(tmp_path, "a.csv", b'\xef\xbb\xbfbody,id\r\n"one\r\ntwo ""quoted""",1\r\n')
    assert texts(path, "body") == ['one\r\ntwo "quoted"']


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"id,body\n1,a\n", "no column 'text'; its columns are 'id', 'body'"),
        (b"id,text\n1,a\n2,b,c\n", "line 3 has 3 fields where the header has 2"),
        (b'id,text\n1,"never closed\n', "is no valid CSV near line"),
    ],
)
def test_damaged_tables_are_named(content: bytes, named: str, tmp_path: Path) -> None:
    """A missing column, a ragged row and an open quote are errors that say where."""
    with pytest.raises(UserError, match=named):
        texts(write(tmp_path, "a.csv", content))


def test_bytes_that_are_not_utf8_are_located(tmp_path: Path) -> None:
    """Shift_JIS is not read as something else: the byte and its offset are named."""
    path = write(tmp_path, "a.txt", b"abc\n" + "猫".encode("cp932"))
    with pytest.raises(UserError, match="not UTF-8: byte 0x94 at offset 4"):
        texts(path)


def test_unusable_sources(tmp_path: Path) -> None:
    """Folders, missing, empty and unknown files are refused before anything is read."""
    for source, named in [
        (tmp_path, "is a folder"),
        (tmp_path / "none.txt", "there is no file"),
        (write(tmp_path, "a.pdf", b"x"), "is no .txt or .csv file"),
        (write(tmp_path, "a.txt", b""), "is empty"),
    ]:
        with pytest.raises(UserError, match=named):
            source_path(str(source))


@needs_real_text
def test_tweets() -> None:
    """448 rows, 46 of them with line breaks inside quotes."""
    path = SHARED / "csv-poll-tweets" / "realDonaldTrump_poll_tweets.csv"
    tweets = texts(path)
    assert len(tweets) == 448
    assert sum("\n" in tweet for tweet in tweets) == 46


@needs_real_text
def test_titles() -> None:
    """Lines with CRLF and bare commas are what Python's universal newlines give."""
    path = SHARED / "titles-hn" / "hacker_news_2000.txt"
    with path.open(encoding="utf-8") as file:
        assert texts(path) == file.read().splitlines()
