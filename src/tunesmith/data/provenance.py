"""Trace tokens back to their file, sample and line; find the text a model was trained on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.data.corpus import Corpus, cached_corpus, open_corpus, prepare_corpus
from tunesmith.data.readers import ReadingOptions
from tunesmith.data.source_files import TEXT_KINDS, ResolvedSources, SourceFile, is_prepared, resolve_sources
from tunesmith.data.tokenizer import TextTokenizer
from tunesmith.errors import UserError
from tunesmith.i18n import LazyString
from tunesmith.run_dir import RunDir

SHOWN_CHARACTERS = 60


@dataclass(frozen=True)
class SampleLocation:
    """Where a sample came from.

    Attributes:
        file: its name.
        sample: number in the file, from 1; empty samples are not counted.
        line: first line, from 1; None where that is not known (tables, archives, standard input).
        text: beginning of the sample.
    """

    file: str
    sample: int
    line: int | None
    text: str

    @property
    def shown(self) -> LazyString:
        """Description for people."""
        if self.line is None:
            return LazyString(
                "{file}, sample {sample:,}: {begins!r}",
                {"file": self.file, "sample": self.sample, "begins": self.text},
            )
        return LazyString(
            "{file}, line {line}: {begins!r}", {"file": self.file, "line": self.line, "begins": self.text}
        )


class SampleLocator:
    """Looks up locations; keeps nothing in memory for it.

    Args:
        corpus: with the tokens.
        tokenizer: that made them.
        resolved: the files they were made from; None if they are gone.
    """

    def __init__(self, corpus: Corpus, tokenizer: TextTokenizer, resolved: ResolvedSources | None) -> None:
        self._corpus = corpus
        self._tokenizer = tokenizer
        self._paths = {
            file.name: file.path
            for file in (resolved.files if resolved else ())
            if isinstance(file, SourceFile) and file.kind in TEXT_KINDS and not file.compression and not file.member
        }

    def locate(self, token: int) -> SampleLocation:
        """Locate the sample of a token.

        Args:
            token: index in the corpus's tokens, at least 1.
        """
        tokens = self._corpus.train.tokens
        borders = np.flatnonzero(tokens[:token] == self._tokenizer.end_of_text_id)  # one before every sample
        start = int(borders[-1]) + 1
        ends = np.flatnonzero(tokens[token:] == self._tokenizer.end_of_text_id)
        end = token + int(ends[0]) if len(ends) else len(tokens)
        text = self._tokenizer.decode(tokens[start : min(end, start + SHOWN_CHARACTERS)].tolist())
        source, number = _file_of_sample(self._corpus, len(borders) - 1)
        first_line = next((line for line in text.splitlines() if line.strip()), "")[:SHOWN_CHARACTERS]
        return SampleLocation(source["name"], number, self._line(source, first_line, number), first_line)

    def _line(self, source: dict[str, Any], first_line: str, number: int) -> int | None:
        """The line with a text; of several equal ones the first with enough lines for the sample number."""
        path = self._paths.get(source["name"])
        if path is None or not first_line:
            return None
        try:
            with path.open(encoding=source["encoding"] or "utf-8", errors="replace") as file:
                return next((n for n, line in enumerate(file, 1) if n >= number and first_line in line), None)
        except (OSError, LookupError):
            return None


def _file_of_sample(corpus: Corpus, sample: int) -> tuple[dict[str, Any], int]:
    """File of a sample of the corpus (counted from 0), and the sample's number in the file, from 1."""
    for source in corpus.manifest["sources"]:
        if sample < source["samples"]:
            return source, sample + 1
        sample -= source["samples"]
    raise AssertionError("every token belongs to a sample of a source")


def name_of_sample(corpus: Corpus, position: int, end_of_text_id: int) -> dict[str, Any]:
    """Return file and sample number (from 1) of a token of the corpus."""
    n_before = int(np.count_nonzero(corpus.train.tokens[:position] == end_of_text_id))
    source, number = _file_of_sample(corpus, n_before - 1)
    return {"source": source["name"], "sample": number}


def load_training_corpus(folder: Path, tokenizer: TextTokenizer, sources: Sequence[str]) -> Corpus:
    """Open the corpus that a model was trained on, with what was held out.

    Args:
        folder: of the model.
        tokenizer: its own.
        sources: SOURCE arguments that override what the run folder says; nothing of them is held out.

    Raises:
        UserError: if it is not known or no longer in the cache.
    """
    if sources:
        with resolve_sources(sources) as resolved:
            return prepare_corpus(resolved, tokenizer, ReadingOptions(), val_fraction=0, seed=0)
    try:
        run = RunDir(folder).read_metadata()
        fingerprint, sources = run["data"]["fingerprint"], run["config"]["sources"]
    except (UserError, OSError, ValueError, KeyError, TypeError):
        raise UserError(
            "{folder} does not say what it was trained on",
            hint="name its training text: --training-data FILE",
            folder=folder,
        ) from None
    prepared = [open_corpus(Path(source)) for source in sources if is_prepared(source)]
    corpus = prepared[0] if prepared else cached_corpus(fingerprint)
    if corpus is None or corpus.manifest["tokenizer"] != tokenizer.fingerprint:
        raise UserError(
            "the text that {folder} was trained on is not in the cache any more",
            hint="name it: --training-data {sources}",
            folder=folder,
            sources=" ".join(map(str, sources)) or "FILE",
        )
    return corpus
