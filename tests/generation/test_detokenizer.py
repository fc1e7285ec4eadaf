"""Text as it comes: no character broken, nothing shown that belongs to a stop string."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tunesmith.data.tokenizer import TextTokenizer
from tunesmith.generation.detokenizer import IncrementalDetokenizer, StopStringMatcher

TEXTS = ["灯台の夜は静かだ。", "a 🦊 and 👩‍🚀 in the fog", "naïve café", "the lamp burns", "x\ufffdy", ""]


@pytest.fixture(scope="module")
def tokenizer(small_tokenizer: Tokenizer) -> TextTokenizer:
    """Byte-level: most characters of Japanese need three tokens."""
    return TextTokenizer(small_tokenizer, end_of_text_id=0, folder=Path())


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_are_whole_characters(text: str, tokenizer: TextTokenizer) -> None:
    """Every piece is text of its own, and together they are the text."""
    stream = IncrementalDetokenizer(tokenizer)
    pieces = [stream.push(token) for token in tokenizer.encode([text])[0]]
    assert "".join([*pieces, stream.end()]) == text
    assert "\ufffd" not in "".join(pieces) or "\ufffd" in text


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ids=st.lists(st.integers(1, 299), max_size=40), before=st.lists(st.integers(1, 299), max_size=3))
def test_any_tokens_give_what_decoding_them_together_gives(
    ids: list[int], before: list[int], tokenizer: TextTokenizer
) -> None:
    """Bytes that form no character included."""
    stream = IncrementalDetokenizer(tokenizer, tokenizer.encode([tokenizer.decode(before)])[0])
    streamed = "".join([stream.push(token) for token in ids] + [stream.end()])
    assert streamed == tokenizer.decode(ids)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.text(alphabet="ab夜🦊", max_size=30),
    stops=st.lists(st.text(alphabet="ab夜🦊", min_size=1, max_size=4), max_size=3),
)
def test_a_stop_string_is_found_wherever_it_stands(text: str, stops: list[str], tokenizer: TextTokenizer) -> None:
    """The text ends before the first stop string that is complete, and nothing behind that was ever shown."""
    shown: list[str] = []
    watch = StopStringMatcher(IncrementalDetokenizer(tokenizer), stops, shown.append)
    for token in tokenizer.encode([text])[0]:
        if watch(token):
            break
    watch.end()
    places = [text.find(stop) for stop in stops if stop in text]
    assert watch.stopped == bool(places)
    assert watch.text == "".join(shown)
    if not places:
        assert watch.text == text
        return
    # of two that overlap, the one that is complete first counts, unless one token completes both
    first = min(stops, key=lambda stop: text.find(stop) + len(stop) if stop in text else len(text) + 1)
    assert watch.text in {text[: text.find(first)], text[: min(places)]}
