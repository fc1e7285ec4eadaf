"""Resolve the language of texts: the requested one, else that of the system's locale."""

import os
import sys
from collections.abc import Mapping

from tunesmith.i18n import LANGUAGES

LOCALE_VARIABLES = ("LC_ALL", "LC_MESSAGES", "LANG")
"""The first one that is set decides, as POSIX has it."""
CONSOLES_WITHOUT_JAPANESE = ("linux", "dumb")
"""Terminals (TERM) without Japanese fonts: the bare console of a Linux machine, for one."""
WINDOWS_LANGUAGES = {0x09: "en", 0x11: "ja"}
"""Primary language identifiers, the lower ten bits of a LANGID (Microsoft, "Language Identifier Constants")."""


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
