"""One text while it is written: from tokens to pieces of text that are certain, with what the model thought.

A piece comes with the tokens that begin in it. What a character or a stop string may still be made of is held back,
and so are its tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from tunesmith.data.tokenizer import TextTokenizer
from tunesmith.generation.request import Request, WrittenToken
from tunesmith.generation.sampling import SamplingRules
from tunesmith.generation.text_stream import StopWatch, TextStream
from tunesmith.serving.refusal import Refusal


@dataclass(frozen=True)
class TextOrder:
    """A text that a client wants.

    Attributes:
        prompt_ids: with an end-of-text at their beginning.
        seed: of its chance.
        rules: how to choose tokens.
        max_new_tokens: longest continuation, at least 1.
        min_new_tokens: it cannot end by itself before.
        stops: strings that end it.
        n_likeliest: how many of the likeliest tokens are reported at each token.
    """

    prompt_ids: list[int]
    seed: int
    rules: SamplingRules
    max_new_tokens: int
    min_new_tokens: int = 0
    stops: tuple[str, ...] = ()
    n_likeliest: int = 0


@dataclass(frozen=True)
class PlacedToken:
    """A token with where its text begins.

    Attributes:
        written: the token, and what the model thought.
        offset: characters of the continuation before it.
    """

    written: WrittenToken
    offset: int


@dataclass(frozen=True)
class Piece:
    """More of a text."""

    text: str
    tokens: list[PlacedToken]


@dataclass(frozen=True)
class Ended:
    """The text is finished.

    Attributes:
        finish_reason: "stop" at end-of-text or a stop string, "length" at a limit.
        n_tokens: that were written.
    """

    finish_reason: Literal["stop", "length"]
    n_tokens: int


TextEvent = Piece | Ended | Refusal
Tell = Callable[[TextEvent], object]


@dataclass(eq=False)
class LiveText:
    """Follows the engine and tells somebody.

    Begun anew, after memory ran out, it says nothing twice: the same seed writes the same text.

    Attributes:
        order: what was asked for.
        tell: told every piece and the end; called in the engine's thread.
        has_begun: whether a token was written.
    """

    order: TextOrder
    tokenizer: TextTokenizer
    tell: Tell
    has_begun: bool = False
    _tokens: list[PlacedToken] = field(default_factory=list)
    _certain: int = 0
    _told_characters: int = 0
    _told_tokens: int = 0

    def begin(self) -> Request:
        """What the engine needs, from the beginning."""
        order = self.order
        self._tokens = []
        self._certain = 0
        self._watch = StopWatch(TextStream(self.tokenizer, order.prompt_ids[1:]), order.stops, self._grow)
        return Request(
            order.prompt_ids,
            order.seed,
            order.rules,
            order.max_new_tokens,
            order.min_new_tokens,
            self._written,
            self._thought,
            order.n_likeliest,
        )

    def end(self, finish_reason: Literal["stop", "length"]) -> None:
        """Tell what was held back, and that the text has ended."""
        self._watch.end()
        tokens = self._tokens
        if self._watch.stopped:  # those behind the cut belong to the stop string
            tokens = [token for token in tokens if token.offset < len(self._watch.text)]
        self._tell_up_to(self._certain, len(tokens))
        self.tell(Ended(finish_reason, len(self._tokens)))

    def _grow(self, piece: str) -> None:
        self._certain += len(piece)

    def _thought(self, written: WrittenToken) -> None:
        self.has_begun = True
        self._tokens.append(PlacedToken(written, len(self._watch.text)))

    def _written(self, token: int) -> bool:
        stops = self._watch(token)
        if not stops and self._certain > self._told_characters:
            n_certain = self._told_tokens
            while n_certain < len(self._tokens) and self._tokens[n_certain].offset < self._certain:
                n_certain += 1
            self._tell_up_to(self._certain, n_certain)
        return stops

    def _tell_up_to(self, characters: int, n_tokens: int) -> None:
        text = self._watch.text[self._told_characters : characters]
        tokens = self._tokens[self._told_tokens : n_tokens]
        if text or tokens:
            self.tell(Piece(text, tokens))
        self._told_characters = max(self._told_characters, characters)
        self._told_tokens = max(self._told_tokens, n_tokens)
