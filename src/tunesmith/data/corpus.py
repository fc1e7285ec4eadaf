"""Samples as tokens on disk: memory-mapped, found again by content, and whole or not there at all.

A corpus folder holds

    manifest.json         what it was made from, what was decided and counted, dtype
    tokens.bin            one end-of-text token, then every sample followed by end-of-text, in file order
    offsets.npy           int64 [samples + 1]: where each sample begins in tokens.bin, and the end
    train.npy             int64 [stretches, 3]: what is learned: start and end in tokens.bin, and how many tokens at
                          the start are a prompt, which is given and not predicted
    validation.npy        int64 [stretches, 3]: what is kept apart

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
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
from platformdirs import user_cache_path

from tunesmith.data.fast_tokenizer import FastTokenizer
from tunesmith.data.holdout import MINIMUM_SAMPLES, Holdout, hold_out
from tunesmith.data.sample_writer import SampleColumns, SampleWriter
from tunesmith.data.source_files import FoundFiles, SourceFile, find_source_files
from tunesmith.data.sources import ReadingOptions, open_source
from tunesmith.data.tokenizer import TextTokenizer
from tunesmith.errors import UserError
from tunesmith.files import sync_folder, write_json

FORMAT = 3
CACHE_VARIABLE = "TUNESMITH_CACHE"
MANIFEST = "manifest.json"

Int64s = npt.NDArray[np.int64]
Tokens = npt.NDArray[np.uint16] | npt.NDArray[np.uint32]


@dataclass(frozen=True)
class Split:
    """Some samples of a corpus, or stretches of long ones.

    Attributes:
        tokens: the whole corpus's tokens, memory-mapped.
        starts: int64 [samples], index of each one's first token; at least 1.
        ends: int64 [samples], index behind each one's last token.
        prompt_tokens: int64 [samples], tokens at each one's start that are given and not predicted.
        text_bytes: UTF-8 bytes of what is predicted, in all.
    """

    tokens: Tokens
    starts: Int64s
    ends: Int64s
    prompt_tokens: Int64s
    text_bytes: int

    @property
    def n_samples(self) -> int:
        return len(self.starts)

    @property
    def n_tokens(self) -> int:
        """Every token of every sample and its end-of-text, prompts included."""
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
    sources: Sequence[str],
    tokenizer: TextTokenizer,
    options: ReadingOptions,
    *,
    val_fraction: float,
    seed: int,
    out: Path | None = None,
) -> Corpus:
    """Turn sources into a corpus, or open the one that was made from the same content before.

    Args:
        sources: files, folders and globs, or one prepared folder.
        tokenizer: the model's own.
        options: how to read them.
        val_fraction: share of the samples kept apart; 1 keeps all of them apart (for evaluation).
        seed: of the choice which ones.
        out: where to put the corpus; by default into the user's cache.

    Raises:
        UserError: for a source that cannot be read or holds too few samples.
    """
    if len(sources) == 1 and is_prepared(sources[0]):
        return _open_prepared(Path(sources[0]), tokenizer)
    found = find_source_files(sources)
    settings = {
        "format": FORMAT,
        "tokenizer": tokenizer.fingerprint,
        "options": asdict(options),
        "val_fraction": val_fraction,
        "seed": seed,
        "files": [{"name": file.name, "sha256": file.sha256} for file in found.files],
    }
    fingerprint = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    folder = out or _cache_folder() / fingerprint[:32]
    if not (folder / MANIFEST).is_file():
        _write_corpus(folder, found, tokenizer, options, {**settings, "fingerprint": fingerprint})
    return open_corpus(folder)


def is_prepared(source: str) -> bool:
    """Whether a SOURCE is a folder that `prepare` wrote."""
    return (Path(source) / MANIFEST).is_file() and (Path(source) / "tokens.bin").is_file()


def open_corpus(folder: Path) -> Corpus:
    """Memory-map a corpus folder after checking that its parts fit together.

    Raises:
        UserError: if they do not.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
        tokens: Tokens = np.memmap(folder / "tokens.bin", mode="r", dtype=np.dtype(manifest["dtype"]))
        ranges = [np.load(folder / f"{part}.npy", allow_pickle=False) for part in ("train", "validation")]
        train, validation = (
            Split(tokens, part[:, 0], part[:, 1], part[:, 2], manifest[f"{name}_bytes"])
            for name, part in zip(("train", "validation"), ranges, strict=True)
        )
        fits = len(tokens) == manifest["tokens"] + 1 == train.n_tokens + validation.n_tokens + 1
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(f"the prepared text in {folder} cannot be read: {error}", hint=f"delete {folder}") from None
    if not fits:
        raise UserError(f"the prepared text in {folder} is damaged", hint=f"delete {folder} and run again")
    return Corpus(folder, manifest, train, validation)


def _open_prepared(folder: Path, tokenizer: TextTokenizer) -> Corpus:
    corpus = open_corpus(folder)
    if corpus.manifest["tokenizer"] != tokenizer.fingerprint:
        raise UserError(
            f"the text in {folder} was prepared with another tokenizer than the model's",
            hint="prepare it again: tunesmith prepare FILE --tokenizer MODEL --out DIR",
        )
    return corpus


def _cache_folder() -> Path:
    configured = os.environ.get(CACHE_VARIABLE)
    return (Path(configured) if configured else user_cache_path("tunesmith")) / "corpora"


def _write_corpus(
    folder: Path, found: FoundFiles, tokenizer: TextTokenizer, options: ReadingOptions, settings: dict[str, Any]
) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    _sweep_leftovers(folder)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    temporary.mkdir()
    try:
        _fill_corpus(temporary, found, tokenizer, options, settings)
        sync_folder(temporary)
        if folder.exists():  # an empty --out, or another process was faster
            shutil.rmtree(folder)
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _sweep_leftovers(folder: Path) -> None:
    """Remove what a killed process left of this very corpus; a process that still writes is left alone."""
    for leftover in folder.parent.glob(f".{folder.name}.*.tmp"):
        process = leftover.name.split(".")[-2]
        if process.isdigit() and not psutil.pid_exists(int(process)):
            shutil.rmtree(leftover)


def _fill_corpus(
    folder: Path, found: FoundFiles, tokenizer: TextTokenizer, options: ReadingOptions, settings: dict[str, Any]
) -> None:
    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32)
    fast = FastTokenizer(tokenizer, text_bytes=sum(file.path.stat().st_size for file in found.files))
    writer = SampleWriter(tokenizer, fast, dtype)
    sources = []
    with (folder / "tokens.bin").open("wb") as file:
        file.write(np.array([tokenizer.end_of_text_id], dtype).tobytes())
        for source in found.files:
            report, texts = open_source(source, options, end_of_text=tokenizer.end_of_text)
            for some in texts:
                writer.write(file, some)
            sources.append(asdict(report))
        os.fsync(file.fileno())
    samples = writer.samples()
    _refuse_too_few(samples, settings["val_fraction"], found.files)
    held = hold_out(
        samples.token_counts,
        samples.prompt_counts,
        samples.hashes,
        fraction=settings["val_fraction"],
        seed=settings["seed"],
    )
    np.save(folder / "offsets.npy", np.concatenate([[1], 1 + np.cumsum(samples.token_counts)]))
    np.save(folder / "train.npy", held.train)
    np.save(folder / "validation.npy", held.validation)
    validation_bytes = _bytes_of(held, samples, folder / "tokens.bin", dtype, tokenizer)
    write_json(
        folder / MANIFEST,
        {
            **settings,
            "sources": sources,
            "skipped_files": list(found.skipped),
            "tokenizer_path": fast.path,
            "tokenizer_reason": fast.reason,
            "dtype": dtype.name,
            "samples": len(samples.token_counts),
            "duplicate_samples": len(samples.hashes) - held.distinct_samples,
            "train_samples": len(held.train),
            "validation_samples": len(held.validation),
            "validation_by": held.method,
            "tokens": int(samples.token_counts.sum()),
            "prompt_tokens": int(samples.prompt_counts.sum()),
            "bytes": int(samples.text_bytes.sum()),
            "characters": samples.characters,
            "train_bytes": int(samples.text_bytes.sum()) - validation_bytes,
            "validation_bytes": validation_bytes,
            **{
                name: sum(source[name] for source in sources)
                for name in ("empty", "markers", "replaced_bytes", "skipped_samples")
            },
        },
    )


def _refuse_too_few(samples: SampleColumns, val_fraction: float, files: Sequence[SourceFile]) -> None:
    needed = 1 if val_fraction in {0, 1} else MINIMUM_SAMPLES
    n_samples = len(samples.token_counts)
    long_enough = n_samples and samples.token_counts.sum() >= Holdout.SHORTEST_CUT_TOKENS
    if n_samples < needed and not (n_samples and long_enough and needed > 1):
        names = ", ".join(str(file.path) for file in files[:3])
        raise UserError(
            f"{names} holds {n_samples} samples with text, and {needed} are needed",
            hint="one sample a line: put each text on a line of its own, or set --split-on",
        )


def _bytes_of(
    held: Holdout, samples: SampleColumns, tokens_path: Path, dtype: np.dtype[Any], tokenizer: TextTokenizer
) -> int:
    """UTF-8 bytes of what is kept apart."""
    if held.samples is not None:
        return int(samples.text_bytes[held.samples].sum())
    tokens = np.memmap(tokens_path, mode="r", dtype=dtype)
    texts = (tokenizer.decode(tokens[start : end - 1].tolist()) for start, end, _ in held.validation.tolist())
    return sum(len(text.encode()) for text in texts)
