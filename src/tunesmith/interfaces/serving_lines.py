"""What `serve` says in the terminal: where to find it, and a line for every request."""

import os
import sys
import time
from typing import Any

from tunesmith.interfaces.tables import printable
from tunesmith.messages.catalogue import say
from tunesmith.serving.server import RequestFinished, ServerInfo


class ServingLines:
    """Prints to stderr, if anybody wants to read it."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet

    def as_json(self, serving: ServerInfo) -> dict[str, Any]:
        """For programs that started the server: where it is, what it serves, and whom to end."""
        return {
            "url": serving.url,
            "api": serving.api,
            "models": [model.as_json() for model in serving.models],
            "pid": os.getpid(),
        }

    def ready(self, serving: ServerInfo) -> None:
        """The server listens."""
        width = max(len(model.name) for model in serving.models)
        for model in serving.models:
            knows = (
                say("copies are found") if model.training_data else say("training text unknown: copies are not found")
            )
            self._print(
                say(
                    "{name}  {context:,} tokens of context, {texts:,} texts side by side; {knows}",
                    name=f"{model.name:<{width}}",
                    context=model.context_tokens,
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
        """The live page of runs is there."""
        self._print(say("live page  {url}", url=url))
        self._print(say("Ctrl-C ends it; trainings go on"))

    def answered(self, answered: RequestFinished) -> None:
        """A request is done with."""
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
            print(printable(line), file=sys.stderr, flush=True)  # noqa: T201
