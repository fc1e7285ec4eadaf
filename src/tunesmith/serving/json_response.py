"""Answers in JSON."""

from starlette.responses import JSONResponse

from tunesmith.utils.files import to_json


class JsonResponse(JSONResponse):
    """Starlette's, which fails on NaN and infinity; here they are null, as everywhere in tunesmith's JSON."""

    def render(self, content: object) -> bytes:
        """As few bytes as Starlette makes of it."""
        return to_json(content, separators=(",", ":")).encode("utf-8")
