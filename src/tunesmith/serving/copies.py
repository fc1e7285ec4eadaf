"""`/v1/copies`: which stretches of a text stand in a model's training text. OpenAI has nothing like it."""

from asyncio import to_thread
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from tunesmith.serving.body import read_body
from tunesmith.serving.json_response import JsonResponse
from tunesmith.serving.refusal import Refusal
from tunesmith.serving.served_model import ServedModel, find_model
from tunesmith.utils.files import parse_json

LONGEST_TEXT_CHARACTERS = 200_000


class Copies:
    """Answers questions for copies."""

    def __init__(self, models: Sequence[ServedModel]) -> None:
        self._models = models

    async def answer(self, request: Request) -> Response:
        """One question.

        Raises:
            Refusal: if it cannot be answered.
        """
        model, text = self._asked(await read_body(request))
        if model.training_text is None:
            raise Refusal(
                404,
                "nobody knows what {model} was trained on; name it: --trained-on FILE",
                code="training_text_unknown",
                model=model.name,
            )
        return JsonResponse({"copies": await to_thread(model.training_text.copies, text)})

    def _asked(self, body: bytes) -> tuple[ServedModel, str]:
        try:
            asked: Any = parse_json(body)
            text, name = asked["text"], asked.get("model")
            text.encode()
            well = name is None or isinstance(name, str)
        except (ValueError, KeyError, TypeError, AttributeError):
            well = False
        if not well:
            raise Refusal(400, 'send {"model": "...", "text": "..."}', param="text")
        if len(text) > LONGEST_TEXT_CHARACTERS:
            raise Refusal(413, "the text has more than {most:,} characters", param="text", most=LONGEST_TEXT_CHARACTERS)
        return find_model(self._models, name), text
