"""Two models on the same text: the differences, each with an interval of its own.

Bits per byte can always be compared. Nats per token and perplexity can only where both models read the same tokens.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tunesmith.data.corpus import TextSizes
from tunesmith.evaluation.bootstrap import Floats, Interval, interval_of, resampled_sums
from tunesmith.evaluation.perplexity import Evaluation, as_perplexity


@dataclass(frozen=True)
class Difference:
    """The tuned model's figure minus the base model's; below 0 is better.

    Attributes:
        value: on this text.
        confidence_interval: 95 % over samples, both models on the same draws; None for a single sample.
    """

    value: float
    confidence_interval: Interval | None


@dataclass(frozen=True)
class Comparison:
    """Tuned minus base.

    Attributes:
        bits_per_byte: always comparable.
        nats_per_token: None where the models have different tokenizers.
        perplexity: likewise.
        better_samples: share of the samples that the tuned model knows better.
    """

    bits_per_byte: Difference
    nats_per_token: Difference | None
    perplexity: Difference | None
    better_samples: float


def compare(tuned: Evaluation, base: Evaluation, sizes: TextSizes, *, same_tokenizer: bool, seed: int) -> Comparison:
    """Compare two evaluations of the same samples.

    Args:
        tuned: of the one model.
        base: of the other.
        sizes: of the samples.
        same_tokenizer: whether both read the same tokens.
        seed: of the draws.
    """
    columns = (tuned.sample_nats, base.sample_nats, sizes.text_bytes, tuned.sample_tokens)
    sums_KD = resampled_sums(np.stack(columns), seed=seed)

    def difference(value: float, of_draws: Callable[[Floats, Floats, Floats, Floats], Floats]) -> Difference:
        return Difference(value, None if sums_KD is None else interval_of(of_draws(*sums_KD)))

    bits_per_byte = difference(
        tuned.bits_per_byte - base.bits_per_byte,
        lambda nats, base_nats, text_bytes, _: (nats - base_nats) / math.log(2) / text_bytes,
    )
    better_samples = float((tuned.sample_nats < base.sample_nats).mean())
    if not same_tokenizer:
        return Comparison(bits_per_byte, None, None, better_samples)
    nats_per_token = difference(
        tuned.nats_per_token - base.nats_per_token, lambda nats, base_nats, _, tokens: (nats - base_nats) / tokens
    )
    perplexity = difference(
        tuned.perplexity - base.perplexity,
        lambda nats, base_nats, _, tokens: _minus(as_perplexity(nats / tokens), as_perplexity(base_nats / tokens)),
    )
    return Comparison(bits_per_byte, nats_per_token, perplexity, better_samples)


def _minus(one_D: Floats, other_D: Floats) -> Floats:
    """NaN between two infinite ones."""
    with np.errstate(invalid="ignore"):
        return one_D - other_D
