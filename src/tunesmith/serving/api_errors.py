"""JSON responses, and errors in the form of OpenAI's API."""

from starlette.responses import JSONResponse

from tunesmith.i18n import say
from tunesmith.utils.files import to_json


class JsonResponse(JSONResponse):
    """Starlette's, which fails on NaN and infinity; here they are null, as everywhere in tunesmith's JSON."""

    def render(self, content: object) -> bytes:
        """As few bytes as Starlette makes of it."""
        return to_json(content, separators=(",", ":")).encode("utf-8")


class APIError(Exception):
    """A response that is an error.

    Attributes:
        status: of HTTP.
        body: of the response.
        retry_after_s: when another attempt may succeed.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: int | None = None,
        **values: object,
    ) -> None:
        """Create an error.

        Args:
            status: of HTTP.
            message: a text of the catalog.
            code: machine-readable.
            param: the parameter that caused it.
            retry_after_s: when another attempt may succeed.
            values: of the placeholders in the text.
        """
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s
        kind = "server_error" if status >= 500 else "invalid_request_error"
        self.body = {"error": {"message": say(message, **values), "type": kind, "param": param, "code": code}}

    def response(self) -> JsonResponse:
        """Return the HTTP response."""
        headers = {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}
        return JsonResponse(self.body, self.status, headers)
