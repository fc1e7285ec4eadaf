"""Print what a command has to report: results on stdout; errors, hints, notices and the server's lines on stderr."""

import os
import sys
import time
from typing import TYPE_CHECKING, Any

from tunesmith.errors import on_one_line
from tunesmith.files import to_json
from tunesmith.messages.catalogue import say

if TYPE_CHECKING:
    from tunesmith.serving.events import Answered, Serving

DONE, USER_ERROR, USAGE_ERROR, INTERRUPTED = 0, 1, 2, 130


def print_json(value: Any) -> None:  # noqa: ANN401
    """Print one JSON value on stdout; a number that is not finite is null."""
    print(to_json(value))


def fail(message: str, hint: str, code: int) -> int:
    """Print an error and its hint on stderr; returns the exit code."""
    notice(say("error:"), message)
    notice(say("hint:"), hint)
    return code


def fail_by_the_machine(error: Exception) -> int:
    """Print cause and fix of a known error of the machine; any other error is raised again."""
    from tunesmith.symptoms.recognise import recognise
    from tunesmith.symptoms.table import is_of_the_machine

    known = recognise(str(error))
    if known is None or not is_of_the_machine(known.symptom):
        raise error
    return fail(f"{say(known.symptom.cause)} ({known.line})", say(known.symptom.fix), USER_ERROR)


def notice(label: str, text: str) -> None:
    """Print one line on stderr; text from files and names cannot drive the terminal."""
    print(label, on_one_line(text), file=sys.stderr)


class ServingLines:
    """Prints what a server does to stderr, unless quiet."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet

    def as_json(self, serving: "Serving") -> dict[str, Any]:
        """For programs that started the server: URL, models, and the process to stop."""
        return {
            "url": serving.url,
            "api": serving.api,
            "models": [model.as_json() for model in serving.models],
            "pid": os.getpid(),
        }

    def ready(self, serving: "Serving") -> None:
        """Print that the server listens, and what it serves."""
        width = max(len(model.name) for model in serving.models)
        for model in serving.models:
            knows = (
                say("copies are found") if model.training_text else say("training text unknown: copies are not found")
            )
            self._print(
                say(
                    "{name}  {context:,} tokens of context, {texts:,} texts side by side; {knows}",
                    name=f"{model.name:<{width}}",
                    context=model.context_tokens,
                    texts=model.worker.texts_at_once,
                    knows=knows,
                )
            )
            if model.writer.says:
                self._print(f"{'':<{width}}  {model.writer.says}")
        self._print(say("page  {url}", url=serving.url))
        self._print(say("API   {api}", api=serving.api))
        self._print(say("Ctrl-C ends it when the answers that have begun are finished"))

    def runs(self, url: str) -> None:
        """Print the URL of the live page of runs."""
        self._print(say("live page  {url}", url=url))
        self._print(say("Ctrl-C stops the page; trainings continue"))

    def answered(self, answered: "Answered") -> None:
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
