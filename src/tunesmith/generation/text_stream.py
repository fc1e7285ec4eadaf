"""Tokens into text as they come: no character is ever broken, and nothing is shown that has to be taken back.

A token may hold a part of a character (Japanese, emoji), and a stop string may begin in one token and end in another.
What could still become something else is held back.
"""

from collections.abc import Callable, Sequence

from tunesmith.data.tokenizer import TextTokenizer

UNFINISHED = "\ufffd"
"""What stands for bytes that form no character, or none yet."""


class TextStream:
    """Decodes a text token by token; the pieces together are what decoding all of it at once gives.

    Args:
        tokenizer: the model's own.
        before: ids that stand before it; some tokenizers decode the first word of a text differently.
    """

    def __init__(self, tokenizer: TextTokenizer, before: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._ids = list(before)
        self._context = 0
        self._given = len(self._ids)

    def push(self, token: int) -> str:
        """The text that one more token completes; nothing while a character is unfinished."""
        self._ids.append(token)
        text = self._text_behind_context()
        return "" if text.endswith(UNFINISHED) else self._give(text)

    def end(self) -> str:
        """What was held back."""
        return self._give(self._text_behind_context())

    def _text_behind_context(self) -> str:
        return self._tokenizer.decode(self._ids[self._context :])

    def _give(self, text: str) -> str:
        given = self._tokenizer.decode(self._ids[self._context : self._given])
        self._context, self._given = self._given, len(self._ids)
        return text[len(given) :]


class StopWatch:
    """Watches a text for strings that end it.

    Attributes:
        text: what was written, up to the stop string if one came.
        stopped: whether one came.

    Args:
        stream: decodes the text.
        stops: strings that end it; none of them is part of the text.
        show: called with every piece of text that is certain.
    """

    def __init__(
        self, stream: TextStream, stops: Sequence[str] = (), show: Callable[[str], object] | None = None
    ) -> None:
        self.text = ""
        self.stopped = False
        self._stream = stream
        self._stops = stops
        self._show = show
        self._shown = 0
        self._longest = max(map(len, stops), default=0)

    def __call__(self, token: int) -> bool:
        """One more token; whether a stop string came with it."""
        self._add(self._stream.push(token))
        return self.stopped

    def end(self) -> None:
        """The text has ended; what was held back belongs to it, unless a stop string cut it off."""
        if not self.stopped:
            self._add(self._stream.end())
            self._show_up_to(len(self.text))

    def _add(self, piece: str) -> None:
        searched = max(len(self.text) - self._longest + 1, 0)
        self.text += piece
        found = [place for stop in self._stops if (place := self.text.find(stop, searched)) >= 0]
        if found:
            self.text = self.text[: min(found)]
            self.stopped = True
        self._show_up_to(len(self.text) - (0 if found else self._beginning_of_a_stop()))

    def _beginning_of_a_stop(self) -> int:
        """How many characters at the end could still become a stop string."""
        for held in range(min(self._longest - 1, len(self.text)), 0, -1):
            if any(stop.startswith(self.text[-held:]) for stop in self._stops):
                return held
        return 0

    def _show_up_to(self, end: int) -> None:
        if end > self._shown:
            if self._show is not None:
                self._show(self.text[self._shown : end])
            self._shown = end
