"""What every server of ours shares: its packages, its token, its address for a browser, and how it runs and ends."""

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING
from urllib.parse import quote

from tunesmith.config import ServeConfig
from tunesmith.errors import UserError
from tunesmith.serving.address import is_loopback

if TYPE_CHECKING:
    from starlette.types import ASGIApp

EXTRA = ("starlette", "uvicorn", "prometheus_client", "pydantic")
TOKEN_VARIABLE = "TUNESMITH_TOKEN"  # noqa: S105  the name of a variable
SHORTEST_TOKEN_CHARACTERS = 16


def refuse_without_extra(command: str) -> None:
    """Check that what a server needs is installed.

    Raises:
        UserError: if it is not.
    """
    missing = [name for name in EXTRA if find_spec(name) is None]
    if missing:
        raise UserError(
            "{command} needs packages that are not installed: {missing}",
            hint="pip install 'tunesmith[serve]', or in a copy of its source: pip install '.[serve]'",
            command=command,
            missing=", ".join(missing),
        )


def token_of(config: ServeConfig) -> str | None:
    """What clients have to know, from the flag or the environment."""
    return config.token or os.environ.get(TOKEN_VARIABLE) or None


def refuse_open_door(host: str, token: str | None) -> None:
    """Check that other machines need a token, and one that nobody guesses.

    Raises:
        UserError: otherwise.
    """
    if token is None and not is_loopback(host):
        raise UserError(
            "--host {host} lets other machines in, and nothing would keep anybody out",
            hint="add --token SECRET (16 characters or more), or set {variable}; or leave --host out",
            host=host,
            variable=TOKEN_VARIABLE,
        )
    if token is not None and not (
        len(token) >= SHORTEST_TOKEN_CHARACTERS and token.isascii() and token.isprintable() and " " not in token
    ):
        raise UserError(
            "the token must be {least} or more printable ASCII characters without spaces",
            hint="make one: python -c 'import secrets; print(secrets.token_urlsafe())'",
            least=SHORTEST_TOKEN_CHARACTERS,
        )


def page_of(url: str, token: str | None) -> str:
    """The address for a browser, with the token behind #, which a browser sends to nobody."""
    return url if token is None else f"{url}/#token={quote(token, safe='')}"


def run_app(app: "ASGIApp", listening: socket.socket) -> None:
    """Serve on a socket until Ctrl-C or SIGTERM; answers that have begun are finished."""
    import uvicorn

    options = uvicorn.Config(
        app, log_level="error", access_log=False, server_header=False, lifespan="on", ws="none", proxy_headers=False
    )
    with _signals_end_quietly():
        uvicorn.Server(options).run(sockets=[listening])


@contextmanager
def _signals_end_quietly() -> Iterator[None]:
    """Uvicorn ends at a signal, puts back the handlers that it found, and raises the signal again: for these."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.signal(number, lambda _number, _frame: None) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not set from Python
