"""Samples into one file of tokens, a list at a time, with what has to be known of each one afterwards."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from tunesmith.data.fast_tokenizer import FastTokenizer
from tunesmith.data.samples import SampleList
from tunesmith.data.tokenizer import Int64s, TextTokenizer, TokenIds


@dataclass
class SampleColumns:
    """What is known of each sample: tokens with its end-of-text, those of its prompt, bytes to predict, a hash."""

    token_counts: Int64s
    prompt_counts: Int64s
    text_bytes: Int64s
    hashes: Int64s
    characters: int

    @classmethod
    def of(cls, columns: Sequence[Int64s], *, characters: int) -> "SampleColumns":
        """From columns in the order of the fields."""
        token_counts, prompt_counts, text_bytes, hashes = columns
        return cls(token_counts, prompt_counts, text_bytes, hashes, characters)

    def columns(self) -> list[Int64s]:
        return [self.token_counts, self.prompt_counts, self.text_bytes, self.hashes]

    def last(self) -> "SampleColumns":
        """The last sample alone; its characters stay where they were counted."""
        return SampleColumns.of([column[-1:].copy() for column in self.columns()], characters=0)

    def without_last(self) -> "SampleColumns":
        return SampleColumns.of([column[:-1] for column in self.columns()], characters=self.characters)

    def continue_first(self, begun: "SampleColumns") -> None:
        """Add to the first sample what was known of its beginning."""
        self.token_counts[0] += begun.token_counts[0]
        self.text_bytes[0] += begun.text_bytes[0]
        self.hashes[0] = hash((int(begun.hashes[0]), int(self.hashes[0])))


def joined(lists: list[SampleColumns]) -> SampleColumns:
    """Lists of samples behind one another."""
    empty = np.zeros(0, np.int64)
    columns = [np.concatenate([empty, *parts]) for parts in zip(*(some.columns() for some in lists), strict=True)]
    return SampleColumns.of(columns or [empty] * 4, characters=sum(some.characters for some in lists))


class SampleWriter:
    """Tokenises samples a list at a time and appends them to the token file."""

    def __init__(self, tokenizer: TextTokenizer, fast: FastTokenizer, dtype: np.dtype[Any]) -> None:
        self._tokenizer = tokenizer
        self._fast = fast
        self._dtype = dtype
        self._lists: list[SampleColumns] = []
        self._unfinished: SampleColumns | None = None
        self._held_back = ""

    def write(self, file: BinaryIO, samples: SampleList) -> None:
        """Append samples, each followed by end-of-text; the last one stays open where it goes on."""
        samples = self._joined_if_needed(samples)
        if not samples.texts:
            return
        ids, counts, prompt_counts, predicted = self._encode(samples)
        tokens = with_ends(ids, counts, self._tokenizer.end_of_text_id)
        file.write(tokens[: len(tokens) - samples.goes_on].astype(self._dtype).tobytes())
        n = len(samples.texts)
        some = SampleColumns(
            token_counts=counts + 1,
            prompt_counts=prompt_counts,
            text_bytes=np.fromiter(map(len, map(str.encode, predicted)), np.int64, n),
            hashes=np.fromiter(map(hash, map(str.strip, samples.texts)), np.int64, n),
            characters=sum(map(len, samples.texts)),
        )
        some.token_counts[-1] -= samples.goes_on
        if self._unfinished is not None:
            some.continue_first(self._unfinished)
        self._unfinished = some.last() if samples.goes_on else None
        self._lists.append(some.without_last() if samples.goes_on else some)

    def samples(self) -> SampleColumns:
        """All that was written."""
        return joined(self._lists)

    def _joined_if_needed(self, samples: SampleList) -> SampleList:
        """Parts of a document are put together again for a tokenizer that may not be given parts."""
        if self._tokenizer.may_be_cut or not (samples.goes_on or self._held_back):
            return samples
        texts = [self._held_back + samples.texts[0], *samples.texts[1:]]
        self._held_back = texts.pop() if samples.goes_on else ""
        return SampleList(texts, samples.prompt_characters)

    def _encode(self, samples: SampleList) -> tuple[TokenIds, Int64s, Int64s, list[str]]:
        """Ids, tokens of each sample and of its prompt, and the texts that are to be predicted."""
        if not samples.prompt_characters:
            ids, counts = self._fast.encode_packed(samples.texts)
            return ids, counts, np.zeros_like(counts), samples.texts
        prompts, completions = samples.parts()  # apart, so that no token reaches from one into the other
        alternating = [part for pair in zip(prompts, completions, strict=True) for part in pair]
        ids, part_counts = self._fast.encode_packed(alternating)
        return ids, part_counts[::2] + part_counts[1::2], part_counts[::2], completions


def with_ends(ids: TokenIds, counts: Int64s, end_of_text_id: int) -> TokenIds:
    """Ids of texts behind one another, with an end-of-text behind each text."""
    out = np.full(len(ids) + len(counts), end_of_text_id, np.uint32)
    out[np.arange(len(ids)) + np.repeat(np.arange(len(counts)), counts)] = ids
    return out
