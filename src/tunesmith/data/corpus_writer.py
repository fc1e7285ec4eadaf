"""Writing a corpus folder: to a temporary name, synced, renamed; whole or not there at all."""

import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tunesmith.data.duplicates import first_equal, first_similar
from tunesmith.data.fast_tokenizer import FastTokenizer
from tunesmith.data.holdout import MINIMUM_SAMPLES, SHORTEST_CUT_TOKENS, Holdout, hold_out
from tunesmith.data.read_ahead import read_ahead
from tunesmith.data.sample_writer import SampleColumns, SampleWriter, measure
from tunesmith.data.samples import without_parts
from tunesmith.data.source_files import FoundSources
from tunesmith.data.sources import ReadingOptions, SourceReport, open_source
from tunesmith.data.stretches import Integers, Stretches, smallest
from tunesmith.data.tokenizer import TextTokenizer
from tunesmith.errors import UserError
from tunesmith.utils.files import naming, new_folder, write_json

FORMAT = 5
MANIFEST = "manifest.json"
TOKENS = "tokens.bin"
NEAR_DUPLICATES_COUNTED_SAMPLES = 50_000
"""Up to here near duplicates are counted without being asked for: it takes a fraction of a second."""
TOKENS_AT_A_TIME = 1 << 20


def write_corpus(
    folder: Path, found: FoundSources, tokenizer: TextTokenizer, options: ReadingOptions, settings: dict[str, Any]
) -> None:
    """Read, tokenise and write all sources.

    Raises:
        UserError: for a source that cannot be read, or too few samples; nothing is left behind then.
        FileExistsError: if the folder came into being meanwhile.
    """
    with new_folder(folder) as temporary:
        dtype = smallest_dtype(tokenizer)
        fast = FastTokenizer(tokenizer, text_bytes=sum(file.stored_bytes for file in found.files))
        writer = SampleWriter(fast, tokenizer.end_of_text_id, dtype)
        reports = _write_tokens(temporary / TOKENS, found, tokenizer, options, writer, dtype)
        firsts = first_equal(writer.hashes())
        columns = writer.samples()
        _refuse_too_few(columns, settings["val_fraction"], found)
        write_json(
            temporary / MANIFEST,
            {
                **settings,
                "sources": [asdict(report) for report in reports],
                "skipped_files": list(found.skipped),
                "tokenizer_path": fast.path,
                "tokenizer_reason": asdict(fast.reason),
                "dtype": dtype.name,
                "weights": list(options.weights or [1.0] * found.n_arguments),
                "characters": writer.characters,
                **_divide(
                    temporary, columns, _stretches(columns, found, reports), firsts, tokenizer, settings, options
                ),
                **{
                    name: sum(getattr(report, name) for report in reports)
                    for name in ("empty", "markers", "replaced_bytes", "skipped_samples")
                },
            },
        )


def _divide(
    folder: Path,
    columns: SampleColumns,
    samples: Stretches,
    firsts: Integers,
    tokenizer: TextTokenizer,
    settings: dict[str, Any],
    options: ReadingOptions,
) -> dict[str, Any]:
    """Find duplicates, keep validation apart, write both parts; the counts of it."""
    tokens = np.memmap(folder / TOKENS, mode="r", dtype=smallest_dtype(tokenizer))
    nearly = _nearly_equal(tokens, samples, options)
    kept = _kept(firsts, nearly, options)
    held = hold_out(samples[kept], _renumbered(firsts, kept), fraction=settings["val_fraction"], seed=settings["seed"])
    held.train.save(folder / "train")
    held.validation.save(folder / "validation")
    text_bytes = columns.text_bytes[kept]
    validation_bytes = _validation_bytes(held, text_bytes, tokens, tokenizer)
    all_bytes = int(text_bytes.sum(dtype=np.int64))
    n_exact = int((firsts != np.arange(len(firsts))).sum())
    n_nearly = None if nearly is None else int((nearly != np.arange(len(nearly))).sum()) - n_exact
    return {
        "stored_tokens": len(tokens),
        "samples": len(text_bytes),
        "duplicate_samples": n_exact,
        "near_duplicate_samples": n_nearly,
        "near_duplicates_across": None if nearly is None else _across(held, nearly[kept]),
        "duplicates_left_out": len(firsts) - len(text_bytes),
        "train_samples": len(held.train),
        "validation_samples": len(held.validation),
        "validation_by": held.method,
        "tokens": held.train.n_tokens + held.validation.n_tokens,
        "prompt_tokens": sum(int(p.prompt_tokens.sum(dtype=np.int64)) for p in (held.train, held.validation)),
        "bytes": all_bytes,
        "train_bytes": all_bytes - validation_bytes,
        "validation_bytes": validation_bytes,
    }


def smallest_dtype(tokenizer: TextTokenizer) -> np.dtype[Any]:
    """The type that a tokenizer's ids are stored in."""
    return np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32)


def _write_tokens(
    path: Path,
    found: FoundSources,
    tokenizer: TextTokenizer,
    options: ReadingOptions,
    writer: SampleWriter,
    dtype: np.dtype[Any],
) -> list[SourceReport]:
    reports = []
    with path.open("wb") as file:
        file.write(np.array([tokenizer.end_of_text_id], dtype).tobytes())
        for source in found.files:
            report, lists = open_source(source, options, end_of_text=tokenizer.end_of_text)
            if not tokenizer.may_be_cut:
                lists = without_parts(lists)
            with closing(read_ahead(map(measure, lists))) as measured_lists:
                for some in measured_lists:
                    with naming(path):
                        writer.write(file, some)
            reports.append(report)
        with naming(path):
            file.flush()
            os.fsync(file.fileno())
    return reports


def _refuse_too_few(columns: SampleColumns, val_fraction: float, found: FoundSources) -> None:
    needed = 1 if val_fraction in {0, 1} else MINIMUM_SAMPLES
    n_samples = len(columns.token_counts)
    long_enough = n_samples and columns.token_counts.sum(dtype=np.int64) >= SHORTEST_CUT_TOKENS
    if n_samples < needed and not (n_samples and long_enough and needed > 1):
        names = ", ".join(str(file.path) for file in found.files[:3])
        raise UserError(
            "{names} holds {n_samples} samples with text, and {needed} are needed",
            hint="one sample a line: put each text on a line of its own, or set --split-on",
            names=names,
            n_samples=n_samples,
            needed=needed,
        )


def _stretches(columns: SampleColumns, found: FoundSources, reports: Sequence[SourceReport]) -> Stretches:
    starts = np.cumsum(columns.token_counts, dtype=np.int64)
    starts -= columns.token_counts
    starts += 1
    of_file = np.array(found.argument_of_file, np.uint32)
    sources = np.repeat(smallest(of_file), [report.samples for report in reports])
    return Stretches(starts, columns.token_counts, columns.prompt_counts, sources)


def _nearly_equal(tokens: npt.NDArray[Any], samples: Stretches, options: ReadingOptions) -> Integers | None:
    """For each sample the first similar one; None where there are too many to look without being asked."""
    if options.dedupe != "near" and len(samples) > NEAR_DUPLICATES_COUNTED_SAMPLES:
        return None
    return first_similar(tokens, samples)


def _kept(firsts: Integers, nearly: Integers | None, options: ReadingOptions) -> slice | npt.NDArray[np.bool_]:
    """Which samples stay: all of them, or those that repeat no earlier one."""
    if options.dedupe == "none":
        return slice(None)
    repeats = firsts if options.dedupe == "exact" or nearly is None else nearly
    return np.asarray(repeats == np.arange(len(firsts)))


def _renumbered(firsts: Integers, kept: slice | npt.NDArray[np.bool_]) -> Integers:
    """Where repetitions were left out, every sample is its own first."""
    return firsts if isinstance(kept, slice) else np.arange(int(kept.sum()))


def _across(held: Holdout, groups: Integers) -> int:
    """How many validation samples have a near duplicate that is trained on."""
    if held.chosen is None:
        return 0
    return int(np.isin(groups[held.chosen], groups[~held.chosen]).sum())


def _validation_bytes(held: Holdout, text_bytes: Integers, tokens: npt.NDArray[Any], tokenizer: TextTokenizer) -> int:
    """UTF-8 bytes of what is kept apart."""
    if held.chosen is not None:
        return int(text_bytes[held.chosen].sum(dtype=np.int64))
    total = 0
    for start, end in zip(held.validation.starts.tolist(), held.validation.ends.tolist(), strict=True):
        ids = tokens[start : end - 1]
        if tokenizer.bytes_of_token is None:
            total += len(tokenizer.decode(ids.tolist()).encode())
            continue
        parts = np.split(ids, range(TOKENS_AT_A_TIME, len(ids), TOKENS_AT_A_TIME))
        total += sum(int(tokenizer.bytes_of_token[part].sum()) for part in parts)
    return total
