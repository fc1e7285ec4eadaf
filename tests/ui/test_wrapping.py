"""Lines in terminal cells."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from tunesmith.ui.wrapping import WrappedText, padded, wrapped


@pytest.mark.parametrize(
    ("text", "cells", "lines"),
    [
        ("the lamp burns all night", 10, ["the lamp", "burns all", "night"]),
        ("\u5b66\u7fd2\u7387\u3092\u4e0b\u3052\u308b", 8, ["\u5b66\u7fd2\u7387\u3092", "\u4e0b\u3052\u308b"]),
        # no line begins with a full stop or a long vowel, none ends with an opening bracket
        ("\u3042\u3044\u3046\u3048\u3002\u304a", 8, ["\u3042\u3044\u3046", "\u3048\u3002\u304a"]),
        ("\u3042\u30c7\u30fc\u30bf", 4, ["\u3042", "\u30c7\u30fc", "\u30bf"]),
        ("\u3042\u3044\u300c\u3046\u300d", 6, ["\u3042\u3044", "\u300c\u3046\u300d"]),
        ("--learning-rate \u3092\u4e0b\u3052\u307e\u3059", 18, ["--learning-rate \u3092", "\u4e0b\u3052\u307e\u3059"]),
        ("/a/very/long/path", 8, ["/a/very/", "long/pat", "h"]),
        ("one\ntwo", 8, ["one", "two"]),
        ("", 8, [""]),
    ],
)
def test_lines_end_where_a_reader_expects_it(text: str, cells: int, lines: list[str]) -> None:
    """At blanks, between wide characters, and else where the line is full."""
    assert wrapped(text, cells) == lines


@given(st.text(alphabet="ab \u3042\u30fc\u3002\u300c\u300d\uff08\uff09x,.(", max_size=60), st.integers(6, 30))
def test_nothing_is_lost_and_nothing_is_wider(text: str, cells: int) -> None:
    """Whatever is wrapped."""
    lines = wrapped(text, cells)
    assert "".join("".join(lines).split()) == "".join(text.split())
    assert all(cell_len(line) <= cells for line in lines)


def test_rich_shows_the_same_lines() -> None:
    """In a cell of a table, for example."""
    text = "\u5b66\u7fd2\u7387 (learning rate) \u3092\u4e0b\u3052\u3066\u304f\u3060\u3055\u3044\u3002"
    console = Console(width=12, color_system=None)
    table = Table.grid()
    table.add_row(WrappedText(text))
    with console.capture() as capture:
        console.print(table)
    assert [line.rstrip() for line in capture.get().splitlines()] == wrapped(text, 12)


def test_columns_are_filled_in_cells() -> None:
    """Two for a wide character."""
    assert padded("\u5b66", 4) == "\u5b66  "
    assert padded("long enough", 4) == "long enough"
