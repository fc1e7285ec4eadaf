"""Incremental detokenization: no character is ever broken, and nothing is shown that has to be taken back.

A token may be a part of a character (Japanese, emoji), and a stop string may begin in one token and end in another.
What could still become something else is held back.
"""

from collections.abc import Callable, Sequence

from tunesmith.data.tokenizer import TextTokenizer

UNFINISHED = "\ufffd"
"""The replacement character: bytes that form no character, or none yet."""


class IncrementalDetokenizer:
    """Decodes token by token; the pieces together equal the decoding of all tokens at once.

    Args:
        tokenizer: the model's own.
        before: ids before the first token; some tokenizers decode the first word of a text differently.
    """

    def __init__(self, tokenizer: TextTokenizer, before: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._ids = list(before)
        self._context = 0
        self._returned = len(self._ids)

    def push(self, token: int) -> str:
        """Return the text that one more token completes; empty while a character is unfinished."""
        self._ids.append(token)
        text = self._decode_from_context()
        return "" if text.endswith(UNFINISHED) else self._advance(text)

    def end(self) -> str:
        """Return what was held back."""
        return self._advance(self._decode_from_context())

    def _decode_from_context(self) -> str:
        return self._tokenizer.decode(self._ids[self._context :])

    def _advance(self, text: str) -> str:
        returned = self._tokenizer.decode(self._ids[self._context : self._returned])
        self._context, self._returned = self._returned, len(self._ids)
        return text[len(returned) :]


class StopStringMatcher:
    """Ends a text at a stop string; called with each token.

    Attributes:
        text: generated so far, up to the stop string if one came.
        stopped: whether one came.

    Args:
        detokenizer: of this text.
        stops: none of them becomes part of the text.
        on_text: called with every piece of text that is certain.
    """

    def __init__(
        self,
        detokenizer: IncrementalDetokenizer,
        stops: Sequence[str] = (),
        on_text: Callable[[str], object] | None = None,
    ) -> None:
        self.text = ""
        self.stopped = False
        self._detokenizer = detokenizer
        self._stops = stops
        self._on_text = on_text
        self._shown = 0
        self._longest = max(map(len, stops), default=0)

    def __call__(self, token: int) -> bool:
        """Add a token; returns whether a stop string came with it."""
        self._add(self._detokenizer.push(token))
        return self.stopped

    def end(self) -> None:
        """End the text; what was held back belongs to it, unless a stop string cut it off."""
        if not self.stopped:
            self._add(self._detokenizer.end())
            self._show_up_to(len(self.text))

    def _add(self, piece: str) -> None:
        searched = max(len(self.text) - self._longest + 1, 0)
        self.text += piece
        starts = [start for stop in self._stops if (start := self.text.find(stop, searched)) >= 0]
        if starts:
            self.text = self.text[: min(starts)]
            self.stopped = True
        self._show_up_to(len(self.text) - (0 if starts else self._partial_stop_length()))

    def _partial_stop_length(self) -> int:
        """How many characters at the end could still become a stop string."""
        for length in range(min(self._longest - 1, len(self.text)), 0, -1):
            if any(stop.startswith(self.text[-length:]) for stop in self._stops):
                return length
        return 0

    def _show_up_to(self, end: int) -> None:
        if end > self._shown:
            if self._on_text is not None:
                self._on_text(self.text[self._shown : end])
            self._shown = end
