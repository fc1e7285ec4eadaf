"""Where the server listens, found out before anything is loaded."""

import contextlib
import errno
import ipaddress
import socket

import psutil

from tunesmith.errors import UserError

LONGEST_QUEUE = 1024
"""Of connections that the system holds for us."""


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def listen(host: str, port: int) -> socket.socket:
    """A socket that is bound; port 0 takes a free one.

    Raises:
        UserError: if the address cannot be had.
    """
    if not 0 <= port <= 65535:
        raise UserError(
            "--port {port} is no port", hint="write a number from 1 to 65535, or 0 for a free one", port=port
        )
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError):
        raise UserError(
            "--host {host} is no address of this machine",
            hint="write 127.0.0.1, or 0.0.0.0 for all networks",
            host=host,
        ) from None
    try:
        return socket.create_server(address[:2], family=family, backlog=LONGEST_QUEUE)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UserError(
                "port {port} is in use{by}",
                hint="take another one, for example --port {other}; --port 0 takes a free one",
                port=port,
                by=_holder(port),
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


def _holder(port: int) -> str:
    """The program that has the port, if the system tells."""
    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            is_it = connection.status == psutil.CONN_LISTEN and tuple(connection.laddr)[1:] == (port,)
            if is_it and connection.pid:
                return f" ({psutil.Process(connection.pid).name()}, {connection.pid})"
    return ""


def url_of(listening: socket.socket) -> str:
    """What to open in a browser on this machine."""
    host, port = listening.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:
        host = "127.0.0.1" if listening.family == socket.AF_INET else "::1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
