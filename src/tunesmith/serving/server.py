"""The `serve` command, and what every server of tunesmith shares: its socket, its token, and how it runs and ends.

Nothing here imports the packages of the `serve` extra before they were checked.
"""

import contextlib
import errno
import ipaddress
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING
from urllib.parse import quote

import psutil

from tunesmith.config import ServeConfig
from tunesmith.errors import UserError

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from tunesmith.serving.served_model import ServedModel

EXTRA = ("starlette", "uvicorn", "prometheus_client", "pydantic")
TOKEN_VARIABLE = "TUNESMITH_API_KEY"  # noqa: S105  the name of a variable
MIN_TOKEN_CHARACTERS = 16
BACKLOG = 1024
"""Connections that the system queues for us."""


@dataclass(frozen=True)
class ServerInfo:
    """A server that is ready.

    Attributes:
        url: of the page on this machine, with the token if there is one.
        api: base of OpenAI's paths.
    """

    url: str
    api: str
    models: "list[ServedModel]"


@dataclass(frozen=True)
class RequestFinished:
    """A completion request that has ended.

    Attributes:
        outcome: ok, client_disconnected or the code of an error.
        texts: requested.
        tokens: generated.
    """

    model: str
    outcome: str
    texts: int
    tokens: int
    duration_s: float


def serve_models(
    config: ServeConfig,
    *,
    on_ready: Callable[[ServerInfo], object] = lambda _info: None,
    on_request_finished: Callable[[RequestFinished], object] = lambda _finished: None,
) -> None:
    """Serve until Ctrl-C or SIGTERM; responses that have begun are finished.

    Args:
        config: what to serve, and where.
        on_ready: called when the server listens.
        on_request_finished: called after every completion request.

    Raises:
        UserError: if it cannot be served.
    """
    check_extra("tunesmith serve")
    token = resolve_api_key(config)
    _check_settings(config, token)
    with listen(config.host, config.port) as listening:
        from tunesmith.serving.app import make_app
        from tunesmith.serving.served_model import load_models

        models = load_models(config, now_s=int(time.time()))
        url = base_url(listening)
        info = ServerInfo(page_url(url, token), f"{url}/v1", models)
        app = make_app(
            models,
            config,
            token=token,
            on_start=lambda: on_ready(info),
            on_request_finished=on_request_finished,
        )
        run_app(app, listening)


def _check_settings(config: ServeConfig, token: str | None) -> None:
    limits = [
        ("--batch-size", config.batch_size, config.batch_size == "auto" or config.batch_size >= 1),
        ("--max-queue", config.max_queue, config.max_queue >= 1),
        ("--max-new-tokens", config.max_new_tokens, config.max_new_tokens >= 1),
        ("--request-timeout", config.request_timeout, 0 < config.request_timeout < float("inf")),
    ]
    for flag, value, is_allowed in limits:
        if not is_allowed:
            raise UserError(
                "{flag} {value} makes no sense", hint="write a number that is at least 1", flag=flag, value=value
            )
    check_exposure(config.host, token)
    if len(set(config.models)) < len(config.models):
        raise UserError("the same model is named twice", hint="name each MODEL once")


def check_extra(command: str) -> None:
    """Check that the packages that a server needs are installed.

    Raises:
        UserError: if they are not.
    """
    missing = [name for name in EXTRA if find_spec(name) is None]
    if missing:
        raise UserError(
            "{command} needs packages that are not installed: {missing}",
            hint="pip install 'tunesmith[serve]', or in a copy of its source: pip install '.[serve]'",
            command=command,
            missing=", ".join(missing),
        )


def resolve_api_key(config: ServeConfig) -> str | None:
    """Return the token that clients must send, from the flag or the environment."""
    return config.api_key or os.environ.get(TOKEN_VARIABLE) or None


def check_exposure(host: str, token: str | None) -> None:
    """Check that other machines need a token, and one that cannot be guessed.

    Raises:
        UserError: otherwise.
    """
    if token is None and not _is_loopback(host):
        raise UserError(
            "--host {host} lets other machines connect, and no token protects the server",
            hint="add --api-key SECRET (16 characters or more), or set {variable}; or leave --host out",
            host=host,
            variable=TOKEN_VARIABLE,
        )
    if token is not None and not (
        len(token) >= MIN_TOKEN_CHARACTERS and token.isascii() and token.isprintable() and " " not in token
    ):
        raise UserError(
            "the token must be {least} or more printable ASCII characters without spaces",
            hint="make one: python -c 'import secrets; print(secrets.token_urlsafe())'",
            least=MIN_TOKEN_CHARACTERS,
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def listen(host: str, port: int) -> socket.socket:
    """Bind a socket, before anything is loaded; port 0 takes a free one.

    Raises:
        UserError: if the address is not available.
    """
    if not 0 <= port <= 65535:
        raise UserError(
            "--port {port} is not a port", hint="write a number from 1 to 65535, or 0 for a free one", port=port
        )
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError):
        raise UserError(
            "--host {host} is not an address of this machine",
            hint="write 127.0.0.1, or 0.0.0.0 for all networks",
            host=host,
        ) from None
    try:
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UserError(
                "port {port} is in use{by}",
                hint="take another one, for example --port {other}; --port 0 takes a free one",
                port=port,
                by=_process_on(port),
                other=port % 65535 + 1,
            ) from None
        if error.errno in {errno.EACCES, errno.EPERM}:
            raise UserError(
                "the system does not allow to listen on port {port}", hint="take one above 1023: --port 8000", port=port
            ) from None
        raise UserError(
            "cannot listen on {host}: {reason}",
            hint="write 127.0.0.1, or 0.0.0.0 for all networks",
            host=host,
            reason=error.strerror,
        ) from None


def _process_on(port: int) -> str:
    """Return the program that uses the port, if the system tells."""
    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            is_listening = connection.status == psutil.CONN_LISTEN and tuple(connection.laddr)[1:] == (port,)
            if is_listening and connection.pid:
                return f" ({psutil.Process(connection.pid).name()}, {connection.pid})"
    return ""


def base_url(listening: socket.socket) -> str:
    """Return the address for a browser on this machine."""
    host, port = listening.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:
        host = "127.0.0.1" if listening.family == socket.AF_INET else "::1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def page_url(url: str, token: str | None) -> str:
    """Return the address of the page, with the token after #, which a browser sends to no server."""
    return url if token is None else f"{url}/#token={quote(token, safe='')}"


def run_app(app: "ASGIApp", listening: socket.socket) -> None:
    """Serve on a socket until Ctrl-C or SIGTERM; responses that have begun are finished."""
    import uvicorn

    options = uvicorn.Config(
        app, log_level="error", access_log=False, server_header=False, lifespan="on", ws="none", proxy_headers=False
    )
    with _quiet_signals():
        uvicorn.Server(options).run(sockets=[listening])


@contextmanager
def _quiet_signals() -> Iterator[None]:
    """Uvicorn ends at a signal, restores the handlers that it found, and raises the signal again: for these."""
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
