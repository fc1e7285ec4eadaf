"""Message catalog: translate every text for the user, and find the language to translate to.

The English text in the code is the key; `ja.po` contains the Japanese. Values are named fields of the text,
`say("{count:,} samples", count=3)`, so that another language can put them in another order.
"""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

LANGUAGES = ("en", "ja")
LOCALE_VARIABLES = ("LC_ALL", "LC_MESSAGES", "LANG")
"""The first one that is set decides, as POSIX has it."""
CONSOLES_WITHOUT_JAPANESE = ("linux", "dumb")
"""Terminals (TERM) without Japanese fonts: the bare console of a Linux machine, for one."""
WINDOWS_LANGUAGES = {0x09: "en", 0x11: "ja"}
"""Primary language identifiers, the lower ten bits of a LANGID (Microsoft, "Language Identifier Constants")."""

_spoken = "en"


def set_language(language: str) -> None:
    """Set the language of all texts, one of `LANGUAGES`, for the whole process like the system's locale."""
    global _spoken  # noqa: PLW0603
    if language not in LANGUAGES:
        raise ValueError(f"{language!r} is none of {LANGUAGES}")
    _spoken = language


def get_language() -> str:
    """Return the current language."""
    return _spoken


def resolve_language(asked: str) -> str:
    """Resolve `--lang`: auto, or one of `LANGUAGES`."""
    return system_language(os.environ) if asked == "auto" else asked


def system_language(environment: Mapping[str, str]) -> str:
    """One of `LANGUAGES`: the locale's; on Windows, where usually no variable says it, that of its menus."""
    locale = next((environment[name] for name in LOCALE_VARIABLES if environment.get(name)), None)
    if locale is None and sys.platform == "win32":
        return _language_of_windows()
    language = (locale or "").partition("_")[0].partition(".")[0].lower()
    if language not in LANGUAGES or environment.get("TERM") in CONSOLES_WITHOUT_JAPANESE:
        return "en"
    return language


def _language_of_windows() -> str:
    if sys.platform == "win32":
        import ctypes

        return WINDOWS_LANGUAGES.get(ctypes.windll.kernel32.GetUserDefaultUILanguage() & 0x3FF, "en")
    raise AssertionError("asked for on Windows only")


def say(text: str, /, **values: object) -> str:
    """Translate an English text and format its values as `str.format` does; without values braces are literal."""
    translated = text if _spoken == "en" else _catalog(_spoken).get(text, text)
    return translated.format(**values) if values else translated


def in_every_language(text: str) -> tuple[str, ...]:
    """Return a text in each language."""
    return (text, *(_catalog(language).get(text, text) for language in LANGUAGES if language != "en"))


def texts() -> tuple[str, ...]:
    """Return every text of the catalog in every language, unformatted."""
    catalogues = [_catalog(language) for language in LANGUAGES if language != "en"]
    return tuple(text for catalogue in catalogues for pair in catalogue.items() for text in pair)


@dataclass(frozen=True)
class LazyString:
    """Text that is translated when it is shown: a constant, or a message in a file, in the reader's language.

    `str` translates it; `dataclasses.asdict` makes it JSON.
    """

    text: str
    values: Mapping[str, object] = field(default_factory=dict)

    def __str__(self) -> str:
        return say(self.text, **self.values)

    @classmethod
    def kept(cls, in_file: Mapping[str, Any]) -> "LazyString":
        """Restore from JSON."""
        return cls(in_file["text"], in_file["values"])

    @property
    def source(self) -> str:
        """English text, for machines."""
        values = {name: one.source if isinstance(one, LazyString) else one for name, one in self.values.items()}
        return self.text.format(**values) if values else self.text


@cache
def _catalog(language: str) -> dict[str, str]:
    from babel.messages.pofile import read_po

    with files("tunesmith.i18n").joinpath("locales", f"{language}.po").open("rb") as file:
        return {str(message.id): str(message.string) for message in read_po(file) if message.id and message.string}
