"""How much of what a model writes is copied from its training text, beside the same figures for people's text.

A token counts as copied at a length if it stands in a stretch of at least so many tokens that stands, token by token,
in one sample of the training text. Some of that is language itself ("at the end of the day"), so text that people wrote
and that was not trained on is the yardstick.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from tunesmith.data.corpus import Corpus, Split
from tunesmith.data.ngram_index import NgramIndex, longest_match_per_token
from tunesmith.data.provenance import name_of_sample
from tunesmith.data.spans import Int64s
from tunesmith.data.tokenizer import TextTokenizer
from tunesmith.generation.sampling import SamplingRules
from tunesmith.generation.text_model import TextModel
from tunesmith.generation.write_texts import TextRequest, write_requests

COPY_TOKENS = (8, 16, 32)
YARDSTICK_TOKENS = 100_000
"""Of people's text; more changes the figures little."""
WRITTEN_TOKENS = 256


def novelty(
    writer: TextModel, corpus: Corpus, held_out: Split, *, n_texts: int, rules: SamplingRules, seed: int
) -> dict[str, Any]:
    """Let a model write, and look for it in its training text.

    Args:
        writer: the model.
        corpus: what it was trained on.
        held_out: people's text that it was not trained on.
        n_texts: how many texts to write, from nothing.
        rules: how to choose tokens.
        seed: of the first text.
    """
    requests = [TextRequest("", seed + number, rules, WRITTEN_TOKENS) for number in range(n_texts)]
    written = [text.tokens for text in write_requests(writer, requests)]
    index = NgramIndex(corpus.train)
    return {
        "texts": n_texts,
        "written": copied(written, index, corpus, writer.tokenizer),
        "held_out": copied(_samples(held_out), index, corpus, writer.tokenizer),
    }


def copied(
    texts: Iterable[Sequence[int] | Int64s], index: NgramIndex, corpus: Corpus, tokenizer: TextTokenizer
) -> dict[str, Any]:
    """Shares of the tokens of texts that are copied, and the longest copy with where it comes from."""
    n_tokens = 0
    n_copied = dict.fromkeys(COPY_TOKENS, 0)
    longest: dict[str, Any] | None = None
    for number, text in enumerate(texts):
        copies = index.find_matches(np.asarray(text, np.int64))
        longest_M = longest_match_per_token(copies, len(text))
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


def _samples(split: Split) -> list[Int64s]:
    """Tokens of each sample without its end-of-text, up to so many in all."""
    stretches = split.spans
    reached = np.cumsum(stretches.lengths, dtype=np.int64)
    n_samples = int(np.searchsorted(reached, YARDSTICK_TOKENS)) + 1
    spans = zip(stretches.starts[:n_samples].tolist(), stretches.ends[:n_samples].tolist(), strict=True)
    return [split.tokens[start : min(end - 1, start + YARDSTICK_TOKENS)].astype(np.int64) for start, end in spans]
