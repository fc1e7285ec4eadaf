"""A corpus: tokenized samples on disk, split into training and validation text, memory-mapped.

A corpus folder contains

    manifest.json         what it was made from, what was decided and counted
    tokens.bin            the tokens (`tunesmith.data.tokenize_corpus`); in the cache, those of the entry it is in
    train/*.npy           spans of tokens.bin to train on: starts, lengths, prompt tokens, source
    validation/*.npy      spans that are held out

Every sample is preceded by an end-of-text (of its predecessor, or the first token), so the window of targets
tokens[a:b] has the inputs tokens[a-1:b-1] everywhere: each token of a sample, the first one and its end-of-text
included, is predicted exactly once.

In the cache (`tunesmith.data.cache`) tokens have a name made from the content of the sources, how they were read, and
the tokenizer. Seed, validation fraction, source weights and deduplication only make another split of the same tokens.
"""

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tunesmith.data.cache import (
    NAME_LETTERS,
    SPLITS,
    EntryLock,
    cache_name,
    entry_folder,
    entry_of_split,
    evict,
    find_split,
    lock_entry,
    lock_or_write_entry,
)
from tunesmith.data.readers import ReadingOptions
from tunesmith.data.source_files import MANIFEST, TOKENS, ResolvedSources, tokens_path
from tunesmith.data.spans import Int64s, Integers, TokenSpans
from tunesmith.data.split import TrainValSplit, train_val_split
from tunesmith.data.tokenize_corpus import FORMAT, TokenizedSources, check_enough_samples, tokenize_sources
from tunesmith.data.tokenizer import TextTokenizer
from tunesmith.errors import UserError
from tunesmith.utils.files import describe_os_error, new_folder, parse_json, write_json

NEAR_DUPLICATES_COUNTED_SAMPLES = 50_000
"""Near duplicates are counted without --dedupe near up to here: it takes a fraction of a second."""
TOKENS_AT_A_TIME = 1 << 20

Tokens = npt.NDArray[np.uint16] | npt.NDArray[np.uint32]


@dataclass(frozen=True)
class Split:
    """Some samples of a corpus, or parts of long ones.

    Attributes:
        tokens: of the whole corpus, memory-mapped.
        spans: which of them.
        text_bytes: UTF-8 bytes of what is predicted, in all.
        weights: for each SOURCE how often its samples are seen in an epoch.
    """

    tokens: Tokens
    spans: TokenSpans
    text_bytes: int
    weights: tuple[float, ...] = (1.0,)

    @property
    def n_samples(self) -> int:
        return len(self.spans)

    @property
    def n_tokens(self) -> int:
        """Tokens of all samples, their end-of-text and prompts included."""
        return self.spans.n_tokens


@dataclass(frozen=True)
class Corpus:
    """A corpus folder, opened; in the cache, not removed as long as the object exists."""

    folder: Path
    manifest: dict[str, Any]
    train: Split
    validation: Split
    lock: EntryLock | None = field(default=None, kw_only=True)

    @property
    def fingerprint(self) -> str:
        """Identifies the content: equal for equal sources, settings and tokenizer."""
        return str(self.manifest["fingerprint"])

    def sample_token_counts(self) -> Integers:
        """Tokens of each sample, its end-of-text included, in no particular order."""
        train, validation = self.train.spans, self.validation.spans
        if len(train) == len(validation) and (train.ends == validation.starts).all():  # the ends of documents
            return train.lengths.astype(np.int64) + validation.lengths
        return np.concatenate([train.lengths, validation.lengths])


def prepare_corpus(
    resolved: ResolvedSources,
    tokenizer: TextTokenizer,
    options: ReadingOptions,
    *,
    val_fraction: float,
    seed: int,
    out: Path | None = None,
) -> Corpus:
    """Tokenize and split sources, or open what was made from the same content before.

    Args:
        resolved: the files.
        tokenizer: the model's own.
        options: how to read them.
        val_fraction: fraction of the samples that are held out; 1 is all of them (for evaluation).
        seed: of the choice which ones.
        out: folder for the corpus; default: the cache.

    Raises:
        UserError: for a source that cannot be read or has too few samples.
    """
    if resolved.prepared is not None:
        return _open_prepared(resolved.prepared, tokenizer)
    reading = {name: value for name, value in asdict(options).items() if name not in {"dedupe", "weights"}}
    tokens_key = cache_name(
        {
            "format": FORMAT,
            "tokenizer": tokenizer.fingerprint,
            "options": reading,
            "files": [file.content_id for file in resolved.files],
        }
    )
    settings = {
        "format": FORMAT,
        "tokenizer": tokenizer.fingerprint,
        "options": asdict(options),
        "val_fraction": val_fraction,
        "seed": seed,
        "files": [{"name": file.name, "sha256": file.sha256} for file in resolved.files],
        "source_of_file": list(resolved.argument_of_file),
    }
    settings["fingerprint"] = cache_name({**settings, "tokens": tokens_key})

    def tokenize(folder: Path) -> None:
        tokenize_sources(folder, resolved, tokenizer, options, val_fraction=val_fraction)

    def write_split(folder: Path, tokenized_folder: Path) -> None:
        _write_split(folder, tokenized_folder, resolved, tokenizer, options, settings)

    if out is not None:
        try:
            with new_folder(out) as temporary:
                _write_outside_cache(temporary, entry_folder(tokens_key), tokenize, write_split)
        except FileExistsError:
            raise UserError("--out {out} was taken meanwhile", hint="name another folder", out=out) from None
        return open_corpus(out)
    lock = lock_or_write_entry(tokens_key, tokenize)
    folder = lock.folder / SPLITS / str(settings["fingerprint"])[:NAME_LETTERS]
    if not (folder / MANIFEST).is_file():
        with suppress(FileExistsError), new_folder(folder) as temporary:  # another process may be faster
            write_split(temporary, lock.folder)
    return open_corpus(folder)


def _write_outside_cache(
    folder: Path, cached: Path, tokenize: Callable[[Path], None], write_split: Callable[[Path, Path], None]
) -> None:
    """Write a folder that is complete without the cache; tokens are linked or copied from there if they are in it.

    Otherwise they are linked into the cache, if it is on the same disk: then they need no more space.
    """
    lock = lock_entry(cached)
    if lock is not None:
        write_split(folder, lock.folder)
        try:
            os.link(lock.folder / TOKENS, folder / TOKENS)
        except OSError:
            shutil.copyfile(lock.folder / TOKENS, folder / TOKENS)
        return
    entry = folder / "entry"
    entry.mkdir()
    tokenize(entry)
    write_split(folder, entry)
    with suppress(OSError), new_folder(cached) as temporary:
        shutil.copytree(entry, temporary, copy_function=os.link, dirs_exist_ok=True)
    evict()
    (entry / TOKENS).rename(folder / TOKENS)
    shutil.rmtree(entry)


def cached_corpus(fingerprint: str) -> Corpus | None:
    """Open the corpus of this fingerprint if it is in the cache: for text that cannot be read a second time."""
    folder = find_split(fingerprint)
    return open_corpus(folder) if folder else None


def open_corpus(folder: Path) -> Corpus:
    """Memory-map a corpus folder after checking that its parts fit together.

    Raises:
        UserError: if they do not.
    """
    entry = entry_of_split(folder)
    lock = lock_entry(entry) if entry else None
    try:
        manifest = parse_json((folder / MANIFEST).read_text("utf-8"))
        tokens: Tokens = np.memmap(tokens_path(folder), mode="r", dtype=np.dtype(manifest["dtype"]))
        weights = tuple(map(float, manifest["weights"]))
        train, validation = (
            Split(tokens, TokenSpans.open(folder / name), manifest[f"{key}_bytes"], weights)
            for name, key in (("train", "train"), ("validation", "val"))
        )
        fits = (
            len(tokens) == manifest["stored_tokens"]
            and manifest["tokens"] == train.n_tokens + validation.n_tokens
            and all(_is_within(part.spans, len(tokens)) for part in (train, validation))
            and isinstance(manifest["fingerprint"], str)
            and isinstance(manifest["tokenizer"], str)
        )
    except (OSError, ValueError, KeyError, TypeError, IndexError, OverflowError) as error:
        raise _unreadable(entry or folder, error) from None
    if not fits:
        raise UserError(
            "the prepared text in {folder} is damaged", hint="delete {folder} and run again", folder=entry or folder
        )
    return Corpus(folder, manifest, train, validation, lock=lock)


def _unreadable(folder: Path, error: Exception) -> UserError:
    return UserError(
        "the prepared text in {folder} cannot be read: {error}",
        hint="delete {folder}",
        folder=folder,
        error=describe_os_error(error),
    )


def _is_within(spans: TokenSpans, n_tokens: int) -> bool:
    """Whether every span is inside the corpus, with a token before it."""
    if not len(spans):
        return True
    lengths, prompts = spans.lengths.astype(np.int64), spans.prompt_tokens
    in_corpus = spans.starts.min() >= 1 and lengths.min() >= 1 and spans.ends.max() <= n_tokens
    return bool(in_corpus and prompts.min() >= 0 and (prompts <= lengths).all() and spans.sources.min() >= 0)


def _open_prepared(folder: Path, tokenizer: TextTokenizer) -> Corpus:
    corpus = open_corpus(folder)
    if corpus.manifest["tokenizer"] != tokenizer.fingerprint:
        raise UserError(
            "the text in {folder} was prepared with another tokenizer than the model's",
            hint="prepare it again: tunesmith prepare FILE --tokenizer MODEL --out DIR",
            folder=folder,
        )
    return corpus


def _write_split(
    folder: Path,
    tokenized_folder: Path,
    resolved: ResolvedSources,
    tokenizer: TextTokenizer,
    options: ReadingOptions,
    settings: dict[str, Any],
) -> None:
    """Deduplicate, split, and write both parts with a manifest."""
    try:
        tokenized = TokenizedSources.open(tokenized_folder)
        samples = tokenized.spans(resolved.argument_of_file)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _unreadable(tokenized_folder, error) from None
    columns, exact = tokenized.samples, tokenized.samples.duplicate_of
    check_enough_samples(columns.token_counts, settings["val_fraction"], resolved)
    is_counted = options.dedupe == "near" or len(samples) <= NEAR_DUPLICATES_COUNTED_SAMPLES
    near = tokenized.near_duplicate_of(samples) if is_counted else None
    kept: slice | npt.NDArray[np.bool_] = slice(None)
    duplicate_of = exact
    if options.dedupe != "none":
        repeats = exact if options.dedupe == "exact" or near is None else near
        kept = np.asarray(repeats == np.arange(len(repeats)))
        duplicate_of = np.arange(int(kept.sum()))
    split = train_val_split(samples[kept], duplicate_of, fraction=settings["val_fraction"], seed=settings["seed"])
    split.train.save(folder / "train")
    split.validation.save(folder / "validation")
    text_bytes = columns.text_bytes[kept]
    all_bytes, val_bytes = int(text_bytes.sum(dtype=np.int64)), _val_bytes(split, text_bytes, tokenized, tokenizer)
    n_exact = int((exact != np.arange(len(exact))).sum())
    reports = [
        {**report, "name": file.name} for report, file in zip(tokenized.info["sources"], resolved.files, strict=True)
    ]
    counts = ("empty_samples", "eot_markers", "replaced_bytes", "undecodable_samples")
    write_json(
        folder / MANIFEST,
        {
            **settings,
            "sources": reports,
            "skipped_files": list(resolved.skipped),
            "dtype": tokenized.info["dtype"],
            "weights": list(options.weights or [1.0] * resolved.n_arguments),
            "characters": tokenized.info["characters"],
            "stored_tokens": len(tokenized.tokens),
            "samples": len(text_bytes),
            "duplicate_samples": n_exact,
            "near_duplicate_samples": None if near is None else int((near != np.arange(len(near))).sum()) - n_exact,
            "near_duplicates_across_split": None if near is None else _count_across(split, near[kept]),
            "duplicates_left_out": len(exact) - len(text_bytes),
            "train_samples": len(split.train),
            "val_samples": len(split.validation),
            "val_method": split.method,
            "tokens": split.train.n_tokens + split.validation.n_tokens,
            "prompt_tokens": sum(
                int(part.prompt_tokens.sum(dtype=np.int64)) for part in (split.train, split.validation)
            ),
            "bytes": all_bytes,
            "train_bytes": all_bytes - val_bytes,
            "val_bytes": val_bytes,
            **{name: sum(report[name] for report in reports) for name in counts},
        },
    )


def _count_across(split: TrainValSplit, groups: Integers) -> int:
    """Number of validation samples that have a near duplicate in the training text."""
    if split.is_held_out is None:
        return 0
    return int(np.isin(groups[split.is_held_out], groups[~split.is_held_out]).sum())


def _val_bytes(
    split: TrainValSplit, text_bytes: Integers, tokenized: TokenizedSources, tokenizer: TextTokenizer
) -> int:
    """UTF-8 bytes of what is held out."""
    if split.is_held_out is not None:
        return int(text_bytes[split.is_held_out].sum(dtype=np.int64))
    total = 0
    for start, end in zip(split.validation.starts.tolist(), split.validation.ends.tolist(), strict=True):
        ids = tokenized.tokens[start : end - 1]
        if tokenizer.bytes_of_token is None:
            total += len(tokenizer.decode(ids.tolist()).encode())
            continue
        parts = np.split(ids, range(TOKENS_AT_A_TIME, len(ids), TOKENS_AT_A_TIME))
        total += sum(int(tokenizer.bytes_of_token[part].sum()) for part in parts)
    return total


@dataclass(frozen=True)
class TextSizes:
    """Sizes of what is predicted in each sample, without prompts and end-of-text.

    Attributes:
        text_bytes: int64 [samples], in UTF-8.
        characters: int64 [samples], Unicode code points.
    """

    text_bytes: Int64s
    characters: Int64s


def text_sizes(split: Split, tokenizer: TextTokenizer) -> TextSizes:
    """Measure every sample of a split in units that no tokenizer changes.

    Tokens of byte-level tokenizers are looked up; others are decoded, so their text is as the tokenizer normalized it.
    """
    spans = split.spans
    starts = spans.starts + spans.prompt_tokens.astype(np.int64)
    sizes = np.zeros((2, len(spans)), np.int64)
    for sample, (start, end) in enumerate(zip(starts.tolist(), (spans.ends - 1).tolist(), strict=True)):
        ids = split.tokens[start:end]
        if tokenizer.bytes_of_token is None or tokenizer.characters_of_token is None:
            text = tokenizer.decode(ids.tolist())
            sizes[:, sample] = len(text.encode()), len(text)
        else:
            sizes[:, sample] = tokenizer.bytes_of_token[ids].sum(), tokenizer.characters_of_token[ids].sum()
    return TextSizes(*sizes)
