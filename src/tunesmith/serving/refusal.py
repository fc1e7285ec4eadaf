"""What a client is told when it does not get what it asked for, in the form of OpenAI's errors."""

from tunesmith.messages.catalogue import say
from tunesmith.serving.json_response import JsonResponse

BAD_REQUEST = "invalid_request_error"
SERVER_ERROR = "server_error"


class Refusal(Exception):  # noqa: N818  an answer rather than a fault
    """An answer that is an error.

    Attributes:
        status: of HTTP.
        body: what stands in the answer.
        retry_after_s: when it may be worth asking again.
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
        """Refuse.

        Args:
            status: of HTTP.
            message: a text of the catalogue.
            code: a word for programs.
            param: the parameter that is to blame.
            retry_after_s: when it may be worth asking again.
            values: of the names in the text.
        """
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s
        kind = SERVER_ERROR if status >= 500 else BAD_REQUEST
        self.body = {"error": {"message": say(message, **values), "type": kind, "param": param, "code": code}}

    def response(self) -> JsonResponse:
        """As an answer."""
        headers = {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}
        return JsonResponse(self.body, self.status, headers)
