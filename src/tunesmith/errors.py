"""The one exception that users are meant to see.

A `UserError` is a mistake or a circumstance that the user can fix: a missing file, a folder that is not a
model, an unreachable Hub. The command line prints it as `error: ...` and `hint: ...` and ends with exit
code 1; in Python it is an ordinary exception with the same two texts. Anything else that escapes is our bug.
"""

import unicodedata
from pathlib import PurePath

from tunesmith.i18n import say

INVISIBLE = {"Cc", "Cs", "Zl", "Zp"}
"""Unicode's categories of control characters, of bytes of a name that do not decode, and of line ends."""


def on_one_line(text: str) -> str:
    """A text on one line with all its blanks: what breaks a line or drives a terminal is shown as Python writes it."""
    return "".join(_escaped(one) if unicodedata.category(one) in INVISIBLE else one for one in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def _bounded(value: object) -> object:
    """A path or a word, between quotes where blanks at its ends would not be seen."""
    if not isinstance(value, str | PurePath):
        return value
    shown = str(value)
    return f'"{shown}"' if shown != shown.strip() else value


class UserError(Exception):
    """A problem that the user can fix.

    Attributes:
        message: what is wrong, with the value and the reason, on one line, in the person's language.
        hint: what to do next, if possible as a command.
    """

    def __init__(self, message: str, /, *, hint: str, **values: object) -> None:
        """Say it in the language that is spoken.

        Args:
            message: a text of the catalog.
            hint: another one.
            values: of the names in both (`tunesmith.i18n.say`).
        """
        shown = {name: _bounded(value) for name, value in values.items()}
        self.message = on_one_line(say(message, **shown))
        self.hint = on_one_line(say(hint, **shown))
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})"


class UsageError(UserError):
    """The command itself is incomplete; the command line ends with exit code 2."""


class DoesNotFitError(UserError):
    """There is too little memory, whatever is tried."""
