"""`train --dashboard`: the live page of one run, from a process of its own, so that training does not wait for it.

The process ends a while after the run, so that an open page gets the end of it; it notices by its standard input, which
closes however the run's process ends.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tunesmith.messages.catalogue import say, spoken

STARTS_WITHIN_S = 30.0


class NoPageError(Exception):
    """The page could not be started."""


@contextmanager
def page_beside(folder: Path) -> Iterator[str]:
    """The address of a page that follows a run.

    Args:
        folder: of the run, which has begun.

    Raises:
        NoPageError: if there is none; a run goes on without.
    """
    command = [sys.executable, "-m", "tunesmith.dashboard.child", str(folder), spoken()]
    alone = (
        {"creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)}
        if os.name == "nt"
        else {"start_new_session": True}
    )  # Ctrl-C is meant for the training
    try:
        child = subprocess.Popen(  # noqa: S603  our own program
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, **alone
        )
    except OSError as error:
        raise NoPageError(str(error)) from None
    assert child.stdin is not None
    try:
        yield _address(child)
    finally:
        with suppress(OSError):
            child.stdin.close()
        if child.stdout is not None:
            child.stdout.close()
        threading.Thread(target=child.wait, daemon=True).start()  # it goes by itself


def _address(child: "subprocess.Popen[str]") -> str:
    """What the child says when it listens."""
    said: list[str] = []
    assert child.stdout is not None
    reader = threading.Thread(target=lambda: said.append(child.stdout.readline() if child.stdout else ""), daemon=True)
    reader.start()
    reader.join(STARTS_WITHIN_S)
    try:
        return str(json.loads(said[0])["url"])
    except (IndexError, ValueError, KeyError):
        child.kill()
        raise NoPageError(say("its server did not start")) from None
