"""Samples as tokens on disk: memory-mapped, found again by content, and whole or not there at all.

A corpus folder holds

    manifest.json        what it was made from, counts, dtype
    tokens.bin           one end-of-text token, then every sample followed by end-of-text, in file order
    offsets.npy          int64 [samples + 1]: where each sample begins in tokens.bin, and the end
    sample_bytes.npy     int64 [samples]: UTF-8 bytes of each sample's text
    validation.npy       int64: which samples are kept apart for validation, ascending

Because every sample is preceded by an end-of-text (that of its predecessor, or the very first token), the
window of targets tokens[a:b] has the inputs tokens[a-1:b-1] wherever it lies: each token of a sample, the
first one and its end-of-text included, is predicted exactly once.

Corpora are kept in the user's cache folder under a name made from the content of the sources, the settings and
the tokenizer, so nothing is tokenised twice and a changed file is noticed.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from platformdirs import user_cache_path

from tunesmith.data.sources import Sample, read_samples, source_path
from tunesmith.data.tokenizer import TextTokenizer
from tunesmith.errors import UserError
from tunesmith.files import sync_folder, write_json

FORMAT = 1
SAMPLES_A_TIME = 4096
CACHE_VARIABLE = "TUNESMITH_CACHE"

Int64s = npt.NDArray[np.int64]
Tokens = npt.NDArray[np.uint16] | npt.NDArray[np.uint32]


@dataclass(frozen=True)
class Split:
    """Some samples of a corpus.

    Attributes:
        tokens: the whole corpus's tokens, memory-mapped.
        starts: int64 [samples], index of each sample's first token; at least 1.
        ends: int64 [samples], index behind each sample's end-of-text.
        text_bytes: UTF-8 bytes of the samples' texts, in all.
    """

    tokens: Tokens
    starts: Int64s
    ends: Int64s
    text_bytes: int

    @property
    def n_samples(self) -> int:
        return len(self.starts)

    @property
    def n_tokens(self) -> int:
        """Tokens to predict: every token of every sample and its end-of-text."""
        return int((self.ends - self.starts).sum())


@dataclass(frozen=True)
class Corpus:
    """A corpus folder, opened."""

    folder: Path
    manifest: dict[str, Any]
    train: Split
    validation: Split

    @property
    def fingerprint(self) -> str:
        """Names the content: equal for equal sources, settings and tokenizer."""
        return str(self.manifest["fingerprint"])


def prepare_corpus(
    sources: Iterable[str], tokenizer: TextTokenizer, *, text_field: str, val_fraction: float, seed: int
) -> Corpus:
    """Turn sources into a corpus, or open the one that was made from the same content before.

    Args:
        sources: files to read, in this order.
        tokenizer: the model's own.
        text_field: column of a table that holds the samples.
        val_fraction: share of the samples kept apart; 1 keeps all of them apart (for evaluation).
        seed: of the choice which ones.

    Raises:
        UserError: for a source that cannot be read or holds too few samples.
    """
    paths = [source_path(source) for source in sources]
    if not paths:
        raise UserError("no source was named", hint="name at least one text file")
    settings = {
        "format": FORMAT,
        "tokenizer": tokenizer.fingerprint,
        "text_field": text_field,
        "val_fraction": val_fraction,
        "seed": seed,
        "sources": [{"name": path.name, "sha256": _sha256(path)} for path in paths],
    }
    fingerprint = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    folder = _cache_folder() / fingerprint[:32]
    if not (folder / "manifest.json").is_file():
        _write_corpus(folder, paths, tokenizer, {**settings, "fingerprint": fingerprint})
    return open_corpus(folder)


def open_corpus(folder: Path) -> Corpus:
    """Memory-map a corpus folder after checking that its parts fit together.

    Raises:
        UserError: if they do not.
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
        tokens: Tokens = np.memmap(folder / "tokens.bin", mode="r", dtype=np.dtype(manifest["dtype"]))
        offsets, sample_bytes, validation = (
            np.load(folder / name, allow_pickle=False) for name in ("offsets.npy", "sample_bytes.npy", "validation.npy")
        )
        fits = offsets[-1] == len(tokens) == manifest["tokens"] + 1 and len(sample_bytes) == len(offsets) - 1
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(f"the prepared text in {folder} cannot be read: {error}", hint=f"delete {folder}") from None
    if not fits:
        raise UserError(f"the prepared text in {folder} is damaged", hint=f"delete {folder} and run again")
    kept_apart = np.zeros(len(sample_bytes), dtype=bool)
    kept_apart[validation] = True
    train, held_out = (
        Split(tokens, offsets[:-1][chosen], offsets[1:][chosen], int(sample_bytes[chosen].sum()))
        for chosen in (~kept_apart, kept_apart)
    )
    return Corpus(folder, manifest, train, held_out)


def _cache_folder() -> Path:
    configured = os.environ.get(CACHE_VARIABLE)
    return (Path(configured) if configured else user_cache_path("tunesmith")) / "corpora"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_corpus(folder: Path, paths: list[Path], tokenizer: TextTokenizer, settings: dict[str, Any]) -> None:
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    temporary.mkdir(parents=True)
    try:
        _fill_corpus(temporary, paths, tokenizer, settings)
        sync_folder(temporary)
        if folder.exists():  # another process was faster, or left half a folder behind
            shutil.rmtree(folder)
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _fill_corpus(folder: Path, paths: list[Path], tokenizer: TextTokenizer, settings: dict[str, Any]) -> None:
    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32)
    token_counts: list[int] = []
    sample_bytes: list[int] = []
    sources: list[dict[str, Any]] = []
    with (folder / "tokens.bin").open("wb") as file:
        file.write(np.array([tokenizer.end_of_text_id], dtype).tobytes())
        for path, described in zip(paths, settings["sources"], strict=True):
            counts = {"samples": 0, "empty": 0}
            texts = _non_empty(read_samples(path, text_field=settings["text_field"]), tokenizer.end_of_text, counts)
            while some_texts := list(islice(texts, SAMPLES_A_TIME)):
                for text, ids in zip(some_texts, tokenizer.encode(some_texts), strict=True):
                    ids.append(tokenizer.end_of_text_id)
                    file.write(np.array(ids, dtype).tobytes())
                    token_counts.append(len(ids))
                    sample_bytes.append(len(text.encode("utf-8")))
            sources.append({**described, **counts})
    _refuse_too_few(token_counts, settings["val_fraction"], paths)
    validation = _validation_samples(len(token_counts), settings["val_fraction"], settings["seed"])
    np.save(folder / "offsets.npy", np.concatenate([[1], 1 + np.cumsum(token_counts, dtype=np.int64)]))
    np.save(folder / "sample_bytes.npy", np.array(sample_bytes, np.int64))
    np.save(folder / "validation.npy", validation)
    write_json(
        folder / "manifest.json",
        {
            **settings,
            "sources": sources,
            "dtype": dtype.name,
            "samples": len(token_counts),
            "validation_samples": len(validation),
            "empty_samples": sum(source["empty"] for source in sources),
            "tokens": sum(token_counts),
            "bytes": sum(sample_bytes),
        },
    )


def _non_empty(samples: Iterator[Sample], end_of_text: str, counts: dict[str, int]) -> Iterator[str]:
    """Texts between end-of-text markers, without the empty ones, counting both kinds."""
    for sample in samples:
        for text in sample.text.split(end_of_text):
            if text.strip():
                counts["samples"] += 1
                yield text
            else:
                counts["empty"] += 1


def _refuse_too_few(token_counts: list[int], val_fraction: float, paths: list[Path]) -> None:
    needed = 1 if val_fraction in {0, 1} else 2
    if len(token_counts) < needed:
        names = ", ".join(str(path) for path in paths)
        raise UserError(
            f"{names} holds {len(token_counts)} samples with text, and {needed} are needed",
            hint="one sample a line: put each text on a line of its own",
        )


def _validation_samples(n_samples: int, val_fraction: float, seed: int) -> Int64s:
    """At least one sample and never all of them, unless 0 or 1 was asked for."""
    if val_fraction in {0, 1}:
        return np.arange(n_samples if val_fraction else 0, dtype=np.int64)
    n_validation = min(max(round(n_samples * val_fraction), 1), n_samples - 1)
    chosen = np.random.default_rng(seed).permutation(n_samples)[:n_validation]
    return np.sort(chosen).astype(np.int64)
