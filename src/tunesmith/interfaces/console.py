"""What a command prints: results on stdout, errors, hints and notices on stderr, and its exit code."""

import os
import sys
import traceback
from pathlib import Path
from typing import Any

import tunesmith
from tunesmith.errors import UsageError, UserError, on_one_line
from tunesmith.messages.catalogue import say
from tunesmith.messages.system_errors import said_by_system
from tunesmith.utils.files import to_json

DONE, USER_ERROR, USAGE_ERROR, INTERNAL_ERROR, INTERRUPTED = 0, 1, 2, 70, 130
DEBUG_VARIABLE = "TUNESMITH_DEBUG"
TRACEBACK_FLAG = "--traceback"
SHOWN_CHARACTERS = 300
"""Of the message of an unexpected error: torch's contain whole stacks of C++."""


def print_json(value: Any) -> None:  # noqa: ANN401
    """One JSON value on stdout; a number that is not finite is null."""
    print(to_json(value))


def enable_tracebacks(tokens: list[str]) -> None:
    """Take `--traceback` out of what was typed; as an environment variable it reaches the processes of a run, too."""
    end = tokens.index("--") if "--" in tokens else len(tokens)
    if TRACEBACK_FLAG in tokens[:end]:
        tokens[:end] = [token for token in tokens[:end] if token != TRACEBACK_FLAG]
        os.environ[DEBUG_VARIABLE] = "1"


def show_traceback() -> None:
    """Print the traceback of the exception that is being handled, where TUNESMITH_DEBUG or `--traceback` is set."""
    if os.environ.get(DEBUG_VARIABLE, "0") not in {"", "0"} and sys.exc_info()[0] is not None:
        traceback.print_exc()


def fail(message: str, hint: str, code: int) -> int:
    """Print what is wrong and what to do on stderr, and return the exit code."""
    show_traceback()
    notice(say("error:"), message)
    notice(say("hint:"), hint)
    return code


def fail_with(error: Exception) -> int:
    """Print an error and return the exit code: of an unexpected one its known cause in the machine, else its place."""
    if isinstance(error, UserError):
        return fail(error.message, error.hint, USAGE_ERROR if isinstance(error, UsageError) else USER_ERROR)
    if isinstance(error, OSError):  # no permission, no space, a disk gone: the system's own words are the best ones
        message = f"{error.filename or say('a file')}: {said_by_system(error)}"
        return fail(message, say("check space and permissions"), USER_ERROR)
    from tunesmith.diagnostics.matcher import best_match

    match = best_match(str(error)) if isinstance(error, RuntimeError | ImportError) else None
    if match is not None and match.rule.about_machine:
        return fail(f"{say(match.rule.cause)} ({match.line})", say(match.rule.fix), USER_ERROR)
    lines = [line for line in str(error).splitlines() if line.strip()]
    message = f"{type(error).__name__}: {lines[0][:SHOWN_CHARACTERS]}" if lines else type(error).__name__
    return fail(
        say("{message} (in {place})", message=message, place=_own_place(error)),
        say(
            "this is a bug in tunesmith: report it with the command, the output of tunesmith doctor --json, and the "
            "traceback, which --traceback shows"
        ),
        INTERNAL_ERROR,
    )


def _own_place(error: Exception) -> str:
    """File and line of the last frame in tunesmith."""
    package = Path(tunesmith.__file__).parent
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if package in Path(frame.filename).parents]
    if not frames:
        return "tunesmith"
    return f"{Path(frames[-1].filename).relative_to(package.parent).as_posix()}:{frames[-1].lineno}"


def notice(label: str, text: str) -> None:
    """One line on stderr; text from files and names cannot drive the terminal."""
    print(label, on_one_line(text), file=sys.stderr)
