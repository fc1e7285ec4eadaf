"""Sample borders: found by the definition, however the text is cut into pieces, and chosen with a reason."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.data.segmentation import detect_boundary, split_text

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
