"""Every line a person reads, in the person's language.

The English text stands where it is said and is the key; `ja.po` beside this file holds the Japanese one. Values stand
in the text by name, `say("{count:,} samples", count=3)`, so that another language can put them in another order.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

LANGUAGES = ("en", "ja")

_spoken = "en"


def set_language(language: str) -> None:
    """Say everything from now on in one of `LANGUAGES`: a program talks to one person, as with the system's locale."""
    global _spoken  # noqa: PLW0603
    if language not in LANGUAGES:
        raise ValueError(f"{language!r} is none of {LANGUAGES}")
    _spoken = language


def get_language() -> str:
    """The language that is spoken now."""
    return _spoken


def say(text: str, /, **values: object) -> str:
    """A text in the language that is spoken, with its values in place.

    Args:
        text: in English, with values in braces as for `str.format`; without values braces stand for themselves.
        values: of the names in the text.
    """
    translated = text if _spoken == "en" else _catalogue(_spoken).get(text, text)
    return translated.format(**values) if values else translated


def in_every_language(text: str) -> tuple[str, ...]:
    """A text as it stands in each language."""
    return (text, *(_catalogue(language).get(text, text) for language in LANGUAGES if language != "en"))


def texts() -> tuple[str, ...]:
    """Every text that can be said, in every language, its values as names in braces."""
    catalogues = [_catalogue(language) for language in LANGUAGES if language != "en"]
    return tuple(text for catalogue in catalogues for pair in catalogue.items() for text in pair)


@dataclass(frozen=True)
class LazyString:
    """A text that is said later: a constant, or what a file keeps for whoever reads it in whatever language.

    As a string it is what `say` makes of it then; `dataclasses.asdict` makes it JSON.

    Attributes:
        text: as for `say`.
        values: likewise.
    """

    text: str
    values: Mapping[str, object] = field(default_factory=dict)

    def __str__(self) -> str:
        return say(self.text, **self.values)

    @classmethod
    def kept(cls, in_file: Mapping[str, Any]) -> "LazyString":
        """Back from JSON."""
        return cls(in_file["text"], in_file["values"])

    @property
    def source(self) -> str:
        """As it stands, for what machines read."""
        values = {name: one.source if isinstance(one, LazyString) else one for name, one in self.values.items()}
        return self.text.format(**values) if values else self.text


@cache
def _catalogue(language: str) -> dict[str, str]:
    from babel.messages.pofile import read_po

    with files("tunesmith.i18n").joinpath("locales", f"{language}.po").open("rb") as file:
        return {str(message.id): str(message.string) for message in read_po(file) if message.id and message.string}
