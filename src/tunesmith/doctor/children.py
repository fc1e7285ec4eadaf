"""Probes that may crash or hang run in processes of their own, all at once, each with a time limit.

What a probe found before it crashed is not lost: it writes one JSON object a line, as soon as it knows something.
A driver that hangs can make a process that nothing ends; nobody waits for it.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from typing import IO, Any

from tunesmith.messages.catalogue import say
from tunesmith.utils.files import to_json

LET_GO_S = 0.5
"""How long a process that was killed may take to end before it is left to the system."""


@dataclass(frozen=True)
class Answer:
    """What a probe found.

    Attributes:
        values: everything it wrote, later lines over earlier ones.
        failure: how it ended, where not by itself; empty if it did.
    """

    values: dict[str, Any]
    failure: str


@dataclass
class Child:
    """A probe that runs.

    Attributes:
        module: what `python -m` runs.
        limit_s: from its start.
    """

    module: str
    arguments: tuple[str, ...] = ()
    limit_s: float = 10.0
    _started: float = field(init=False, default=0.0)
    _out: IO[bytes] = field(init=False)
    _err: IO[bytes] = field(init=False)
    _process: "subprocess.Popen[bytes]" = field(init=False)

    def __post_init__(self) -> None:
        """Start it; files take what it writes, so that a full pipe stops nobody."""
        self._out, self._err = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115  closed in `answer`
        self._started = time.monotonic()
        self._process = subprocess.Popen(  # noqa: S603  our own Python and our own module
            [sys.executable, "-m", self.module, *self.arguments],
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=self._err,
            env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        )

    def answer(self) -> Answer:
        """Wait for it, no longer than its limit."""
        failure = ""
        try:
            code = self._process.wait(max(self._started + self.limit_s - time.monotonic(), 0.01))
            if code:
                failure = (
                    self._last_words() or say("ended by signal {number}", number=-code)
                    if code < 0
                    else self._last_words()
                )
                failure = failure or say("ended with code {code}", code=code)
        except subprocess.TimeoutExpired:
            failure = say("no answer within {limit_s:.0f} s", limit_s=self.limit_s)
            self._process.kill()
            try:
                self._process.wait(LET_GO_S)
            except subprocess.TimeoutExpired:
                self._process.returncode = -9  # so that nobody waits for it at the end of the program
        values: dict[str, Any] = {}
        self._out.seek(0)
        for line in self._out.read().splitlines():
            try:
                values |= json.loads(line)
            except (ValueError, TypeError):
                continue  # a library printed something
        self._out.close()
        self._err.close()
        return Answer(values, failure)

    def _last_words(self) -> str:
        self._err.seek(0)
        lines = self._err.read().decode("utf-8", "replace").splitlines()
        return next((line.strip() for line in reversed(lines) if line.strip()), "")


def found(**values: object) -> None:
    """In a probe: say what was found."""
    sys.stdout.write(to_json(values) + "\n")
    sys.stdout.flush()
