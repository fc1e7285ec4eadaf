"""Which stretches of a text stand word for word in the text that a model was trained on, and where there."""

import threading
from functools import cached_property
from itertools import accumulate
from typing import Any

from tunesmith.data.corpus import Corpus
from tunesmith.data.ngram_index import NgramIndex
from tunesmith.data.provenance import name_of_sample
from tunesmith.data.tokenizer import TextTokenizer
from tunesmith.generation.text_stream import TextStream


class TrainingText:
    """What a model was trained on; its index is made when it is first asked for."""

    def __init__(self, corpus: Corpus, tokenizer: TextTokenizer) -> None:
        self._corpus = corpus
        self._tokenizer = tokenizer
        self._one_at_a_time = threading.Lock()

    @cached_property
    def _index(self) -> NgramIndex:
        return NgramIndex(self._corpus.train)

    def copies(self, text: str) -> list[dict[str, Any]]:
        """Copies of at least eight tokens in a row, none within another one, by where they begin.

        Each has `start` and `end` in characters of the text, `tokens` in a row, and `source` and `sample` where it
        stands in the training text (one place, if there are several).
        """
        [ids] = self._tokenizer.encode([text])
        ends = self._ends_in_text(ids)
        with self._one_at_a_time:
            found = self._index.find_matches(ids)
        copies = []
        reached = 0
        for copy in sorted(found, key=lambda copy: (copy.start, -copy.tokens)):
            if copy.start + copy.tokens <= reached:
                continue
            reached = copy.start + copy.tokens
            place = name_of_sample(self._corpus, copy.position, self._tokenizer.end_of_text_id)
            start, end = ends[copy.start], ends[copy.start + copy.tokens]
            copies.append({"start": start, "end": end, "tokens": copy.tokens, **place})
        return copies

    def _ends_in_text(self, ids: list[int]) -> list[int]:
        """Characters before each token, and last of all; a token within a character begins where that does."""
        stream = TextStream(self._tokenizer)
        return list(accumulate((len(stream.push(token)) for token in ids), initial=0))
