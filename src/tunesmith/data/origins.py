"""From a token of the corpus back to where it stood: file, sample, and line where the file has lines."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tunesmith.data.corpus import Corpus
from tunesmith.data.source_files import FoundSources, SourceFile
from tunesmith.data.tokenizer import TextTokenizer
from tunesmith.messages.catalogue import Phrase

SHOWN_CHARACTERS = 60
PLAIN_KINDS = (".txt", ".md")


@dataclass(frozen=True)
class Origin:
    """Where a sample came from.

    Attributes:
        file: its name.
        sample: its number in the file, counted from 1; empty ones are not counted.
        line: on which it begins, counted from 1; None where that is not known (tables, archives, standard input).
        text: how it begins.
    """

    file: str
    sample: int
    line: int | None
    text: str

    @property
    def shown(self) -> Phrase:
        """For a person."""
        if self.line is None:
            return Phrase(
                "{file}, sample {sample:,}: {begins!r}",
                {"file": self.file, "sample": self.sample, "begins": self.text},
            )
        return Phrase("{file}, line {line}: {begins!r}", {"file": self.file, "line": self.line, "begins": self.text})


class Origins:
    """Looks places up; nothing is kept in memory for it.

    Args:
        corpus: the tokens.
        tokenizer: that made them.
        found: the files they were made from; None where they are gone.
    """

    def __init__(self, corpus: Corpus, tokenizer: TextTokenizer, found: FoundSources | None) -> None:
        self._corpus = corpus
        self._tokenizer = tokenizer
        files = found.files if found else ()
        self._plain = {
            file.name: file.path
            for file in files
            if isinstance(file, SourceFile) and file.kind in PLAIN_KINDS and not file.compression and not file.member
        }

    def of(self, token: int) -> Origin:
        """The origin of the sample that holds a token.

        Args:
            token: its index in the corpus's tokens, at least 1.
        """
        tokens = self._corpus.train.tokens
        borders = np.flatnonzero(tokens[:token] == self._tokenizer.end_of_text_id)  # one before every sample
        start = int(borders[-1]) + 1
        ends = np.flatnonzero(tokens[token:] == self._tokenizer.end_of_text_id)
        end = token + int(ends[0]) if len(ends) else len(tokens)
        text = self._tokenizer.decode(tokens[start : min(end, start + SHOWN_CHARACTERS)].tolist())
        name, number, encoding = self._file(len(borders) - 1)
        first_line = next((line for line in text.splitlines() if line.strip()), "")[:SHOWN_CHARACTERS]
        return Origin(name, number, self._line(name, encoding, first_line, number), first_line)

    def _file(self, sample: int) -> tuple[str, int, str]:
        """File, number in it and encoding of a sample of the corpus, counted from 0."""
        for source in self._corpus.manifest["sources"]:
            if sample < source["samples"]:
                return str(source["name"]), sample + 1, str(source["encoding"])
            sample -= int(source["samples"])
        return "text", sample + 1, ""

    def _line(self, name: str, encoding: str, first_line: str, number: int) -> int | None:
        """The line that the text stands on; of several equal ones the first that can hold so many samples."""
        path = self._plain.get(name)
        if path is None or not first_line:
            return None
        matching = _lines_with(path, encoding, first_line)
        return next((line for line in matching if line >= number), None)


def _lines_with(path: Path, encoding: str, text: str) -> list[int]:
    try:
        with path.open(encoding=encoding or "utf-8", errors="replace") as file:
            return [number for number, line in enumerate(file, 1) if text in line]
    except (OSError, LookupError):
        return []
