"""Run probes that may crash or hang in processes of their own, all at once, each with a time limit.

What a probe found before it crashed is not lost: it writes one JSON object a line, as soon as it knows something.
A driver that hangs can make a process that nothing ends; that process is left to the system.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from typing import IO, Any

from tunesmith.i18n import say
from tunesmith.utils.files import to_json

KILL_GRACE_S = 0.5
"""For a killed process to end, before it is left to the system."""


@dataclass(frozen=True)
class ProbeResult:
    """What a probe found.

    Attributes:
        values: everything it wrote; later lines replace earlier ones.
        failure: how it ended, where not by itself; empty if it did.
    """

    values: dict[str, Any]
    failure: str


@dataclass
class ProbeProcess:
    """A running probe; `module` is run by `python -m`, and the time limit counts from its start."""

    module: str
    arguments: tuple[str, ...] = ()
    limit_s: float = 10.0
    _started: float = field(init=False, default=0.0)
    _out: IO[bytes] = field(init=False)
    _err: IO[bytes] = field(init=False)
    _process: "subprocess.Popen[bytes]" = field(init=False)

    def __post_init__(self) -> None:
        """Start it; its output goes into files, because a full pipe would block it."""
        self._out, self._err = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115  closed in `result`
        self._started = time.monotonic()
        self._process = subprocess.Popen(  # noqa: S603  our own Python and our own module
            [sys.executable, "-m", self.module, *self.arguments],
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=self._err,
            env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        )

    def result(self) -> ProbeResult:
        """Wait for it, not longer than its limit."""
        failure = self._failure()
        values: dict[str, Any] = {}
        self._out.seek(0)
        for line in self._out.read().splitlines():
            try:
                values |= json.loads(line)
            except (ValueError, TypeError):
                continue  # a library printed something
        self._out.close()
        self._err.close()
        return ProbeResult(values, failure)

    def _failure(self) -> str:
        try:
            code = self._process.wait(max(self._started + self.limit_s - time.monotonic(), 0.01))
        except subprocess.TimeoutExpired:
            self._process.kill()
            try:
                self._process.wait(KILL_GRACE_S)
            except subprocess.TimeoutExpired:
                self._process.returncode = -9  # so that the interpreter does not wait for it at its own end
            return say("no answer within {limit_s:.0f} s", limit_s=self.limit_s)
        if not code:
            return ""
        self._err.seek(0)
        lines = [line.strip() for line in self._err.read().decode("utf-8", "replace").splitlines()]
        last_line = next(filter(None, reversed(lines)), "")
        if code < 0:
            return last_line or say("ended by signal {number}", number=-code)
        return last_line or say("ended with code {code}", code=code)


def emit(**values: object) -> None:
    """In a probe: report what was found."""
    sys.stdout.write(to_json(values) + "\n")
    sys.stdout.flush()
