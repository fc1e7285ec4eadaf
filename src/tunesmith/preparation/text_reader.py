"""All texts of some sources, one after another, counted on the way."""

from collections.abc import Iterator

from tunesmith.data.source_files import FoundSources
from tunesmith.data.sources import ReadingOptions, open_source
from tunesmith.data.tokenizer import END_OF_TEXT

MEASURED_CHARACTERS = 1 << 20
"""Of the first texts, kept to measure a tokenizer on."""


class TextReader:
    """All samples' texts, counted on the way.

    Attributes:
        samples: read so far.
        characters: read so far.
        alphabet: every character so far.
        beginning: the first texts, to measure the result on.
    """

    def __init__(self, found: FoundSources, options: ReadingOptions) -> None:
        self._found = found
        self._options = options
        self.samples = 0
        self.characters = 0
        self.alphabet: set[str] = set()
        self.beginning: list[str] = []

    def lists(self) -> Iterator[list[str]]:
        """Texts, a list at a time."""
        for file in self._found.files:
            _, lists = open_source(file, self._options, end_of_text=END_OF_TEXT)
            for some in lists:
                if self.characters < MEASURED_CHARACTERS:
                    self.beginning += [text[:MEASURED_CHARACTERS] for text in some.texts]
                self.samples += len(some.texts) - some.goes_on
                self.alphabet.update(*some.texts)
                self.characters += sum(map(len, some.texts))
                yield some.texts
