"""Print what a command has to report: results on stdout; errors, hints, notices and the server's lines on stderr."""

import os
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tunesmith
from tunesmith.errors import UsageError, UserError, on_one_line
from tunesmith.i18n import say
from tunesmith.utils.files import describe_os_error, to_json

if TYPE_CHECKING:
    from tunesmith.serving.server import RequestFinished, ServerInfo

DONE, USER_ERROR, USAGE_ERROR, INTERNAL_ERROR, INTERRUPTED = 0, 1, 2, 70, 130
DEBUG_VARIABLE = "TUNESMITH_DEBUG"
TRACEBACK_FLAG = "--traceback"
SHOWN_CHARACTERS = 300
"""Of the message of an unexpected error: torch's contain whole stacks of C++."""


def print_json(value: Any) -> None:  # noqa: ANN401
    """Print one JSON value on stdout; a number that is not finite is null."""
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
    """Print an error and its hint on stderr; returns the exit code."""
    show_traceback()
    notice(say("error:"), message)
    notice(say("hint:"), hint)
    return code


def fail_with(error: Exception) -> int:
    """Print an error and return the exit code: of an unexpected one its known cause in the machine, else its place."""
    if isinstance(error, UserError):
        return fail(error.message, error.hint, USAGE_ERROR if isinstance(error, UsageError) else USER_ERROR)
    if isinstance(error, OSError):  # no permission, no space, a disk gone: the system's own words are the best ones
        message = f"{error.filename or say('a file')}: {describe_os_error(error)}"
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
    """Print one line on stderr; text from files and names cannot drive the terminal."""
    print(label, on_one_line(text), file=sys.stderr)


class ServingLines:
    """Prints what a server does to stderr, unless quiet."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet

    def as_json(self, serving: "ServerInfo") -> dict[str, Any]:
        """For programs that started the server: URL, models, and the process to stop."""
        return {
            "url": serving.url,
            "api": serving.api,
            "models": [model.as_json() for model in serving.models],
            "pid": os.getpid(),
        }

    def ready(self, serving: "ServerInfo") -> None:
        """Print that the server listens, and what it serves."""
        width = max(len(model.name) for model in serving.models)
        for model in serving.models:
            knows = (
                say("copies are found") if model.training_data else say("training text unknown: copies are not found")
            )
            self._print(
                say(
                    "{name}  {context:,} tokens of context, {texts:,} texts side by side; {knows}",
                    name=f"{model.name:<{width}}",
                    context=model.context_length,
                    texts=model.worker.batch_size,
                    knows=knows,
                )
            )
            if model.loaded.attention_notice:
                self._print(f"{'':<{width}}  {model.loaded.attention_notice}")
        self._print(say("page  {url}", url=serving.url))
        self._print(say("API   {api}", api=serving.api))
        self._print(say("Ctrl-C ends it when the answers that have begun are finished"))

    def runs(self, url: str) -> None:
        """Print the URL of the live page of runs."""
        self._print(say("live page  {url}", url=url))
        self._print(say("Ctrl-C stops the page; trainings continue"))

    def answered(self, answered: "RequestFinished") -> None:
        """Print that a request is done."""
        self._print(
            say(
                "{clock}  {model}  {outcome}  texts: {texts:,}, tokens: {tokens:,}, {seconds:.1f} s",
                clock=time.strftime("%H:%M:%S"),
                model=answered.model,
                texts=answered.texts,
                tokens=answered.tokens,
                seconds=answered.duration_s,
                outcome=answered.outcome,
            )
        )

    def _print(self, line: str) -> None:
        if not self._quiet:
            from tunesmith.ui.wrapping import printable

            print(printable(line), file=sys.stderr, flush=True)
