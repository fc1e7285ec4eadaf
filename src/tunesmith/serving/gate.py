"""Who may ask: everybody on this machine, but no page of another site; elsewhere whoever knows the token.

Without a token the server is bound to loopback, where any program of the user reaches it. A page of another site in
the user's browser would too: it is kept out by the names it must use for us (`Host`, against DNS rebinding) and by the
site it says that it comes from (`Origin`). With a token nothing else is asked: a page of another site does not know it.
"""

import secrets

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tunesmith.serving.refusal import Refusal

OPEN_PATHS = ("/", "/health")
OPEN_FOLDER = "/page/"
"""The page itself holds nothing secret; what it asks for needs the token."""
NAMES_OF_LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]", "::1"})
CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'{styles}; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
INLINE_STYLES = " 'unsafe-inline'"
"""For pages with charts, which are placed by styles; what users wrote is escaped, and scripts never stand in a page."""
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Gate:
    """Lets requests through to the app, or refuses them.

    Args:
        app: what is behind it.
        host: that the server is bound to.
        token: that clients have to know; None lets everybody in who is on this machine.
        styles: what the policy of its pages allows beside style sheets of our own.
    """

    def __init__(self, app: ASGIApp, *, host: str, token: str | None, styles: str = "") -> None:
        self._app = app
        self._headers = {**SECURITY_HEADERS, "Content-Security-Policy": CONTENT_POLICY.format(styles=styles)}
        self._names = NAMES_OF_LOOPBACK | {host.lower()}
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(self._headers)
                headers.setdefault("Cache-Control", "no-cache")  # a newer version's page is taken at once
            await send(message)

        refusal = self._refusal(scope["path"], Headers(scope=scope))
        answer = self._app if refusal is None else refusal.response()
        await answer(scope, receive, send_safely)

    def _refusal(self, path: str, headers: Headers) -> Refusal | None:
        if self._token is None:
            host = headers.get("host", "").lower()
            if _without_port(host) not in self._names:
                return Refusal(
                    421,
                    "this server is reached as {name}; another name needs a token (--token)",
                    code="wrong_host",
                    name="127.0.0.1",
                )
            origin = headers.get("origin")
            if origin is not None and origin.lower() != f"http://{host}":
                return Refusal(403, "pages of other sites may not ask this server", code="wrong_origin")
            return None
        if path in OPEN_PATHS or path.startswith(OPEN_FOLDER):
            return None
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and secrets.compare_digest(given.strip().encode(), self._token.encode()):
            return None
        return Refusal(
            401, "this server needs its token: send the header Authorization: Bearer TOKEN", code="invalid_api_key"
        )


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() and not (name.count(":") and not name.endswith("]")) else host
