"""Tables as spreadsheets and other tools write them: what separates fields, header rows, which columns are read."""

import csv
import io
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.data.readers import ReadingOptions, SourceReport, open_source
from tunesmith.data.source_files import resolve_sources
from tunesmith.data.table_readers import TableColumns, detect_table_format, has_header_row
from tunesmith.errors import UserError

TEXTS = [
    "The keeper wrote that the lamp, as ever, was steady.",
    "Rain from noon; the boat did not come.",
    'She said "no gulls today" and went below.',
    "Two ships | both small | before dark.",
    "Fog until dawn, bell every minute; oil enough.",
]
Read = Callable[..., tuple[list[str], SourceReport]]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Write a file and read its samples."""

    def read(name: str, content: str, **options: object) -> tuple[list[str], SourceReport]:
        path = tmp_path / name
        path.write_text(content, encoding="utf-8", newline="")
        with resolve_sources([str(path)]) as resolved:
            report, batches = open_source(resolved.files[0], ReadingOptions(**options), end_of_text="<|endoftext|>")  # type: ignore[arg-type]
            return [text for batch in batches for text in batch.texts], report

    return read


def written(rows: list[list[str]], delimiter: str, quoting: int = csv.QUOTE_MINIMAL) -> str:
    """What the csv module writes."""
    buffer = io.StringIO(newline="")
    csv.writer(buffer, delimiter=delimiter, quoting=quoting).writerows(rows)  # type: ignore[arg-type]
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["posts.csv", "posts.tsv"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_found(delimiter: str, quoting: int, name: str, read: Read) -> None:
    """A spreadsheet writes semicolons where the comma is the decimal sign, whatever the file is called."""
    rows = [["id", "score", "remark"], *([str(n), f"{n}.5", text] for n, text in enumerate(TEXTS))]
    texts, report = read(name, written(rows, delimiter, quoting))
    assert texts == TEXTS
    assert (report.columns, report.unused_columns) == (("remark",), ("id", "score"))
    assert str(report.reason) == "a table: one row is one sample, from 'remark'; not read: 'id', 'score'"


@pytest.mark.parametrize("delimiter", [",", ";"])
def test_decimal_commas_are_no_columns(delimiter: str, read: Read) -> None:
    """Numbers with a decimal comma, unquoted between semicolons."""
    lines = ["remark;price", *(f"a remark of some length {n};{n},5" for n in range(12))]
    texts, report = read("a.csv", "\n".join(lines).replace(";", delimiter) if delimiter == ";" else "\n".join(lines))
    assert texts[3] == "a remark of some length 3"
    assert report.unused_columns == ("price",)


def test_one_column_needs_no_delimiter(read: Read) -> None:
    """Quoted texts with every separator in them stay whole."""
    assert read("a.csv", written([["text"], *([text] for text in TEXTS)], ","))[0] == TEXTS


@pytest.mark.parametrize(
    "rows",
    [
        [[text] for text in TEXTS],
        [[text, str(n)] for n, text in enumerate(TEXTS)],
        [["7", text] for text in TEXTS],
    ],
    ids=["texts", "text and number", "number and text"],
)
def test_a_first_sample_is_no_header(rows: list[list[str]], read: Read) -> None:
    """Without a header row nothing is lost; columns are counted."""
    texts, report = read("a.csv", written(rows, ","))
    assert texts == TEXTS
    assert report.columns == (str(1 + max(range(len(rows[0])), key=lambda i: len(rows[1][i]))),)


@pytest.mark.parametrize(
    ("first", "is_header"),
    [
        (["comment of the visitor"], True),
        (["Bemerkung"], True),
        (["本文"], True),
        (["The sky was grey over the harbor all day."], False),
        (["空は一日中、灰色だった。"], False),
        (["12"], False),
    ],
)
def test_header_rows(first: list[str], *, is_header: bool) -> None:
    """Short names without a full stop, above longer texts."""
    below = [[f"{text} {text}"] for text in TEXTS]
    assert has_header_row([first, *below]) == is_header


def test_no_header_and_two_texts_ask(read: Read) -> None:
    """Which of two texts is meant is asked, by number."""
    with pytest.raises(UserError, match="'1', '2' could be meant"):
        read("a.csv", written([[text, text[::-1] + "."] for text in TEXTS], ";"))
    texts, _ = read("b.csv", written([[text, text + " Again."] for text in TEXTS], ";"), columns=TableColumns(text="2"))
    assert texts == [text + " Again." for text in TEXTS]


@pytest.mark.parametrize(
    ("header", "row", "expected"),
    [
        (["instruction", "input", "output"], ["Name the bird.", "It is white.", "A gull."], ("instruction", "input")),
        (["instruction", "input", "output"], ["Name a bird.", "", "A gull."], ("instruction", "input")),
        (["context", "question", "answer"], ["It is white.", "Which bird?", "A gull."], ("context", "question")),
        (["instruction", "context", "response"], ["Name it.", "White bird.", "A gull."], ("instruction", "context")),
    ],
)
def test_what_belongs_to_a_prompt(header: list[str], row: list[str], expected: tuple[str, str], read: Read) -> None:
    """Alpaca's input, and the context of a question, are given with it; empty ones leave no blank line."""
    texts, report = read("a.csv", written([header, row, row], ","))
    cells = dict(zip(header, row, strict=True))
    lines = [cells[name] for name in expected if cells[name]]
    assert texts == ["\n".join([*lines, row[-1]])] * 2
    assert (report.columns, report.unused_columns) == ((*expected, header[-1]), ())


def test_named_columns_are_all_that_is_read(read: Read) -> None:
    """Whoever names prompt and completion gets these two; what is left out is named."""
    rows = [["instruction", "input", "output"], ["Name it.", "White.", "A gull."]]
    texts, report = read("a.csv", written(rows, ","), columns=TableColumns(prompt="instruction", completion="output"))
    assert texts == ["Name it.\nA gull."]
    assert report.unused_columns == ("input",)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_table_saved_as_text_is_read_as_a_table(delimiter: str, read: Read) -> None:
    """With known names of columns; JSON objects, too."""
    texts, report = read("a.txt", written([["id", "text"], *([str(n), t] for n, t in enumerate(TEXTS))], delimiter))
    assert texts == TEXTS
    assert report.unused_columns == ("id",)
    assert read("b.txt", '{"text": "one night"}\n{"text": "two nights"}\n')[0] == ["one night", "two nights"]


def test_what_looks_like_a_table_is_asked_about(read: Read) -> None:
    """Names of columns that are not known, and as many fields in every line: not learned without a word."""
    lines = "\n".join(["nr,remark,place", *(f"{n},calm,north pier" for n in range(20))])
    with pytest.raises(UserError, match="looks like a table"):
        read("a.txt", lines)
    assert read("a.txt", lines, split_on="line")[0][1] == "0,calm,north pier"


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(f"Smith, John {n}" for n in range(30)),
        "\n".join(f"Night {n}, calm, no ship." for n in range(30)),
        "The text\nis a poem, or two\nand then, some more\n" * 5,
        '{"not": "json"\n' * 3,
    ],
    ids=["names", "sentences", "poem", "broken JSON"],
)
def test_text_with_commas_is_no_table(text: str, read: Read) -> None:
    """Lines of names and sentences with as many commas each are texts."""
    _, report = read("a.txt", text)
    assert report.columns == ()


CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0\r", exclude_categories=["Cs"]), max_size=30)


@given(
    rows=st.lists(st.tuples(CELLS, st.integers()), min_size=2, max_size=8), delimiter=st.sampled_from([",", ";", "\t"])
)
def test_any_quoted_table_has_its_delimiter(rows: list[tuple[str, int]], delimiter: str) -> None:
    """Whatever is in the cells: what the csv module quotes is read with the delimiter it was written with."""
    content = written([["text", "id"], *([text, str(n)] for text, n in rows)], delimiter, csv.QUOTE_ALL)
    found = detect_table_format(content, ".csv")
    assert (found.delimiter, found.has_header) == (delimiter, True)
