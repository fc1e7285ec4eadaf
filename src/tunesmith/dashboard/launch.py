"""Start the live page: of one run in a child process (`train --dashboard`), or of a folder (`serve --runs DIR`).

The child process ends a few seconds after the run, so that an open page still gets the last state. It notices the end
of the run by its standard input, which closes however the run's process ends. Starlette is an extra: whatever needs it
is imported inside functions, because the parent process imports this module.
"""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tunesmith.config import ServeConfig
from tunesmith.errors import UserError
from tunesmith.i18n import get_language, say, set_language
from tunesmith.utils.files import to_json

STARTS_WITHIN_S = 30.0
HOST = "127.0.0.1"
DEFAULT_PORT = 8100
LINGER_S = 10.0
"""After the run, for open pages to fetch the last state."""
NICENESS = 10


class DashboardStartError(Exception):
    """The page could not be started."""


@dataclass(frozen=True)
class ServingRuns:
    """Where the live page is served; the URL contains the token if there is one."""

    url: str
    folder: Path


@contextmanager
def dashboard_process(folder: Path) -> Iterator[str]:
    """Serve the page of one run from a child process while the context is open; yields its URL.

    Raises:
        DashboardStartError: if it cannot be started; the run continues without it.
    """
    command = [sys.executable, "-m", "tunesmith.dashboard.launch", str(folder), get_language()]
    own_group = (
        {"creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)}
        if os.name == "nt"
        else {"start_new_session": True}
    )  # Ctrl-C is meant for the training
    try:
        child = subprocess.Popen(  # noqa: S603  our own program
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, **own_group
        )
    except OSError as error:
        raise DashboardStartError(str(error)) from None
    assert child.stdin is not None
    try:
        yield _url_from(child)
    finally:
        with suppress(OSError):
            child.stdin.close()
        if child.stdout is not None:
            child.stdout.close()
        threading.Thread(target=child.wait, daemon=True).start()  # it ends by itself


def _url_from(child: "subprocess.Popen[str]") -> str:
    """Wait for the line that the child prints when it listens."""
    lines: list[str] = []
    assert child.stdout is not None
    reader = threading.Thread(target=lambda: lines.append(child.stdout.readline() if child.stdout else ""), daemon=True)
    reader.start()
    reader.join(STARTS_WITHIN_S)
    try:
        return str(json.loads(lines[0])["url"])
    except (IndexError, ValueError, KeyError):
        child.kill()
        raise DashboardStartError(say("its server did not start")) from None


def main() -> None:
    """Serve one run as a child: `python -m tunesmith.dashboard.launch FOLDER LANGUAGE`."""
    from tunesmith.dashboard.routes import make_app
    from tunesmith.serving.server import base_url, run_app

    folder, language = Path(sys.argv[1]), sys.argv[2]
    set_language(language)
    if hasattr(os, "nice"):
        os.nice(NICENESS)  # training has priority
    threading.Thread(target=_exit_after_run, daemon=True).start()
    with _listening_socket() as listening:
        url = base_url(listening)
        run_app(make_app(folder, host=HOST, token=None, on_start=lambda: _print_url(url)), listening)


def _listening_socket() -> socket.socket:
    """Listen on the default port, so that an open page finds the next run; else on any free one."""
    from tunesmith.serving.server import listen

    try:
        return listen(HOST, DEFAULT_PORT)
    except UserError:
        return listen(HOST, 0)


def _print_url(url: str) -> None:
    sys.stdout.write(to_json({"url": url}) + "\n")
    sys.stdout.flush()


def _exit_after_run() -> None:
    sys.stdin.read()  # until the run's process closes it, or ends
    time.sleep(LINGER_S)
    os._exit(0)


def serve_runs(config: ServeConfig, *, on_ready: Callable[[ServingRuns], object] = lambda _serving: None) -> None:
    """Serve the runs of a folder until Ctrl-C or SIGTERM.

    Raises:
        UserError: if it cannot be served.
    """
    from tunesmith.serving.server import (
        base_url,
        check_exposure,
        check_extra,
        listen,
        page_url,
        resolve_api_key,
        run_app,
    )

    assert config.runs is not None
    check_extra("tunesmith serve")
    token = resolve_api_key(config)
    check_exposure(config.host, token)
    folder = Path(config.runs)
    if not folder.is_dir():
        raise UserError(
            "{folder} is not a folder",
            hint="name the folder that contains your runs: tunesmith runs DIR",
            folder=folder,
        )
    from tunesmith.dashboard.routes import make_app  # needs the extra

    with listen(config.host, config.port) as listening:
        serving = ServingRuns(page_url(base_url(listening), token), folder)
        run_app(make_app(folder, host=config.host, token=token, on_start=lambda: on_ready(serving)), listening)


if __name__ == "__main__":
    main()
