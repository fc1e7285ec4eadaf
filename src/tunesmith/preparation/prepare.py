"""The verb `prepare`: text in, training tokens and a report out. Needs no torch."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.config import PrepareConfig
from tunesmith.data.corpus import Corpus, prepare_corpus
from tunesmith.data.source_files import FoundSources, found_sources
from tunesmith.data.sources import reading_options
from tunesmith.data.tokenizer import TextTokenizer, load_tokenizer
from tunesmith.data.windows import count_windows, windows_of
from tunesmith.errors import UserError
from tunesmith.model.config_file import read_hf_config
from tunesmith.model.hub import local_folder
from tunesmith.preparation.lint import length_histogram, warnings_of

LONGEST_SHOWN = 3
SHOWN_CHARACTERS = 300
BORDER_LEFT, BORDER_RIGHT = "\u27e6", "\u27e7"


def prepare_text(config: PrepareConfig) -> dict[str, Any]:
    """Prepare text and report what was found; the keys carry their units.

    Raises:
        UserError: if text, tokenizer or folder cannot be used; nothing is written then.
    """
    if not 0 < config.val_fraction < 1:
        raise UserError(f"--val-fraction {config.val_fraction} is not between 0 and 1", hint="for example 0.1")
    out = Path(config.out) if config.out else None
    if out and (out.is_file() or (out.is_dir() and any(out.iterdir()))):
        raise UserError(f"--out {out} already holds something", hint="name a folder that does not exist yet")
    options = reading_options(config)
    with found_sources(config.sources) as found:  # before a tokenizer is fetched
        _refuse_prepared(found)
        folder = local_folder(config.tokenizer)
        hf_config = read_hf_config(folder)
        tokenizer = load_tokenizer(folder, hf_config)
        corpus = prepare_corpus(found, tokenizer, options, val_fraction=config.val_fraction, seed=config.seed, out=out)
    return _report(corpus, tokenizer, config, int(hf_config.get("n_positions", 1024)))


def _refuse_prepared(found: FoundSources) -> None:
    if found.prepared is not None:
        raise UserError(
            f"{found.prepared} is prepared already", hint=f"tunesmith train {found.prepared} --out my-model"
        )


def _report(corpus: Corpus, tokenizer: TextTokenizer, config: PrepareConfig, context_tokens: int) -> dict[str, Any]:
    manifest = corpus.manifest
    counts = corpus.sample_token_counts()
    return {
        "samples": manifest["samples"],
        "tokens": manifest["tokens"],
        "bytes": manifest["bytes"],
        "characters": manifest["characters"],
        "val_samples": manifest["validation_samples"],
        "val_by": manifest["validation_by"],
        "dropped": {
            "empty": manifest["empty"],
            "undecodable": manifest["skipped_samples"],
            "duplicates": manifest["duplicates_left_out"],
        },
        "replaced_bytes": manifest["replaced_bytes"],
        "end_of_text_markers": manifest["markers"],
        "prompt_tokens": manifest["prompt_tokens"],
        "duplicate_samples": manifest["duplicate_samples"],
        "near_duplicate_samples": manifest["near_duplicate_samples"],
        "near_duplicates_across": manifest["near_duplicates_across"],
        "weights": manifest["weights"],
        "tokens_per_character": manifest["tokens"] / manifest["characters"],
        "sources": manifest["sources"],
        "skipped_files": manifest["skipped_files"],
        "lengths": [asdict(part) for part in length_histogram(counts)],
        "longest": _longest(corpus, tokenizer),
        "windows": count_windows(corpus.train.stretches, context_tokens),
        "context_tokens": context_tokens,
        "warnings": warnings_of(corpus),
        "preview": _preview(corpus, tokenizer, config.preview, context_tokens),
        "tokenizer": config.tokenizer,
        "tokenizer_path": manifest["tokenizer_path"],
        "tokenizer_reason": manifest["tokenizer_reason"],
        "out": str(corpus.folder),
        "train_with": config.out or " ".join(config.sources),
    }


def _longest(corpus: Corpus, tokenizer: TextTokenizer) -> list[dict[str, Any]]:
    stretches = corpus.train.stretches
    n_shown = min(LONGEST_SHOWN, len(stretches))
    shortest_shown = np.partition(stretches.lengths, len(stretches) - n_shown)[len(stretches) - n_shown]
    candidates = np.flatnonzero(stretches.lengths >= shortest_shown)
    by_length = candidates[np.argsort(stretches.lengths[candidates], kind="stable")[::-1]]
    chosen = stretches[by_length[:n_shown]]
    return [
        {
            "tokens": length,
            "begins": tokenizer.decode(corpus.train.tokens[start : start + min(length - 1, 30)].tolist()),
        }
        for start, length in zip(chosen.starts.tolist(), chosen.lengths.tolist(), strict=True)
    ]


def _preview(corpus: Corpus, tokenizer: TextTokenizer, n_windows: int, context_tokens: int) -> list[str]:
    """The first windows as the model sees them; between the brackets stands what it must predict."""
    windows = windows_of(corpus.train.stretches[:n_windows], context_tokens)
    shown = []
    columns = (windows.starts, windows.lengths, windows.prompt_tokens)
    for start, length, prompt in zip(*(column[:n_windows].tolist() for column in columns), strict=True):
        ids = corpus.train.tokens[start - 1 : start + length].tolist()
        given, learned = ids[: 1 + prompt], ids[1 + prompt :]
        shown.append(f"{_shown(given, tokenizer)}{BORDER_LEFT}{_shown(learned, tokenizer)}{BORDER_RIGHT}")
    return shown


def _shown(ids: list[int], tokenizer: TextTokenizer) -> str:
    """Decoded, with visible end-of-text, cut in the middle if it is long."""
    at_start, at_end = (bool(ids) and ids[index] == tokenizer.end_of_text_id for index in (0, -1))
    inner = ids[at_start : len(ids) - at_end] if len(ids) > 1 else [] if at_start else ids
    text = tokenizer.decode(inner)
    if len(text) > SHOWN_CHARACTERS:
        text = f"{text[: SHOWN_CHARACTERS // 2]} ... {text[-SHOWN_CHARACTERS // 2 :]}"
    return f"{tokenizer.end_of_text * at_start}{text}{tokenizer.end_of_text * (at_end and len(ids) > 1)}"
