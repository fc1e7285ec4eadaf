"""Samples as tokens on disk: memory-mapped, found again by content, and whole or not there at all.

A corpus folder holds

    manifest.json         what it was made from, what was decided and counted, dtype
    tokens.bin            one end-of-text token, then every sample followed by end-of-text, in file order
    train/*.npy           what is learned, as stretches of tokens.bin: starts, lengths, how many tokens at the start
                          are a prompt, which is given and not predicted, and from which SOURCE each comes
    validation/*.npy      what is kept apart, likewise

Because every sample is preceded by an end-of-text (that of its predecessor, or the very first token), the
window of targets tokens[a:b] has the inputs tokens[a-1:b-1] wherever it lies: each token of a sample, the
first one and its end-of-text included, is predicted exactly once.

Corpora are kept in the user's cache folder under a name made from the content of the sources, the settings and
the tokenizer, so nothing is tokenised twice and a changed file is noticed.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tunesmith.data.cache_folder import cache_folder
from tunesmith.data.corpus_writer import FORMAT, MANIFEST, TOKENS, write_corpus
from tunesmith.data.source_files import FoundSources
from tunesmith.data.sources import ReadingOptions
from tunesmith.data.stretches import Integers, Stretches
from tunesmith.data.tokenizer import TextTokenizer
from tunesmith.errors import UserError
from tunesmith.messages.system_errors import said_by_system
from tunesmith.utils.files import parse_json

CACHE_NAME_LETTERS = 32

Tokens = npt.NDArray[np.uint16] | npt.NDArray[np.uint32]


@dataclass(frozen=True)
class Split:
    """Some samples of a corpus, or parts of long ones.

    Attributes:
        tokens: the whole corpus's tokens, memory-mapped.
        stretches: which of them.
        text_bytes: UTF-8 bytes of what is predicted, in all.
        weights: for each SOURCE how often its samples are seen in an epoch.
    """

    tokens: Tokens
    stretches: Stretches
    text_bytes: int
    weights: tuple[float, ...] = (1.0,)

    @property
    def n_samples(self) -> int:
        return len(self.stretches)

    @property
    def n_tokens(self) -> int:
        """Every token of every sample and its end-of-text, prompts included."""
        return self.stretches.n_tokens


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

    def sample_token_counts(self) -> Integers:
        """Tokens of each sample, its end-of-text included, in no particular order."""
        learned, apart = self.train.stretches, self.validation.stretches
        if len(learned) == len(apart) and (learned.ends == apart.starts).all():  # documents that give their ends
            return learned.lengths.astype(np.int64) + apart.lengths
        return np.concatenate([learned.lengths, apart.lengths])


def prepare_corpus(
    found: FoundSources,
    tokenizer: TextTokenizer,
    options: ReadingOptions,
    *,
    val_fraction: float,
    seed: int,
    out: Path | None = None,
) -> Corpus:
    """Turn sources into a corpus, or open the one that was made from the same content before.

    Args:
        found: what the SOURCE arguments stand for.
        tokenizer: the model's own.
        options: how to read them.
        val_fraction: share of the samples kept apart; 1 keeps all of them apart (for evaluation).
        seed: of the choice which ones.
        out: where to put the corpus; by default into the user's cache.

    Raises:
        UserError: for a source that cannot be read or holds too few samples.
    """
    if found.prepared is not None:
        return _open_prepared(found.prepared, tokenizer)
    settings = {
        "format": FORMAT,
        "tokenizer": tokenizer.fingerprint,
        "options": asdict(options),
        "val_fraction": val_fraction,
        "seed": seed,
        "files": [{"name": file.name, "sha256": file.sha256} for file in found.files],
        "source_of_file": list(found.argument_of_file),
    }
    fingerprint = hashlib.sha256(json.dumps(settings, sort_keys=True, allow_nan=False).encode()).hexdigest()
    folder = out or _cached(fingerprint)
    if not (folder / MANIFEST).is_file():
        try:
            write_corpus(folder, found, tokenizer, options, {**settings, "fingerprint": fingerprint})
        except FileExistsError:
            if out is not None:
                raise UserError("--out {out} was taken meanwhile", hint="name another folder", out=out) from None
            # else another process made the same corpus and was faster
    return open_corpus(folder)


def cached_corpus(fingerprint: str) -> Corpus | None:
    """The corpus of this fingerprint if the cache still holds it: for text that cannot be read a second time."""
    folder = _cached(fingerprint)
    return open_corpus(folder) if (folder / MANIFEST).is_file() else None


def open_corpus(folder: Path) -> Corpus:
    """Memory-map a corpus folder after checking that its parts fit together.

    Raises:
        UserError: if they do not.
    """
    try:
        manifest = parse_json((folder / MANIFEST).read_text("utf-8"))
        tokens: Tokens = np.memmap(folder / TOKENS, mode="r", dtype=np.dtype(manifest["dtype"]))
        weights = tuple(map(float, manifest["weights"]))
        train, validation = (
            Split(tokens, Stretches.open(folder / name), manifest[f"{name}_bytes"], weights)
            for name in ("train", "validation")
        )
        fits = (
            len(tokens) == manifest["stored_tokens"]
            and manifest["tokens"] == train.n_tokens + validation.n_tokens
            and all(_lies_within(part.stretches, len(tokens)) for part in (train, validation))
            and isinstance(manifest["fingerprint"], str)
            and isinstance(manifest["tokenizer"], str)
        )
    except (OSError, ValueError, KeyError, TypeError, IndexError, OverflowError) as error:
        raise UserError(
            "the prepared text in {folder} cannot be read: {error}",
            hint="delete {folder}",
            folder=folder,
            error=said_by_system(error),
        ) from None
    if not fits:
        raise UserError("the prepared text in {folder} is damaged", hint="delete {folder} and run again", folder=folder)
    return Corpus(folder, manifest, train, validation)


def _lies_within(stretches: Stretches, n_tokens: int) -> bool:
    """Whether every stretch is inside the corpus, with a token before it."""
    if not len(stretches):
        return True
    lengths, prompts = stretches.lengths.astype(np.int64), stretches.prompt_tokens
    in_corpus = stretches.starts.min() >= 1 and lengths.min() >= 1 and stretches.ends.max() <= n_tokens
    return bool(in_corpus and prompts.min() >= 0 and (prompts <= lengths).all() and stretches.sources.min() >= 0)


def _open_prepared(folder: Path, tokenizer: TextTokenizer) -> Corpus:
    corpus = open_corpus(folder)
    if corpus.manifest["tokenizer"] != tokenizer.fingerprint:
        raise UserError(
            "the text in {folder} was prepared with another tokenizer than the model's",
            hint="prepare it again: tunesmith prepare FILE --tokenizer MODEL --out DIR",
            folder=folder,
        )
    return corpus


def _cached(fingerprint: str) -> Path:
    return cache_folder() / "corpora" / fingerprint[:CACHE_NAME_LETTERS]
