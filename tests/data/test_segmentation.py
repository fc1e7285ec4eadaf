"""Sample borders: found by the definition, however the text is cut into pieces, and chosen with a reason."""

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.data.readers import escapes
from tunesmith.data.segmentation import detect_boundary, shown_separator, split_text

MESSY = st.text(st.sampled_from("ab \n\n\n\t=é猫"), max_size=80)


def cut(text: str, sizes: list[int]) -> list[str]:
    """A text in pieces of these sizes, over and over."""
    pieces, start, number = [], 0, 0
    while start < len(text):
        size = sizes[number % len(sizes)]
        pieces.append(text[start : start + size])
        start, number = start + size, number + 1
    return pieces


def visible(samples: list[str]) -> list[str]:
    """Without empty samples."""
    return [sample for sample in samples if sample.strip()]


@given(text=MESSY, sizes=st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_pieces_change_nothing(text: str, sizes: list[int]) -> None:
    """Every mode gives the same samples from any pieces as from the whole text by its definition."""
    expected = {
        "line": text.split("\n"),
        "blank-line": [block.strip("\n") for block in re.split(r"\n[ \t]*\n(?:[ \t]*\n)*", text)],
        "document": [text.strip("\n")],
        "==": [part.strip("\n") for part in text.split("==")],
    }
    for mode, samples in expected.items():
        given_samples = [sample for some in split_text(cut(text, sizes), mode) for sample in some.texts]
        if mode == "blank-line":  # blanks at the very ends belong to no sample's text
            assert [s.strip() for s in visible(given_samples)] == [s.strip() for s in visible(samples)]
        else:
            assert visible(given_samples) == visible(samples), mode


PROSE = "It was a bright cold day, and the clocks were about to strike\nthirteen, when a man in a coat that had seen\n"
EXAMPLES = {
    "names": ("anna\nbert\nclara\n" * 50, "line"),
    "titles": ("Show HN: A Thing That Works\nWhy We Moved to Something Else in 2015\n" * 50, "line"),
    "long lines, many": (("Word " * 100 + "\n") * 600, "line"),
    "verse in blocks": ("First Citizen:\nSpeak, speak.\n\nAll:\nResolved, resolved.\n\n" * 40, "blank-line"),
    "wrapped prose": (PROSE * 60, "document"),
    "wrapped prose in paragraphs": ((PROSE * 3 + "\n") * 40, "document"),
    "long paragraphs": (("A sentence that goes on. " * 30 + "\n\n") * 40, "document"),
    "one line": ("only one", "line"),
    "stories between dashes": ((PROSE * 3 + "-----\n") * 6, "\n-----\n"),
    "quotations": ("Nothing is so steady\nas a lamp.\n%\n" * 8, "\n%\n"),
    "poems between asterisks": ("The lamp is lit,\nthe wind is north.\n\n* * *\n\n" * 30, "\n* * *\n"),
    "a story with scenes": ((PROSE * 20 + "\n* * *\n\n") * 6, "document"),
    "headings with lines under them": (
        ("A title\n=====\n\n" + "A sentence that goes on. " * 30 + "\n\n") * 9,
        "document",
    ),
    "Markdown articles": (("# A title\n\n" + "A sentence that goes on. " * 30 + "\n\n") * 9, "heading"),
    "wiki articles": (" \n" + (" = A title = \n \n" + " A sentence that goes on . " * 30 + "\n \n") * 9, "heading"),
    "comments in a program": ("# Say it.\n\nprint(1)\n# again\nprint(2)\n\n# and now\nprint(3)\n\n" * 9, "blank-line"),
    "one long line": ("word after word " * 100, "document"),
    "nothing": ("", "line"),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_auto_decides_as_a_person_would(name: str) -> None:
    """Lists, verse and prose are told apart, with a reason a person can overrule."""
    head, expected = EXAMPLES[name]
    choice = detect_boundary(head)
    assert choice.split_on == expected, choice.reason
    assert len(str(choice.reason)) > 10


def test_a_headers_name_is_pointed_out() -> None:
    """A list that was a table's column once: its first line stays a sample, and the reason says what it looks like."""
    assert "the first one, 'Title', looks like a header" in str(detect_boundary("Title\n" + "A thing\n" * 50).reason)
    assert "header" not in str(detect_boundary("A thing\n" * 50).reason)


LINES = st.lists(st.sampled_from(["a", "b c", "", "---", "----", " ---"]), max_size=12)


@given(lines=LINES, sizes=st.lists(st.integers(1, 9), min_size=1, max_size=5), ends=st.booleans())
def test_separator_lines_are_not_learned(lines: list[str], sizes: list[int], *, ends: bool) -> None:
    """Exactly the lines that are the separator end samples: the first line, the last one and adjacent ones, too."""
    text = "\n".join(lines) + "\n" * ends
    expected: list[list[str]] = [[]]
    for line in lines:
        if line == "---":
            expected.append([])
        else:
            expected[-1].append(line)
    found = [sample for some in split_text(cut(text, sizes), "\n---\n") for sample in some.texts]
    assert visible(found) == visible(["\n".join(section).strip("\n") for section in expected])


@given(
    lines=st.lists(st.sampled_from(["a", "", "# T", " = T = ", "#x", "= = S = ="]), max_size=12), size=st.integers(1, 9)
)
def test_headings_begin_samples(lines: list[str], size: int) -> None:
    """Cut before a heading of the first level between blank lines, and nowhere else; headings are learned."""
    text = "\n".join(lines)
    found = [sample for some in split_text(cut(text, [size]), "heading") for sample in some.texts]
    starts = [
        i
        for i in range(1, len(lines))
        if not lines[i - 1].strip()
        and i >= 2  # the blank line has a line end before it
        and (
            (lines[i] == " = T = " and i + 1 < len(lines))
            or (lines[i] == "# T" and i + 2 < len(lines) and not lines[i + 1].strip())
        )
    ]
    borders = [0, *starts, len(lines)]
    expected = ["\n".join(lines[a:b]).strip("\n") for a, b in pairwise(borders)]
    assert visible(found) == visible(expected)


def test_a_separator_is_shown_as_it_is_typed() -> None:
    """On one line; `--split-on` takes it back."""
    assert shown_separator("\n---\n") == "\\n---\\n"
    assert escapes(shown_separator("\n--\t-\n")) == "\n--\t-\n"
