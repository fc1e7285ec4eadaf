"""Tokenize sources to a folder: everything that does not depend on the training and validation split.

tokens.json     sources, counts, dtype
tokens.bin      one end-of-text token, then every sample followed by end-of-text, in file order
samples/*.npy   what has to be known of each sample to split them without reading the text again
near_duplicate_of.npy    written when it is first needed
"""

import os
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
import numpy.typing as npt

from tunesmith.data.cache import TOKENS_INFO
from tunesmith.data.dedup import exact_duplicate_of, near_duplicate_of
from tunesmith.data.fast_tokenizer import LARGE_TEXT_BYTES, FastTokenizer
from tunesmith.data.prefetch import prefetch
from tunesmith.data.readers import ReadingOptions, join_partials, open_source
from tunesmith.data.segmentation import TextBatch
from tunesmith.data.source_files import TOKENS, ResolvedSources, SourceFile
from tunesmith.data.spans import Int64s, IntColumns, Integers, TokenSpans, open_column, shrink_dtype
from tunesmith.data.split import MIN_CUT_TOKENS, MIN_SAMPLES
from tunesmith.data.tokenizer import TextTokenizer, TokenIds
from tunesmith.errors import UserError
from tunesmith.utils.files import naming, parse_json, write_atomically, write_json

FORMAT = 7
NEAR_DUPLICATES = "near_duplicate_of.npy"

N = TypeVar("N", bound=np.integer[Any])


@dataclass(frozen=True)
class SampleColumns(IntColumns):
    """What is known of each sample, every column in the smallest type that is wide enough.

    Attributes:
        token_counts: end-of-text included.
        prompt_counts: tokens that are given and not predicted.
        text_bytes: UTF-8 bytes of what is predicted.
        duplicate_of: index of the first sample with the same text.
    """

    token_counts: Integers
    prompt_counts: Integers
    text_bytes: Integers
    duplicate_of: Integers


@dataclass(frozen=True)
class TokenizedSources:
    """A folder with tokens, opened.

    Attributes:
        info: content of tokens.json.
        tokens: memory-mapped.
    """

    folder: Path
    info: dict[str, Any]
    tokens: npt.NDArray[Any]
    samples: SampleColumns

    @classmethod
    def open(cls, folder: Path) -> "TokenizedSources":
        """Memory-map a folder."""
        info = parse_json((folder / TOKENS_INFO).read_text("utf-8"))
        tokens = np.memmap(folder / TOKENS, mode="r", dtype=np.dtype(info["dtype"]))
        samples = SampleColumns.open(folder / "samples")
        if len(tokens) != info["tokens"] or samples.token_counts.sum(dtype=np.int64) + 1 != len(tokens):
            raise ValueError(f"{TOKENS} has {len(tokens)} tokens")
        return cls(folder, info, tokens, samples)

    def spans(self, argument_of_file: tuple[int, ...]) -> TokenSpans:
        """Spans of all samples.

        Args:
            argument_of_file: index of the SOURCE argument of each file.
        """
        counts = self.samples.token_counts
        starts = np.cumsum(counts, dtype=np.int64)
        starts -= counts
        starts += 1
        arguments = shrink_dtype(np.array(argument_of_file, np.uint32))
        sources = np.repeat(arguments, [source["samples"] for source in self.info["sources"]])
        return TokenSpans(starts, counts, self.samples.prompt_counts, sources)

    def near_duplicate_of(self, spans: TokenSpans) -> Integers:
        """Index of each sample's first near duplicate, from a file after the first time."""
        path = self.folder / NEAR_DUPLICATES
        if path.is_file():
            column = open_column(path)
            if len(column) == len(spans):
                return column
        firsts = shrink_dtype(near_duplicate_of(self.tokens, spans))

        def save(temporary: Path) -> None:
            with temporary.open("wb") as file:
                np.save(file, firsts)

        with suppress(OSError):  # a read-only cache
            write_atomically(path, save)
        return firsts


def tokenize_sources(
    folder: Path, resolved: ResolvedSources, tokenizer: TextTokenizer, options: ReadingOptions, *, val_fraction: float
) -> TokenizedSources:
    """Read and tokenize all sources.

    Args:
        folder: existing and empty.
        resolved: files to read.
        tokenizer: the model's own.
        options: how to read.
        val_fraction: decides how many samples are needed.
    """
    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32)
    encoder = FastTokenizer(tokenizer, text_bytes=_stored_bytes(resolved))
    writer = SampleWriter(encoder, tokenizer.end_of_text_id, dtype)
    reports = []
    path = folder / TOKENS
    with path.open("wb") as file:
        file.write(np.array([tokenizer.end_of_text_id], dtype).tobytes())
        for source in resolved.files:
            report, batches = open_source(source, options, end_of_text=tokenizer.end_of_text)
            if not tokenizer.may_be_cut:
                batches = join_partials(batches)
            with closing(prefetch(map(measure, batches))) as measured_batches:
                for batch in measured_batches:
                    with naming(path):
                        writer.write(file, batch)
            reports.append(report)
        with naming(path):
            file.flush()
            os.fsync(file.fileno())
    columns = writer.columns()
    check_enough_samples(columns.token_counts, val_fraction, resolved)
    columns.save(folder / "samples")
    info = {
        "format": FORMAT,
        "sources": [asdict(report) for report in reports],
        "dtype": dtype.name,
        "tokens": path.stat().st_size // dtype.itemsize,
        "characters": writer.characters,
    }
    write_json(folder / TOKENS_INFO, info)
    return TokenizedSources.open(folder)


def check_enough_samples(token_counts: Integers, val_fraction: float, resolved: ResolvedSources) -> None:
    """Check that there is something to train on and, unless all is held out or nothing, something for validation."""
    n_samples = len(token_counts)
    needed = 1 if val_fraction in {0, 1} else MIN_SAMPLES
    can_be_cut = n_samples and needed > 1 and token_counts.sum(dtype=np.int64) >= MIN_CUT_TOKENS
    if n_samples < needed and not can_be_cut:
        raise UserError(
            "{names}: {n_samples} samples with text, but {needed} are needed",
            hint="one sample a line: put each text on a line of its own, or set --split-on",
            names=", ".join(str(file.path) for file in resolved.files[:3]),
            n_samples=n_samples,
            needed=needed,
        )


@dataclass(frozen=True)
class MeasuredBatch:
    """Samples with their hashes and sizes; computed ahead, in another thread.

    Attributes:
        texts: to be tokenized: whole texts, or prompts and completions alternating.
        are_pairs: which of the two.
        is_partial: as in `TextBatch`.
        hashes: int64 [samples], equal for equal texts.
        text_bytes: int64 [samples], UTF-8 bytes of what is predicted.
        characters: of all texts.
    """

    texts: list[str]
    are_pairs: bool
    is_partial: bool
    hashes: Int64s
    text_bytes: Int64s
    characters: int


def measure(batch: TextBatch) -> MeasuredBatch:
    """Compute hashes and sizes."""
    texts = predicted = batch.texts
    n = len(texts)
    hashes = np.fromiter(map(hash, map(str.strip, texts)), np.int64, n)
    if batch.prompt_characters:
        prompts, predicted = batch.parts()  # separately, so that no token is partly in both
        texts = list(chain.from_iterable(zip(prompts, predicted, strict=True)))
    text_bytes = np.fromiter(map(len, map(str.encode, predicted)), np.int64, n)
    characters = sum(map(len, texts))
    return MeasuredBatch(texts, bool(batch.prompt_characters), batch.is_partial, hashes, text_bytes, characters)


@dataclass(frozen=True)
class _Unfinished:
    """Totals of the parts so far of a long document."""

    tokens: int
    text_bytes: int
    hash: int


def _stored_bytes(resolved: ResolvedSources) -> int:
    """Bytes on disk, compressed or not; a dataset of the Hub counts as a large text."""
    return sum(
        source.path.stat().st_size if isinstance(source, SourceFile) else LARGE_TEXT_BYTES for source in resolved.files
    )


class SampleWriter:
    """Tokenize samples batch by batch and append them to the token file.

    Attributes:
        characters: written so far.
    """

    def __init__(self, encoder: FastTokenizer, end_of_text_id: int, dtype: np.dtype[Any]) -> None:
        self._encoder, self._end_of_text_id = encoder, end_of_text_id
        self._dtype = dtype
        self._columns: list[list[Integers]] = [[np.zeros(0, np.uint8)] for _ in range(3)]
        self._hashes: list[Int64s] = [np.zeros(0, np.int64)]
        self._unfinished: _Unfinished | None = None
        self.characters = 0

    def write(self, file: BinaryIO, batch: MeasuredBatch) -> None:
        """Append samples, each followed by end-of-text; a partial last one stays open."""
        ids, counts = self._encoder.encode_packed(batch.texts)
        prompt_counts = counts[::2] if batch.are_pairs else np.zeros_like(counts)
        if batch.are_pairs:
            counts = prompt_counts + counts[1::2]
        tokens = with_ends(ids, counts, self._end_of_text_id, self._dtype)
        file.write(tokens[: len(tokens) - batch.is_partial].tobytes())
        token_counts, text_bytes, hashes = counts + 1, batch.text_bytes, batch.hashes
        if self._unfinished is not None:
            token_counts[0] += self._unfinished.tokens
            text_bytes[0] += self._unfinished.text_bytes
            hashes[0] = hash((self._unfinished.hash, int(hashes[0])))
        self._unfinished = None
        if batch.is_partial:
            self._unfinished = _Unfinished(int(token_counts[-1]) - 1, int(text_bytes[-1]), int(hashes[-1]))
        finished = slice(len(hashes) - batch.is_partial)
        shrunk = (shrink_dtype(column[finished]) for column in (token_counts, prompt_counts, text_bytes))
        for parts, column in zip(self._columns, shrunk, strict=True):
            parts.append(column)
        self._hashes.append(hashes[finished])
        self.characters += batch.characters

    def columns(self) -> SampleColumns:
        """Return what was collected and free it, so it can be called once."""
        duplicate_of = exact_duplicate_of(_joined(self._hashes))
        token_counts, prompt_counts, text_bytes = (_joined(parts) for parts in self._columns)
        return SampleColumns(token_counts, prompt_counts, text_bytes, duplicate_of)


def with_ends(ids: TokenIds, counts: Int64s, end_of_text_id: int, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Insert end-of-text after each of the concatenated texts."""
    is_text = np.ones(len(ids) + len(counts), np.bool_)
    is_text[np.cumsum(counts + 1) - 1] = False
    out = np.full(len(is_text), end_of_text_id, dtype)
    out[is_text] = ids
    return out


def _joined(parts: list[npt.NDArray[N]]) -> npt.NDArray[N]:
    """Concatenate; the parts are freed before the next column is joined."""
    column = np.concatenate(parts)
    parts.clear()
    return column
