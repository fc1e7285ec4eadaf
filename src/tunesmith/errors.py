"""The one exception that users are meant to see.

A `UserError` is a mistake or a circumstance that the user can mend: a missing file, a folder that is no
model, an unreachable hub. The command line prints it as `error: ...` and `hint: ...` and ends with exit
code 1; in Python it is an ordinary exception with the same two texts. Anything else that escapes is our bug.
"""

from tunesmith.messages.catalogue import say


class UserError(Exception):
    """Something the user can mend.

    Attributes:
        message: what is wrong, with the value and the reason, on one line, in the person's language.
        hint: what to do next, if possible as a command.
    """

    def __init__(self, message: str, /, *, hint: str, **values: object) -> None:
        """Say it in the language that is spoken.

        Args:
            message: a text of the catalogue.
            hint: another one.
            values: of the names in both (`tunesmith.messages.catalogue.say`).
        """
        self.message = " ".join(say(message, **values).split())
        self.hint = " ".join(say(hint, **values).split())
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})"


class UsageError(UserError):
    """The command itself is incomplete; the command line ends with exit code 2."""


class DoesNotFitError(UserError):
    """There is too little memory, whatever is tried."""
