"""What a person should know of a text before it is learned: lengths, duplicates, fit of the tokenizer, warnings.

Works on a corpus alone; each warning comes with its evidence and what to do.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from tunesmith.data.corpus import Corpus
from tunesmith.data.tokenizer import TextTokenizer
from tunesmith.messages.catalogue import say

LITTLE_TEXT_TOKENS = 20_000
POOR_FIT_TOKENS_PER_CHARACTER = 0.8
"""English on GPT-2 takes about 0.25; Japanese on English GPT-2 takes 1 to 2."""
MANY_DUPLICATES_SHARE = 0.05
FEW_VALIDATION_SAMPLES = 20
LOOKED_AT_BLOCKS = 64
BLOCK_TOKENS = 32_768


@dataclass(frozen=True)
class LengthBin:
    """Samples of at least `from_tokens` and fewer than `to_tokens` tokens."""

    from_tokens: int
    to_tokens: int
    samples: int


def length_histogram(token_counts: np.ndarray) -> list[LengthBin]:
    """Samples by length, in bins that double; empty bins at both ends are left out."""
    top = int(token_counts.max()).bit_length()
    bottom = int(token_counts.min()).bit_length() - 1
    borders = [1 << power for power in range(bottom, top + 1)]
    at_least = [int(np.count_nonzero(token_counts >= border)) for border in borders[:-1]] + [0]
    counts = [more - fewer for more, fewer in pairwise(at_least)]
    return [LengthBin(low, high, n) for (low, high), n in zip(pairwise(borders), counts, strict=True)]


def new_to_tokenizer_share(corpus: Corpus, tokenizer: TextTokenizer) -> float:
    """Share of tokens that are no whole characters: parts of characters the vocabulary does not hold, or unknown.

    Measured on evenly spread blocks of a large corpus, so that not all of it is brought into memory.
    """
    tokens = corpus.train.tokens
    blocks: list[npt.NDArray[Any]] = [tokens]
    if len(tokens) > LOOKED_AT_BLOCKS * BLOCK_TOKENS:
        starts = np.linspace(0, len(tokens) - BLOCK_TOKENS, LOOKED_AT_BLOCKS).astype(np.int64).tolist()
        blocks = [tokens[start : start + BLOCK_TOKENS] for start in starts]
    counts = np.bincount(np.concatenate(blocks))
    seen = np.flatnonzero(counts).tolist()
    is_new = [tokenizer.is_fragment(token_id) for token_id in seen]
    return float(counts[seen][is_new].sum() / counts.sum())


def warnings_of(corpus: Corpus, tokenizer: TextTokenizer) -> list[str]:
    """What may spoil the result, most serious first."""
    manifest = corpus.manifest
    found = []
    fit = manifest["tokens"] / max(manifest["characters"], 1)
    if fit > POOR_FIT_TOKENS_PER_CHARACTER and manifest["tokens"] > manifest["samples"] * 4:
        found.append(
            say(
                "the tokenizer needs {fit:.2f} tokens for a character: it does not know this language or script; "
                "take a base model made for it (for Japanese: rinna/japanese-gpt2-medium)",
                fit=fit,
            )
        )
    if "\n" not in tokenizer.decode(tokenizer.encode(["a\nb"])[0]):
        found.append(
            say(
                "the tokenizer knows no line breaks: they become blanks; "
                "put a marker in their place if they matter (<br>, for example)"
            )
        )
    if manifest["tokens"] < LITTLE_TEXT_TOKENS:
        found.append(
            say(
                "{tokens:,} tokens are little: the model learns the style, and soon knows the text by heart; "
                "watch the validation perplexity",
                tokens=manifest["tokens"],
            )
        )
    n_copies = manifest["duplicate_samples"]
    if not manifest["duplicates_left_out"] and n_copies > MANY_DUPLICATES_SHARE * manifest["samples"]:
        found.append(
            say(
                "copies of other samples: {n_copies:,}; they are learned more often; --dedupe exact leaves them out",
                n_copies=n_copies,
            )
        )
    if manifest["near_duplicates_across"]:
        found.append(
            say(
                "samples kept apart that nearly equal one that is learned: {n_samples:,}; the perplexity flatters; "
                "--dedupe near leaves such repetitions out",
                n_samples=manifest["near_duplicates_across"],
            )
        )
    if manifest["validation_by"] == "whole-samples" and manifest["validation_samples"] < FEW_VALIDATION_SAMPLES:
        found.append(
            say(
                "few samples are kept apart ({n_samples}): their perplexity is a rough figure; raise --val-fraction",
                n_samples=manifest["validation_samples"],
            )
        )
    if manifest["replaced_bytes"] or manifest["skipped_samples"]:
        found.append(
            say(
                "some bytes did not decode: {n_bytes:,} were replaced; samples left out because of such bytes: "
                "{n_samples:,}",
                n_bytes=manifest["replaced_bytes"],
                n_samples=manifest["skipped_samples"],
            )
        )
    return found
