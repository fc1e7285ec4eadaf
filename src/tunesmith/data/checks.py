"""Checks of a text before training: lengths, duplicates, fit of the tokenizer; each warning says what to do."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from tunesmith.data.corpus import Corpus
from tunesmith.data.tokenizer import TextTokenizer
from tunesmith.i18n import say

FEW_TOKENS = 20_000
POOR_FIT_TOKENS_PER_CHARACTER = 0.8
"""English on GPT-2 takes about 0.25; Japanese on English GPT-2 takes 1 to 2."""
MANY_DUPLICATES_FRACTION = 0.05
FEW_VAL_SAMPLES = 20
BLOCKS_LOOKED_AT = 64
BLOCK_TOKENS = 32_768


@dataclass(frozen=True)
class LengthBin:
    """Samples of at least `from_tokens` and fewer than `to_tokens` tokens."""

    from_tokens: int
    to_tokens: int
    samples: int


def length_histogram(token_counts: np.ndarray) -> list[LengthBin]:
    """Count samples by length, in bins that double; empty bins at both ends are left out."""
    top = int(token_counts.max()).bit_length()
    bottom = int(token_counts.min()).bit_length() - 1
    borders = [1 << power for power in range(bottom, top + 1)]
    at_least = [int(np.count_nonzero(token_counts >= border)) for border in borders[:-1]] + [0]
    counts = [more - fewer for more, fewer in pairwise(at_least)]
    return [LengthBin(low, high, n) for (low, high), n in zip(pairwise(borders), counts, strict=True)]


def new_to_tokenizer_share(corpus: Corpus, tokenizer: TextTokenizer) -> float:
    """Return the fraction of tokens that are not whole characters: parts of characters, or the unknown token.

    Measured on evenly spread blocks of a large corpus, so that not all of it is loaded.
    """
    tokens = corpus.train.tokens
    blocks: list[npt.NDArray[Any]] = [tokens]
    if len(tokens) > BLOCKS_LOOKED_AT * BLOCK_TOKENS:
        starts = np.linspace(0, len(tokens) - BLOCK_TOKENS, BLOCKS_LOOKED_AT).astype(np.int64).tolist()
        blocks = [tokens[start : start + BLOCK_TOKENS] for start in starts]
    counts = np.bincount(np.concatenate(blocks))
    seen = np.flatnonzero(counts).tolist()
    is_new = [tokenizer.is_fragment(token_id) for token_id in seen]
    return float(counts[seen][is_new].sum() / counts.sum())


def data_warnings(corpus: Corpus, tokenizer: TextTokenizer) -> list[str]:
    """Return what may spoil the result, most serious first."""
    manifest = corpus.manifest
    warnings = []
    fit = manifest["tokens"] / max(manifest["characters"], 1)
    if fit > POOR_FIT_TOKENS_PER_CHARACTER and manifest["tokens"] > manifest["samples"] * 4:
        warnings.append(
            say(
                "the tokenizer needs {fit:.2f} tokens for a character: it was not made for this language or script; "
                "use a base model made for it (for Japanese: rinna/japanese-gpt2-medium)",
                fit=fit,
            )
        )
    if "\n" not in tokenizer.decode(tokenizer.encode(["a\nb"])[0]):
        warnings.append(
            say(
                "the tokenizer has no line breaks: they become blanks; "
                "put a marker in their place if they matter (<br>, for example)"
            )
        )
    if manifest["tokens"] < FEW_TOKENS:
        warnings.append(
            say(
                "only {tokens:,} tokens: the model picks up the style, but soon memorizes the text; "
                "watch the validation perplexity",
                tokens=manifest["tokens"],
            )
        )
    n_copies = manifest["duplicate_samples"]
    if not manifest["duplicates_left_out"] and n_copies > MANY_DUPLICATES_FRACTION * manifest["samples"]:
        warnings.append(
            say(
                "duplicates of other samples: {n_copies:,}; they are trained on more often; "
                "--dedupe exact leaves them out",
                n_copies=n_copies,
            )
        )
    if manifest["near_duplicates_across_split"]:
        warnings.append(
            say(
                "validation samples with a near duplicate in the training text: {n_samples:,}; the perplexity is too "
                "low; --dedupe near leaves such duplicates out",
                n_samples=manifest["near_duplicates_across_split"],
            )
        )
    if manifest["val_method"] == "whole-samples" and manifest["val_samples"] < FEW_VAL_SAMPLES:
        warnings.append(
            say(
                "few validation samples ({n_samples}): their perplexity is a rough estimate; raise --val-fraction",
                n_samples=manifest["val_samples"],
            )
        )
    if manifest["replaced_bytes"] or manifest["undecodable_samples"]:
        warnings.append(
            say(
                "some bytes did not decode: {n_bytes:,} were replaced; samples left out because of such bytes: "
                "{n_samples:,}",
                n_bytes=manifest["replaced_bytes"],
                n_samples=manifest["undecodable_samples"],
            )
        )
    return warnings
