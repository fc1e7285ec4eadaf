"""`/v1/overlap`: which spans of a text occur verbatim in a model's training data. OpenAI's API has no counterpart."""

import threading
from functools import cached_property
from itertools import accumulate
from typing import Any

from tunesmith.data.copies import CopyIndex
from tunesmith.data.corpus import Corpus
from tunesmith.data.tokenizer import TextTokenizer
from tunesmith.data.trained_text import name_of_sample
from tunesmith.generation.detokenizer import IncrementalDetokenizer
from tunesmith.serving.api_errors import APIError
from tunesmith.utils.files import parse_json

MAX_TEXT_CHARACTERS = 200_000


class TrainingData:
    """The text that a model was trained on; its index is made at the first request."""

    def __init__(self, corpus: Corpus, tokenizer: TextTokenizer) -> None:
        self._corpus = corpus
        self._tokenizer = tokenizer
        self._lock = threading.Lock()

    @cached_property
    def _index(self) -> CopyIndex:
        return CopyIndex(self._corpus.train)

    def find_overlaps(self, text: str) -> list[dict[str, Any]]:
        """Return spans of at least eight tokens in a row, none within another one, in the order of the text.

        Each has `start` and `end` in characters of the text, `tokens` in a row, and the `source` and `sample` where it
        is in the training data (one of them, if there are several).
        """
        [ids] = self._tokenizer.encode([text])
        detokenizer = IncrementalDetokenizer(self._tokenizer)
        # characters before each token, and last of all; a token within a character begins where that does
        offsets = list(accumulate((len(detokenizer.push(token)) for token in ids), initial=0))
        with self._lock:
            copies = self._index.copies(ids)
        overlaps = []
        end_token = 0
        for copy in sorted(copies, key=lambda copy: (copy.start, -copy.tokens)):
            if copy.start + copy.tokens <= end_token:
                continue
            end_token = copy.start + copy.tokens
            source = name_of_sample(self._corpus, copy.position, self._tokenizer.end_of_text_id)
            overlaps.append({"start": offsets[copy.start], "end": offsets[end_token], "tokens": copy.tokens, **source})
        return overlaps


def read_overlap_request(body: bytes) -> tuple[str | None, str]:
    """Return the model's name, if there is one, and the text.

    Raises:
        APIError: if the body is not such a request.
    """
    try:
        values: Any = parse_json(body)
        text, name = values["text"], values.get("model")
        text.encode()
        is_valid = name is None or isinstance(name, str)
    except (ValueError, KeyError, TypeError, AttributeError):
        is_valid = False
    if not is_valid:
        raise APIError(400, 'send {"model": "...", "text": "..."}', param="text")
    if len(text) > MAX_TEXT_CHARACTERS:
        raise APIError(413, "the text has more than {most:,} characters", param="text", most=MAX_TEXT_CHARACTERS)
    return name, text
