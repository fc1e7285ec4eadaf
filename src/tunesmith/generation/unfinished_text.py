"""One text while it is written: its history, its chance, and whether it ends.

Shapes: V vocabulary.
"""

from collections import deque

import numpy as np

from tunesmith.errors import UserError
from tunesmith.generation.history import History
from tunesmith.generation.request import Continuation, Request, WrittenToken
from tunesmith.generation.sampling import Floats, choose_token, likeliest_tokens, logprob_of


class UnfinishedText:
    """A text that takes one token after the other.

    Args:
        number: it is known by.
        request: what was asked for.
        end_of_text_id: ends it.

    Attributes:
        history: prompt and what was written.
        tokens: what was written.
        logprobs: of each, in nats, under the model itself.
    """

    def __init__(self, number: int, request: Request, end_of_text_id: int) -> None:
        self.number = number
        self.request = request
        self.history = History(request.prompt, request.rules)
        self.tokens: list[int] = []
        self.logprobs: list[float] = []
        self._end_of_text_id = end_of_text_id
        self._stopped = False
        self._random = np.random.default_rng(request.seed)
        self._chances: deque[float] = deque()

    @property
    def needs_all_logits(self) -> bool:
        """Whether somebody has to look at the logits of all tokens, and not only at the one that is chosen."""
        return self.request.n_likeliest > 0 or self.request.rules.no_repeat_ngram_size > 0

    @property
    def tokens_left(self) -> int:
        """Until its limit."""
        return self.request.max_new_tokens - len(self.tokens)

    @property
    def tokens_before_end(self) -> int:
        """How many have to come before end-of-text may."""
        return max(self.request.min_new_tokens - len(self.tokens), 0)

    def chance(self, ahead: int = 0) -> float:
        """Of the next token, or of the one so many behind it; the same however often it is asked for."""
        while len(self._chances) <= ahead:
            self._chances.append(self._random.random())
        return self._chances[ahead]

    def choose(self, logits_V: Floats) -> bool:
        """Choose the next token by the model's logits; whether the text ends here.

        Raises:
            UserError: if they are no numbers.
        """
        _refuse_no_numbers(logits_V.max())  # NaN is the largest of all
        weighed_V = self.history.weigh(logits_V, self._end_of_text_id if self.tokens_before_end else None)
        token = choose_token(weighed_V, self.request.rules, self.chance())
        likeliest = likeliest_tokens(logits_V, self.request.n_likeliest)
        return self._take(token, logprob_of(logits_V, token), likeliest)

    def take(self, token: int, logprob: float) -> bool:
        """A token that was chosen with this text's chance; whether the text ends here.

        Raises:
            UserError: if its log-probability is no number.
        """
        _refuse_no_numbers(logprob)
        return self._take(token, logprob, [])

    def _take(self, token: int, logprob: float, likeliest: list[tuple[int, float]]) -> bool:
        self._chances.popleft()
        if token == self._end_of_text_id:
            self._stopped = True
            return True
        self.tokens.append(token)
        self.logprobs.append(logprob)
        self.history.append(token)
        if self.request.report is not None:
            self.request.report(WrittenToken(token, logprob, likeliest))
        self._stopped = self.request.watch is not None and self.request.watch(token)
        return self._stopped or self.tokens_left == 0

    def continuation(self) -> Continuation:
        """What was written."""
        return Continuation(self.tokens, self.logprobs, "stop" if self._stopped else "length")


def _refuse_no_numbers(number: float) -> None:
    if not np.isfinite(number):
        raise UserError(
            "the model computes no numbers (NaN or infinity): its weights are damaged or the precision is too low",
            hint="try --precision fp32; if that does not help, get or train the model again",
        )
