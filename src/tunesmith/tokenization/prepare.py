"""`prepare`: tokenize text and report on it. Needs no torch."""

import shlex
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.config import PrepareConfig, ReadingConfig, TrainConfig
from tunesmith.data.checks import data_warnings, length_histogram, new_to_tokenizer_share
from tunesmith.data.corpus import Corpus, prepare_corpus
from tunesmith.data.packing import count_windows, epoch_tokens, resolve_tokens_per_step, steps_per_epoch, windows_of
from tunesmith.data.readers import reading_options
from tunesmith.data.source_files import STDIN_NAMES, resolve_sources
from tunesmith.data.tokenizer import TextTokenizer, load_tokenizer
from tunesmith.errors import UserError
from tunesmith.i18n import LazyString
from tunesmith.model.hf_config import read_config_of_tokenizer
from tunesmith.model.hub import local_folder
from tunesmith.tokenization.train_tokenizer import check_out_folder

LONGEST_SHOWN = 3
SHOWN_CHARACTERS = 300
BORDER_LEFT, BORDER_RIGHT = "\u27e6", "\u27e7"


def prepare_text(config: PrepareConfig) -> dict[str, Any]:
    """Tokenize text and report on it; the keys carry their units.

    Raises:
        UserError: if text, tokenizer or folder cannot be used; nothing is written then.
    """
    if not 0 < config.val_fraction < 1:
        raise UserError(
            "--val-fraction {val_fraction} is not between 0 and 1",
            hint="for example 0.1",
            val_fraction=config.val_fraction,
        )
    out = Path(config.out) if config.out else None
    if out:
        check_out_folder(out)
    options = reading_options(config)
    with resolve_sources(config.sources) as resolved:  # before a tokenizer is fetched
        if resolved.prepared is not None:
            raise UserError(
                "{prepared} is prepared already",
                hint="tunesmith train {prepared} --out my-model",
                prepared=resolved.prepared,
            )
        folder = local_folder(config.tokenizer)
        hf_config = read_config_of_tokenizer(folder)
        tokenizer = load_tokenizer(folder, hf_config)
        corpus = prepare_corpus(
            resolved, tokenizer, options, val_fraction=config.val_fraction, seed=config.seed, out=out
        )
    context_length = int(hf_config.get("n_positions", 1024))
    return _report(corpus, tokenizer, config, context_length, has_model=bool(hf_config))


def _report(
    corpus: Corpus, tokenizer: TextTokenizer, config: PrepareConfig, context_length: int, *, has_model: bool
) -> dict[str, Any]:
    manifest = corpus.manifest
    counts = corpus.sample_token_counts()
    return {
        "samples": manifest["samples"],
        "tokens": manifest["tokens"],
        "bytes": manifest["bytes"],
        "characters": manifest["characters"],
        "val_samples": manifest["val_samples"],
        "val_method": manifest["val_method"],
        "dropped": {
            "empty": manifest["empty_samples"],
            "undecodable": manifest["undecodable_samples"],
            "duplicates": manifest["duplicates_left_out"],
        },
        "replaced_bytes": manifest["replaced_bytes"],
        "eot_markers": manifest["eot_markers"],
        "prompt_tokens": manifest["prompt_tokens"],
        "duplicate_samples": manifest["duplicate_samples"],
        "near_duplicate_samples": manifest["near_duplicate_samples"],
        "near_duplicates_across_split": manifest["near_duplicates_across_split"],
        "weights": manifest["weights"],
        "tokens_per_character": manifest["tokens"] / manifest["characters"],
        "new_to_tokenizer_share": new_to_tokenizer_share(corpus, tokenizer),
        "sources": [
            {**source, **{key: str(LazyString.kept(source[key])) for key in ("reason", "encoding_reason")}}
            for source in manifest["sources"]
        ],
        "skipped_files": manifest["skipped_files"],
        "length_histogram": [asdict(part) for part in length_histogram(counts)],
        "longest": _longest(corpus, tokenizer),
        "context_length": context_length,
        **_updates(corpus, context_length),
        "warnings": data_warnings(corpus, tokenizer),
        "preview": _preview(corpus, tokenizer, config.preview, context_length),
        "tokenizer": config.tokenizer,
        "train_model": config.tokenizer if has_model else None,
        "out": str(corpus.folder),
        "train_with": config.out or _train_arguments(config, corpus),
    }


def _updates(corpus: Corpus, context_length: int) -> dict[str, Any]:
    """What `train` will do at its defaults."""
    epochs = TrainConfig.epochs
    spans = corpus.train.spans
    tokens = epoch_tokens(spans.lengths, spans.sources, corpus.train.weights)
    n_windows = max(round(count_windows(spans, context_length) * tokens / spans.n_tokens), 1)
    tokens_per_step = resolve_tokens_per_step(tokens, epochs).value
    updates = steps_per_epoch(tokens, n_windows, tokens_per_step)
    return {"windows": n_windows, "updates_per_epoch": updates, "tokens_per_step": tokens_per_step}


def _train_arguments(config: PrepareConfig, corpus: Corpus) -> str:
    """Arguments of `train` for this text: the sources with their flags, or the tokens if a pipe was read."""
    if set(config.sources) & set(STDIN_NAMES):
        return shlex.quote(str(corpus.folder))
    words = list(config.sources)
    for flag in fields(ReadingConfig):
        value = getattr(config, flag.name)
        if flag.name != "sources" and value != flag.default:
            words += [f"--{flag.name.replace('_', '-')}", *map(str, value if isinstance(value, tuple) else [value])]
    return shlex.join(words)


def _longest(corpus: Corpus, tokenizer: TextTokenizer) -> list[dict[str, Any]]:
    spans = corpus.train.spans
    n_shown = min(LONGEST_SHOWN, len(spans))
    shortest_shown = np.partition(spans.lengths, len(spans) - n_shown)[len(spans) - n_shown]
    candidates = np.flatnonzero(spans.lengths >= shortest_shown)
    by_length = candidates[np.argsort(spans.lengths[candidates], kind="stable")[::-1]]
    chosen = spans[by_length[:n_shown]]
    return [
        {
            "tokens": length,
            "begins": tokenizer.decode(corpus.train.tokens[start : start + min(length - 1, 30)].tolist()),
        }
        for start, length in zip(chosen.starts.tolist(), chosen.lengths.tolist(), strict=True)
    ]


def _preview(corpus: Corpus, tokenizer: TextTokenizer, n_windows: int, context_length: int) -> list[str]:
    """The first windows as the model reads them; targets are between the brackets."""
    windows = windows_of(corpus.train.spans[:n_windows], context_length)
    shown = []
    columns = (windows.starts, windows.lengths, windows.prompt_tokens)
    for start, length, prompt in zip(*(column[:n_windows].tolist() for column in columns), strict=True):
        ids = corpus.train.tokens[start - 1 : start + length].tolist()
        given, predicted = ids[: 1 + prompt], ids[1 + prompt :]
        shown.append(f"{_shown(given, tokenizer)}{BORDER_LEFT}{_shown(predicted, tokenizer)}{BORDER_RIGHT}")
    return shown


def _shown(ids: list[int], tokenizer: TextTokenizer) -> str:
    """Decode with visible end-of-text, cut in the middle if it is long."""
    at_start, at_end = (bool(ids) and ids[index] == tokenizer.end_of_text_id for index in (0, -1))
    inner = ids[at_start : len(ids) - at_end] if len(ids) > 1 else [] if at_start else ids
    text = tokenizer.decode(inner)
    if len(text) > SHOWN_CHARACTERS:
        text = f"{text[: SHOWN_CHARACTERS // 2]} ... {text[-SHOWN_CHARACTERS // 2 :]}"
    return f"{tokenizer.end_of_text * at_start}{text}{tokenizer.end_of_text * (at_end and len(ids) > 1)}"
