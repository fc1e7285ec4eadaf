"""From logits to a token: pure functions of one row each, so that a sample depends on its own seed only.

One row at a time, in numpy and on the host: a row of 50,257 logits takes a tenth of a millisecond, because what may be
chosen is looked for among the likeliest tokens instead of sorting all of them.

Shapes: V vocabulary, K tokens that may be chosen.
References: Fan et al. 2018 (top-k), Holtzman et al. 2020 (top-p, "The Curious Case of Neural Text Degeneration"),
Nguyen et al. 2024 (min-p, "Turning Up the Heat"). The order, temperature, top-k, top-p, min-p, is that of transformers.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Int64s = npt.NDArray[np.int64]

LOOKED_FOR_FROM = (3e-4, 1e-7, 0.0)
"""Of the likeliest token's probability: how likely others are that are looked for, less where that was not enough."""
BLOCK = 256
"""Of weights that are summed at once."""


@dataclass(frozen=True)
class SamplingRules:
    """How to choose.

    Attributes:
        temperature: divides the logits; 0 takes the likeliest token.
        top_k: keep the K likeliest tokens; 0 keeps all.
        top_p: then keep the likeliest tokens until their probabilities reach this sum; 1 keeps all.
        min_p: then keep tokens with at least this share of the likeliest one's probability; 0 keeps all.
        repetition_penalty: what the logits of tokens that stand in the text are made worse by; 1 changes nothing.
        no_repeat_ngram_size: no sequence of so many tokens appears twice; 0 allows all.
    """

    temperature: float
    top_k: int
    top_p: float
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0


def choose_token(logits_V: Floats, rules: SamplingRules, uniform: float) -> int:
    """Choose a token.

    Args:
        logits_V: fp32 logits, -infinity for what may not be chosen.
        rules: how to choose; penalties have been applied before (`History.weigh`).
        uniform: chance, from [0, 1); not looked at when greedy.
    """
    if rules.temperature == 0:
        return int(logits_V.argmax())
    ids_K, weights_K = _allowed(logits_V, rules)
    return int(ids_K[_place(weights_K, uniform, side="right")])


def allowed_tokens(logits_V: Floats, rules: SamplingRules) -> tuple[Int64s, npt.NDArray[np.float64]]:
    """The tokens that are drawn from, [K], and their probabilities, which sum to 1; temperature must be above 0.

    Tokens that are equally likely stay or go together.
    """
    ids_K, weights_K = _allowed(logits_V, rules)
    return ids_K, weights_K / weights_K.sum(dtype=np.float64)


def _allowed(logits_V: Floats, rules: SamplingRules) -> tuple[Int64s, Floats]:
    """The tokens that are drawn from, and their probabilities over that of the likeliest one, fp32 [K]."""
    weights_V = np.exp((logits_V - logits_V.max()) / np.float32(rules.temperature))
    least = _least_kept(weights_V, rules)
    ids_K = np.flatnonzero(weights_V >= least if least > 0 else weights_V > 0)
    return ids_K, weights_V[ids_K]


def _least_kept(weights_V: Floats, rules: SamplingRules) -> float:
    """The weight of the least likely token that the rules keep; 0 where they keep all."""
    by_rank = 0 < rules.top_k < len(weights_V)
    if not by_rank and rules.top_p == 1:
        return rules.min_p
    total = float(weights_V.sum(dtype=np.float64))
    for limit in LOOKED_FOR_FROM:
        is_deepest = limit == 0
        found_K = -np.sort(-(weights_V if is_deepest else weights_V[weights_V >= limit]))  # the likeliest first
        if by_rank:
            if len(found_K) < rules.top_k and not is_deepest:
                continue
            found_K = found_K[found_K >= found_K[rules.top_k - 1]]
        if rules.top_p == 1:
            return max(rules.min_p, float(found_K[-1]))
        found = float(found_K.sum(dtype=np.float64))
        reached = rules.top_p if by_rank else rules.top_p * total / found
        if reached > 1 and not is_deepest:
            continue
        # a token stays if those above it fall short of top_p
        return max(rules.min_p, float(found_K[_place(found_K, reached, side="left")]))
    raise AssertionError("the deepest look holds everything")


def _place(weights_K: Floats, share: float, *, side: Literal["left", "right"]) -> int:
    """Where the running sum of weights reaches this share of all ("left"), or goes beyond it ("right").

    Sums of whole blocks come first: a running sum of 50,257 numbers takes longer than all the rest.
    """
    reached_B = np.add.reduceat(weights_K, np.arange(0, len(weights_K), BLOCK), dtype=np.float64).cumsum()
    mass = share * reached_B[-1]
    block = min(int(reached_B.searchsorted(mass, side)), int(reached_B.searchsorted(reached_B[-1])))
    inside = weights_K[block * BLOCK : (block + 1) * BLOCK].cumsum(dtype=np.float64)
    inside += reached_B[block - 1] if block else 0.0
    # rounding cannot carry it behind the last token that has any weight
    return block * BLOCK + min(int(inside.searchsorted(mass, side)), int(inside.searchsorted(inside[-1])))


def logprob_of(logits_V: Floats, token: int) -> float:
    """A token's log-probability in nats under the model itself, before any rule."""
    largest = logits_V.max()
    return float(logits_V[token] - largest - np.log(np.exp(logits_V - largest).sum(dtype=np.float64)))


def likeliest_tokens(logits_V: Floats, n: int) -> list[tuple[int, float]]:
    """The n likeliest tokens with their log-probabilities in nats, the likeliest first, before any rule."""
    n = min(n, len(logits_V))
    if n == 0:
        return []
    ids_K = np.argpartition(logits_V, -n)[-n:]
    ids_K = ids_K[np.argsort(-logits_V[ids_K], kind="stable")]
    largest = logits_V.max()
    total = np.log(np.exp(logits_V - largest).sum(dtype=np.float64))
    return [(int(token), float(logits_V[token] - largest - total)) for token in ids_K]
