"""Samples into one file of tokens, a list at a time, with what has to be known of each one afterwards."""

from dataclasses import dataclass
from itertools import chain
from typing import Any, BinaryIO, TypeVar

import numpy as np
import numpy.typing as npt

from tunesmith.data.fast_tokenizer import FastTokenizer
from tunesmith.data.samples import SampleList
from tunesmith.data.stretches import Int64s, Integers, smallest
from tunesmith.data.tokenizer import TokenIds

N = TypeVar("N", bound=np.integer[Any])


@dataclass(frozen=True)
class MeasuredList:
    """Samples with what can be said of them before they are tokens; made ahead, in another thread.

    Attributes:
        texts: what is tokenised: whole texts, or prompt and completion of each pair behind one another.
        are_pairs: which of the two.
        goes_on: whether the last sample is unfinished (`SampleList.goes_on`).
        hashes: int64 [samples], equal for equal texts.
        text_bytes: int64 [samples], UTF-8 bytes of what is to be predicted.
        characters: of all texts.
    """

    texts: list[str]
    are_pairs: bool
    goes_on: bool
    hashes: Int64s
    text_bytes: Int64s
    characters: int


def measure(samples: SampleList) -> MeasuredList:
    """Hash and count."""
    texts = predicted = samples.texts
    n = len(texts)
    hashes = np.fromiter(map(hash, map(str.strip, texts)), np.int64, n)
    if samples.prompt_characters:
        prompts, predicted = samples.parts()  # apart, so that no token reaches from one into the other
        texts = list(chain.from_iterable(zip(prompts, predicted, strict=True)))
    text_bytes = np.fromiter(map(len, map(str.encode, predicted)), np.int64, n)
    characters = sum(map(len, texts))
    return MeasuredList(texts, bool(samples.prompt_characters), samples.goes_on, hashes, text_bytes, characters)


@dataclass(frozen=True)
class SampleColumns:
    """What is known of each sample of a corpus, every column in the smallest type that holds it.

    Attributes:
        token_counts: [samples], with its end-of-text.
        prompt_counts: [samples], tokens that are given and not predicted.
        text_bytes: [samples], UTF-8 bytes of what is predicted.
    """

    token_counts: Integers
    prompt_counts: Integers
    text_bytes: Integers


@dataclass(frozen=True)
class _Begun:
    """The parts so far of a document that goes on."""

    tokens: int
    text_bytes: int
    hash: int


class SampleWriter:
    """Tokenises samples a list at a time and appends them to the token file.

    Attributes:
        characters: written so far.
    """

    def __init__(self, fast: FastTokenizer, end_of_text_id: int, dtype: np.dtype[Any]) -> None:
        self._fast = fast
        self._end_of_text_id = end_of_text_id
        self._dtype = dtype
        self._columns: list[list[Integers]] = [[np.zeros(0, np.uint8)] for _ in range(3)]
        self._hashes: list[Int64s] = [np.zeros(0, np.int64)]
        self._begun: _Begun | None = None
        self.characters = 0

    def write(self, file: BinaryIO, some: MeasuredList) -> None:
        """Append samples, each followed by end-of-text; the last one stays open where it goes on."""
        ids, counts = self._fast.encode_packed(some.texts)
        prompt_counts = counts[::2] if some.are_pairs else np.zeros_like(counts)
        if some.are_pairs:
            counts = prompt_counts + counts[1::2]
        tokens = with_ends(ids, counts, self._end_of_text_id, self._dtype)
        file.write(tokens[: len(tokens) - some.goes_on].tobytes())
        token_counts, text_bytes, hashes = counts + 1, some.text_bytes, some.hashes
        if self._begun is not None:
            token_counts[0] += self._begun.tokens
            text_bytes[0] += self._begun.text_bytes
            hashes[0] = hash((self._begun.hash, int(hashes[0])))
        self._begun = None
        if some.goes_on:
            self._begun = _Begun(int(token_counts[-1]) - 1, int(text_bytes[-1]), int(hashes[-1]))
        ended = slice(len(hashes) - some.goes_on)
        counted = (smallest(column[ended]) for column in (token_counts, prompt_counts, text_bytes))
        for parts, column in zip(self._columns, counted, strict=True):
            parts.append(column)
        self._hashes.append(hashes[ended])
        self.characters += some.characters

    def samples(self) -> SampleColumns:
        """All that was written; what was kept for it is given up, so it can be asked once."""
        return SampleColumns(*(_joined(parts) for parts in self._columns))

    def hashes(self) -> Int64s:
        """Of all that was written, equal for equal texts; given up like the columns."""
        return _joined(self._hashes)


def with_ends(ids: TokenIds, counts: Int64s, end_of_text_id: int, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Ids of texts behind one another, with an end-of-text behind each text."""
    is_text = np.ones(len(ids) + len(counts), np.bool_)
    is_text[np.cumsum(counts + 1) - 1] = False
    out = np.full(len(is_text), end_of_text_id, dtype)
    out[is_text] = ids
    return out


def _joined(parts: list[npt.NDArray[N]]) -> npt.NDArray[N]:
    """One column; its parts are let go before the next column is joined."""
    column = np.concatenate(parts)
    parts.clear()
    return column
