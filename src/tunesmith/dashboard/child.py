"""`python -m tunesmith.dashboard.child FOLDER LANGUAGE`: the server beside a training (`dashboard/beside.py`)."""

import os
import socket
import sys
import threading
import time
from pathlib import Path

from tunesmith.dashboard.app import make_app
from tunesmith.errors import UserError
from tunesmith.messages.catalogue import speak
from tunesmith.serving.server import base_url, listen, run_app
from tunesmith.utils.files import to_json

HOST = "127.0.0.1"
USUAL_PORT = 8100
STAYS_S = 10.0
"""After the run: an open page still gets the end of it."""
NICENESS = 10


def main() -> None:
    """Serve one run."""
    folder, language = Path(sys.argv[1]), sys.argv[2]
    speak(language)
    if hasattr(os, "nice"):
        os.nice(NICENESS)  # training goes first
    threading.Thread(target=_end_after_the_run, daemon=True).start()
    with _listening() as listening:
        url = base_url(listening)
        run_app(make_app(folder, host=HOST, token=None, on_start=lambda: _tell(url)), listening)


def _listening() -> socket.socket:
    """At the usual port, so that an open page finds the next run; else at any."""
    try:
        return listen(HOST, USUAL_PORT)
    except UserError:
        return listen(HOST, 0)


def _tell(url: str) -> None:
    sys.stdout.write(to_json({"url": url}) + "\n")
    sys.stdout.flush()


def _end_after_the_run() -> None:
    sys.stdin.read()  # until the run's process closes it, or ends
    time.sleep(STAYS_S)
    os._exit(0)


if __name__ == "__main__":
    main()
