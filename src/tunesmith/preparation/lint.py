"""What a person should know of a text before it is learned: lengths, duplicates, fit of the tokenizer, warnings.

Works on a corpus alone; each warning comes with its evidence and what to do.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from tunesmith.data.corpus import Corpus

LITTLE_TEXT_TOKENS = 20_000
POOR_FIT_TOKENS_PER_CHARACTER = 0.8
"""English on GPT-2 takes about 0.25; Japanese on English GPT-2 takes 1 to 2."""
MANY_DUPLICATES_SHARE = 0.05
FEW_VALIDATION_SAMPLES = 20


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
    counts = np.bincount(np.searchsorted(borders, token_counts, side="right"), minlength=len(borders))[1:]
    return [LengthBin(low, high, int(n)) for (low, high), n in zip(pairwise(borders), counts, strict=True)]


def warnings_of(corpus: Corpus) -> list[str]:
    """What may spoil the result, most serious first."""
    manifest = corpus.manifest
    found = []
    fit = manifest["tokens"] / max(manifest["characters"], 1)
    if fit > POOR_FIT_TOKENS_PER_CHARACTER and manifest["tokens"] > manifest["samples"] * 4:
        found.append(
            f"the tokenizer needs {fit:.2f} tokens for a character: it does not know this language or script; "
            "take a base model made for it (for Japanese: rinna/japanese-gpt2-medium)"
        )
    if manifest["tokens"] < LITTLE_TEXT_TOKENS:
        found.append(
            f"{manifest['tokens']:,} tokens are little: the model learns the style, and soon knows the text by heart; "
            "watch the validation perplexity"
        )
    if manifest["duplicate_samples"] > MANY_DUPLICATES_SHARE * manifest["samples"]:
        found.append(f"{manifest['duplicate_samples']:,} samples are copies of others: they are learned more often")
    if manifest["validation_by"].startswith("whole") and manifest["validation_samples"] < FEW_VALIDATION_SAMPLES:
        found.append(
            f"only {manifest['validation_samples']} samples are kept apart: their perplexity is a rough figure; "
            "raise --val-fraction"
        )
    if manifest["replaced_bytes"] or manifest["skipped_samples"]:
        found.append(
            f"{manifest['replaced_bytes']:,} bytes did not decode and were replaced, "
            f"{manifest['skipped_samples']:,} samples were left out because of such bytes"
        )
    return found
