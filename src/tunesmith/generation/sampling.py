"""From logits to a token: pure functions of one row each, so that a sample depends on its own seed only.

One row at a time, in numpy and on the host: a row of 50,257 logits takes a tenth of a millisecond, because what may be
chosen is looked for among the likeliest tokens instead of sorting all of them.

Shapes: V vocabulary, K tokens that may be chosen.
References: Fan et al. 2018 (top-k), Holtzman et al. 2020 (top-p, "The Curious Case of Neural Text Degeneration"),
Nguyen et al. 2024 (min-p, "Turning Up the Heat"). The order, temperature, top-k, top-p, min-p, is that of transformers.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Int64s = npt.NDArray[np.int64]

DEPTHS = (8.0, 16.0, np.inf)
"""How far below the likeliest token, in nats, the others are looked for; deeper where that was not enough."""


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
    ids_K, probabilities_K = allowed_tokens(logits_V, rules)
    reached_K = np.cumsum(probabilities_K)
    place = np.searchsorted(reached_K, uniform * reached_K[-1], side="right")
    return int(ids_K[min(place, len(ids_K) - 1)])


def allowed_tokens(logits_V: Floats, rules: SamplingRules) -> tuple[Int64s, npt.NDArray[np.float64]]:
    """The tokens that are drawn from, [K], and their probabilities, which sum to 1; temperature must be above 0.

    Tokens that are equally likely stay or go together.
    """
    below_V = (logits_V - logits_V.max()) / np.float32(rules.temperature)  # 0 for the likeliest
    ids_K = np.flatnonzero(below_V >= _lowest_kept(below_V, rules))
    probabilities_K = np.exp(below_V[ids_K].astype(np.float64))
    return ids_K, probabilities_K / probabilities_K.sum()


def _lowest_kept(below_V: Floats, rules: SamplingRules) -> float:
    """How far below the likeliest token the last one lies that the rules keep, in nats."""
    lowest = float(np.log(rules.min_p)) if rules.min_p > 0 else -np.inf
    by_rank = 0 < rules.top_k < len(below_V)
    if not by_rank and rules.top_p == 1:
        return lowest
    total = float(np.exp(below_V).sum(dtype=np.float64))
    for depth in DEPTHS:
        found_K = -np.sort(-below_V[below_V >= -depth])  # the likeliest first
        is_deepest = depth == np.inf
        if by_rank:
            if len(found_K) < rules.top_k and not is_deepest:
                continue
            found_K = found_K[found_K >= found_K[rules.top_k - 1]]
            total = float(np.exp(found_K).sum(dtype=np.float64))
        reached_K = np.cumsum(np.exp(found_K), dtype=np.float64) / total
        if rules.top_p < 1:
            if reached_K[-1] < rules.top_p and not by_rank and not is_deepest:
                continue
            # a token stays if those above it fall short of top_p
            found_K = found_K[: 1 + int(np.searchsorted(reached_K[:-1], rules.top_p, side="left"))]
        return max(lowest, float(found_K[-1]))
    raise AssertionError("the deepest look holds everything")


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
