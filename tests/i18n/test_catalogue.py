"""Every line a person reads, in the person's language."""

import pytest

from tunesmith.errors import UserError
from tunesmith.i18n import get_language, say, set_language


def test_english_is_said_as_it_stands_with_its_values() -> None:
    """Values are formatted as `str.format` does; without values braces stand for themselves."""
    assert say("{count:,} samples of {name}", count=1234, name="a{b}") == "1,234 samples of a{b}"
    assert say("write {prompt}") == "write {prompt}"


def test_another_language_is_spoken_from_then_on() -> None:
    """An error is in Japanese where that is spoken, and English what the catalogue lacks."""
    set_language("ja")
    assert get_language() == "ja"
    assert UserError("no source was named", hint="nobody translates this").message == "テキストが指定されていません"
    assert say("nobody translates this: {value}", value=3) == "nobody translates this: 3"


def test_a_language_that_nobody_speaks_is_refused() -> None:
    """By name."""
    with pytest.raises(ValueError, match="'tlh'"):
        set_language("tlh")
