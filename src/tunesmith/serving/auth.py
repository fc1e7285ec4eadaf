"""Access control: any program on this machine, but no page of another site; from other machines only with the token.

Without a token the server is bound to loopback, where any program of the user reaches it. A page of another site in
the user's browser would too: it is rejected by the host name that it must use for us (`Host`, against DNS rebinding)
and by the site that it says it comes from (`Origin`). With a token nothing else is checked: a page of another site does
not know it.
"""

import secrets

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tunesmith.serving.api_errors import APIError

OPEN_PATHS = ("/", "/health")
OPEN_FOLDER = "/page/"
"""The page itself contains no secrets; its requests need the token."""
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]", "::1"})
CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'{styles}; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
INLINE_STYLES = " 'unsafe-inline'"
"""For pages with charts, which are positioned by styles; user text is escaped, and scripts are never inline."""
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class AuthMiddleware:
    """Passes requests to the app, or rejects them.

    Args:
        app: that is protected.
        host: that the server is bound to.
        token: that clients must send; None accepts every program on this machine.
        styles: what the content policy allows besides our own style sheets.
    """

    def __init__(self, app: ASGIApp, *, host: str, token: str | None, styles: str = "") -> None:
        self._app = app
        self._headers = {**SECURITY_HEADERS, "Content-Security-Policy": CONTENT_POLICY.format(styles=styles)}
        self._names = LOOPBACK_NAMES | {host.lower()}
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(self._headers)
                headers.setdefault("Cache-Control", "no-cache")  # a newer version's page is loaded at once
            await send(message)

        error = self._check(scope["path"], Headers(scope=scope))
        handler = self._app if error is None else error.response()
        await handler(scope, receive, send_with_headers)

    def _check(self, path: str, headers: Headers) -> APIError | None:
        if self._token is None:
            host = headers.get("host", "").lower()
            if _without_port(host) not in self._names:
                return APIError(
                    421,
                    "this server is reached as {name}; another name needs a token (--api-key)",
                    code="wrong_host",
                    name="127.0.0.1",
                )
            origin = headers.get("origin")
            if origin is not None and origin.lower() != f"http://{host}":
                return APIError(403, "pages of other sites may not use this server", code="wrong_origin")
            return None
        if path in OPEN_PATHS or path.startswith(OPEN_FOLDER):
            return None
        kind, _, credentials = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and secrets.compare_digest(credentials.strip().encode(), self._token.encode()):
            return None
        return APIError(
            401, "this server needs its token: send the header Authorization: Bearer TOKEN", code="invalid_api_key"
        )


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() and not (name.count(":") and not name.endswith("]")) else host
