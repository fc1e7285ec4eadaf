"""What a command says: results on stdout, errors, hints and notices on stderr, and its exit code."""

import sys
from typing import Any

from tunesmith.errors import on_one_line
from tunesmith.messages.catalogue import say
from tunesmith.utils.files import to_json

DONE, USER_ERROR, USAGE_ERROR, INTERRUPTED = 0, 1, 2, 130


def print_json(value: Any) -> None:  # noqa: ANN401
    """One JSON value on stdout; a number that is not finite is null."""
    print(to_json(value))


def fail(message: str, hint: str, code: int) -> int:
    """Say what is wrong and what to do, on stderr."""
    notice(say("error:"), message)
    notice(say("hint:"), hint)
    return code


def fail_by_the_machine(error: Exception) -> int:
    """Say what the table of symptoms knows of an error that is the machine's; any other one is raised again."""
    from tunesmith.symptoms.recognise import recognise
    from tunesmith.symptoms.table import is_of_the_machine

    known = recognise(str(error))
    if known is None or not is_of_the_machine(known.symptom):
        raise error
    return fail(f"{say(known.symptom.cause)} ({known.line})", say(known.symptom.fix), USER_ERROR)


def notice(label: str, text: str) -> None:
    """One line on stderr; text from files and names cannot drive the terminal."""
    print(label, on_one_line(text), file=sys.stderr)
