"""Memorization: how much of a model's output is verbatim training text, compared with held-out text by people.

A token counts as copied at a length if it is in a span of at least N tokens that occurs, token by token, in one sample
of the training text. Some of that is language itself ("at the end of the day"), so text that people wrote and that was
not trained on is the baseline.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from tunesmith.data.copies import CopyIndex, longest_copy_around
from tunesmith.data.corpus import Corpus, Split
from tunesmith.data.stretches import Int64s
from tunesmith.data.tokenizer import TextTokenizer
from tunesmith.data.trained_text import name_of_sample
from tunesmith.generation.generate import TextRequest, run_requests
from tunesmith.generation.loading import LoadedModel
from tunesmith.generation.sampling import SamplingParams

COPY_TOKENS = (8, 16, 32)
BASELINE_TOKENS = 100_000
"""Of held-out text; more changes the result little."""
GENERATED_TOKENS = 256


def measure_memorization(
    loaded: LoadedModel, corpus: Corpus, held_out: Split, *, n_texts: int, params: SamplingParams, seed: int
) -> dict[str, Any]:
    """Generate texts and search for them in the training text.

    Args:
        loaded: the model.
        corpus: its training text.
        held_out: text that it was not trained on.
        n_texts: how many texts to generate, from nothing.
        params: of generation.
        seed: of the first text.
    """
    requests = [TextRequest("", seed + number, params, GENERATED_TOKENS) for number in range(n_texts)]
    generated = [text.tokens for text in run_requests(loaded, requests)]
    index = CopyIndex(corpus.train)
    return {
        "texts": n_texts,
        "written": _copied_shares(generated, index, corpus, loaded.tokenizer),
        "held_out": _copied_shares(_baseline_samples(held_out), index, corpus, loaded.tokenizer),
    }


def _copied_shares(
    texts: Iterable[Sequence[int] | Int64s], index: CopyIndex, corpus: Corpus, tokenizer: TextTokenizer
) -> dict[str, Any]:
    """Return the shares of tokens that are copied, and the longest copy with its source."""
    n_tokens = 0
    n_copied = dict.fromkeys(COPY_TOKENS, 0)
    longest: dict[str, Any] | None = None
    for number, text in enumerate(texts):
        copies = index.copies(np.asarray(text, np.int64))
        longest_M = longest_copy_around(copies, len(text))
        n_tokens += len(text)
        for least in COPY_TOKENS:
            n_copied[least] += int((longest_M >= least).sum())
        for copy in copies:
            if longest is None or copy.tokens > longest["tokens"]:
                longest = {
                    "tokens": copy.tokens,
                    "text": tokenizer.decode(np.asarray(text)[copy.start : copy.start + copy.tokens].tolist()),
                    "in_text": number + 1,
                    "position": copy.position,
                }
    if longest is not None:
        longest |= name_of_sample(corpus, longest.pop("position"), tokenizer.end_of_text_id)
    return {
        "tokens": n_tokens,
        "copied_share": {str(least): count / n_tokens if n_tokens else 0.0 for least, count in n_copied.items()},
        "longest": longest,
    }


def _baseline_samples(split: Split) -> list[Int64s]:
    """Return the tokens of the first samples, each without its end-of-text."""
    spans = split.stretches
    reached = np.cumsum(spans.lengths, dtype=np.int64)
    n_samples = int(np.searchsorted(reached, BASELINE_TOKENS)) + 1
    ranges = zip(spans.starts[:n_samples].tolist(), spans.ends[:n_samples].tolist(), strict=True)
    return [split.tokens[start : min(end - 1, start + BASELINE_TOKENS)].astype(np.int64) for start, end in ranges]
