"""What stands in a text already, and what that makes of the next token's logits.

References: Keskar et al. 2019, "CTRL" (repetition penalty); Paulus et al. 2017 (no n-gram twice). Both look at the
prompt and at what was written, as in transformers.
"""

from collections import defaultdict

import numpy as np

from tunesmith.generation.sampling import Floats, SamplingRules


class History:
    """The tokens of one text.

    Attributes:
        tokens: prompt and continuation.
    """

    def __init__(self, prompt: list[int], rules: SamplingRules) -> None:
        self.tokens: list[int] = []
        self._penalty = rules.repetition_penalty
        self._n = rules.no_repeat_ngram_size
        self._seen: dict[int, None] = {}
        self._followers: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for token in prompt:
            self.append(token)

    def append(self, token: int) -> None:
        """One more token stands in the text."""
        self.tokens.append(token)
        if self._penalty != 1:
            self._seen[token] = None
        if 0 < self._n <= len(self.tokens):
            *before, last = self.tokens[-self._n :]
            self._followers[tuple(before)].append(last)

    def weigh(self, logits_V: Floats, forbidden: int | None) -> Floats:
        """The logits with repetitions made worse or impossible; the given ones where there is nothing to do.

        Args:
            logits_V: the model's.
            forbidden: a token that may not come now.
        """
        impossible = [] if forbidden is None else [forbidden]
        if 0 < self._n <= len(self.tokens) + 1:
            impossible += self._followers.get(tuple(self.tokens[len(self.tokens) - self._n + 1 :]), [])
        if not impossible and not self._seen:
            return logits_V
        weighed_V = logits_V.copy()
        if self._seen:
            seen = np.fromiter(self._seen, np.int64, len(self._seen))
            values = weighed_V[seen]
            weighed_V[seen] = np.where(values < 0, values * self._penalty, values / self._penalty)
        weighed_V[impossible] = -np.inf
        return weighed_V
