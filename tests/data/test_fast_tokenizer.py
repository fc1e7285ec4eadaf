"""The fast path gives the reference's ids, or steps aside and says so."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tunesmith.data import fast_tokenizer
from tunesmith.data.fast_tokenizer import AWKWARD, FastTokenizer
from tunesmith.data.tokenizer import SAFE_BORDER, TextTokenizer, safe_pieces

LARGE = fast_tokenizer.LARGE_TEXT_BYTES


@pytest.fixture(scope="module")
def reference(small_tokenizer: Tokenizer) -> TextTokenizer:
    """The small byte-level tokenizer."""
    return TextTokenizer(small_tokenizer, end_of_text_id=0, folder=Path())


def as_lists(ids: np.ndarray, counts: np.ndarray) -> list[list[int]]:
    """Ids text by text."""
    return [part.tolist() for part in np.split(ids, np.cumsum(counts)[:-1])]


@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=60), min_size=1, max_size=20))
def test_the_fast_path_gives_the_same_ids(reference: TextTokenizer, texts: list[str]) -> None:
    """Any unicode text has the ids that `tokenizers` gives it, whichever path was taken in the end."""
    fast = FastTokenizer(reference, text_bytes=LARGE)
    expected = reference.encode(texts)
    assert as_lists(*fast.encode_packed(texts)) == expected
    assert as_lists(*reference.encode_packed(texts)) == expected


def test_large_texts_take_the_fast_path(reference: TextTokenizer) -> None:
    """Gigatoken is really used where it pays, and not loaded where it does not."""
    assert FastTokenizer(reference, text_bytes=LARGE).path == "gigatoken"
    small = FastTokenizer(reference, text_bytes=LARGE - 1)
    assert (small.path, str(small.reason)) == ("tokenizers", "the text is small")


def test_a_difference_is_noticed_and_the_reference_takes_over(
    reference: TextTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrong ids on the actual text, or in the self-check, are never used; the reason is kept."""
    texts = ["the lamp burns", "rain at dusk " * 1000 + "\nagain", "gulls"]
    expected = reference.encode(texts)
    fast = FastTokenizer(reference, text_bytes=LARGE)
    honest = fast._encode_fast
    for wrong in range(3):
        fast = FastTokenizer(reference, text_bytes=LARGE)

        def lie(some: list[str], wrong: int = wrong) -> tuple[np.ndarray, np.ndarray]:
            ids, counts = honest(some)
            ids = ids.copy()
            ids[(np.cumsum(counts) - counts)[wrong]] ^= 1
            return ids, counts

        monkeypatch.setattr(fast, "_encode_fast", lie)
        assert as_lists(*fast.encode_packed(texts)) == expected
        assert fast.path == "tokenizers"
        assert "other ids" in str(fast.reason)
    monkeypatch.setattr(
        FastTokenizer, "_encode_fast", lambda _self, some: (np.zeros(len(some)), np.ones(len(some), int))
    )
    assert "self-check" in str(FastTokenizer(reference, text_bytes=LARGE).reason)


def test_added_tokens_are_left_to_the_reference(small_tokenizer: Tokenizer) -> None:
    """A tokenizer that looks for more than end-of-text in a text is not given to the fast path."""
    richer = Tokenizer.from_str(small_tokenizer.to_str())
    richer.add_tokens(["lighthouse"])
    fast = FastTokenizer(TextTokenizer(richer, end_of_text_id=0, folder=Path()), text_bytes=LARGE)
    assert fast.path == "tokenizers"
    assert "lighthouse" in str(fast.reason)


def test_long_texts_are_cut_where_nothing_changes(reference: TextTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of a long document have together the ids of the whole, around every kind of blank."""
    blanks = ["\n", "\n\n", " \n", "\n ", "\n\n\n", "\t\n", "  "]
    document = "".join(f"{AWKWARD[n % len(AWKWARD)]}word{n}{blanks[n % len(blanks)]}" for n in range(400))
    pieces, counts = safe_pieces([document, "short"], 50)
    assert counts[0] > 20
    assert "".join(pieces[:-1]) == document
    assert SAFE_BORDER.search(document)
    monkeypatch.setattr("tunesmith.data.tokenizer.PIECE_CHARACTERS", 50)
    monkeypatch.setattr("tunesmith.data.fast_tokenizer.PIECE_CHARACTERS", 50)
    fast = FastTokenizer(reference, text_bytes=LARGE)
    assert as_lists(*fast.encode_packed([document, "", "short"])) == reference.encode([document, "", "short"])
    assert fast.path == "gigatoken"
    assert as_lists(*reference.encode_packed([document, "short", ""])) == reference.encode([document, "short", ""])
