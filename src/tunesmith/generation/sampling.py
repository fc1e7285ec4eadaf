"""Sampling on the host: pure functions of one row of logits, so that a sample depends on its own seed only.

One row at a time, in numpy: a row of 50,257 logits takes a tenth of a millisecond, because candidates are searched for
among the likeliest tokens instead of sorting all of them.

Shapes: V vocabulary, K candidate tokens.
References: Fan et al. 2018 (top-k), Holtzman et al. 2020 (top-p, "The Curious Case of Neural Text Degeneration"),
Nguyen et al. 2024 (min-p, "Turning Up the Heat"). The order, temperature, top-k, top-p, min-p, is that of transformers.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Int64s = npt.NDArray[np.int64]

CANDIDATE_LIMITS = (3e-4, 1e-7, 0.0)
"""Candidates have at least this part of the likeliest token's probability; the next limit where that was not enough."""
BLOCK = 256
"""Weights that are summed at once."""


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are sampled.

    Attributes:
        temperature: divides the logits; 0 takes the likeliest token.
        top_k: keep the K likeliest tokens; 0 keeps all.
        top_p: then keep the likeliest tokens until their probabilities reach this sum; 1 keeps all.
        min_p: then keep tokens with at least this share of the likeliest one's probability; 0 keeps all.
        repetition_penalty: lowers the logits of tokens that are in the sequence; 1 changes nothing.
        no_repeat_ngram_size: no sequence of N tokens appears twice; 0 allows all.
    """

    temperature: float
    top_k: int
    top_p: float
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0


def sample_token(logits_V: Floats, params: SamplingParams, uniform: float) -> int:
    """Sample a token.

    Args:
        logits_V: fp32 logits, -infinity for excluded tokens; penalties have been applied (`LogitsProcessor`).
        params: temperature and filters.
        uniform: a random number from [0, 1); not used when greedy.
    """
    if params.temperature == 0:
        return int(logits_V.argmax())
    ids_K, weights_K = _candidates(logits_V, params)
    return int(ids_K[_index_at(weights_K, uniform, side="right")])


def allowed_tokens(logits_V: Floats, params: SamplingParams) -> tuple[Int64s, npt.NDArray[np.float64]]:
    """Return the candidate tokens, [K], and their probabilities, which sum to 1; temperature must be above 0.

    Tokens that are equally likely stay or go together.
    """
    ids_K, weights_K = _candidates(logits_V, params)
    return ids_K, weights_K / weights_K.sum(dtype=np.float64)


def _candidates(logits_V: Floats, params: SamplingParams) -> tuple[Int64s, Floats]:
    """Return the candidate tokens, and their probabilities over that of the likeliest one, fp32 [K]."""
    weights_V = np.exp((logits_V - logits_V.max()) / np.float32(params.temperature))
    least = _least_kept(weights_V, params)
    ids_K = np.flatnonzero(weights_V >= least if least > 0 else weights_V > 0)
    return ids_K, weights_V[ids_K]


def _least_kept(weights_V: Floats, params: SamplingParams) -> float:
    """Return the weight of the least likely token that is kept; 0 where all are."""
    by_rank = 0 < params.top_k < len(weights_V)
    if not by_rank and params.top_p == 1:
        return params.min_p
    total = float(weights_V.sum(dtype=np.float64))
    for limit in CANDIDATE_LIMITS:
        is_last = limit == 0
        sorted_K = -np.sort(-(weights_V if is_last else weights_V[weights_V >= limit]))  # the likeliest first
        if by_rank:
            if len(sorted_K) < params.top_k and not is_last:
                continue
            sorted_K = sorted_K[sorted_K >= sorted_K[params.top_k - 1]]
        if params.top_p == 1:
            return max(params.min_p, float(sorted_K[-1]))
        mass = float(sorted_K.sum(dtype=np.float64))
        reached = params.top_p if by_rank else params.top_p * total / mass
        if reached > 1 and not is_last:
            continue
        # a token stays if those above it fall short of top_p
        return max(params.min_p, float(sorted_K[_index_at(sorted_K, reached, side="left")]))
    raise AssertionError("the last limit keeps everything")


def _index_at(weights_K: Floats, share: float, *, side: Literal["left", "right"]) -> int:
    """Return where the running sum of weights reaches this share of all ("left"), or exceeds it ("right").

    Sums of whole blocks come first: a running sum of 50,257 numbers takes longer than all the rest.
    """
    reached_B = np.add.reduceat(weights_K, np.arange(0, len(weights_K), BLOCK), dtype=np.float64).cumsum()
    mass = share * reached_B[-1]
    block = min(int(reached_B.searchsorted(mass, side)), int(reached_B.searchsorted(reached_B[-1])))
    inside = weights_K[block * BLOCK : (block + 1) * BLOCK].cumsum(dtype=np.float64)
    inside += reached_B[block - 1] if block else 0.0
    # rounding cannot carry it beyond the last token that has any weight
    return block * BLOCK + min(int(inside.searchsorted(mass, side)), int(inside.searchsorted(inside[-1])))


def token_logprob(logits_V: Floats, token: int) -> float:
    """Return a token's log-probability in nats under the model itself, before any parameter."""
    return float(logits_V[token] - logits_V.max() - _log_sum_exp_below_max(logits_V))


def top_logprobs(logits_V: Floats, n: int) -> list[tuple[int, float]]:
    """Return the n likeliest tokens with their log-probabilities in nats, the likeliest first, before any parameter."""
    n = min(n, len(logits_V))
    if n == 0:
        return []
    ids_K = np.argpartition(logits_V, -n)[-n:]
    ids_K = ids_K[np.argsort(-logits_V[ids_K], kind="stable")]
    largest, total = logits_V.max(), _log_sum_exp_below_max(logits_V)
    return [(int(token), float(logits_V[token] - largest - total)) for token in ids_K]


def _log_sum_exp_below_max(logits_V: Floats) -> np.float64:
    return np.float64(np.log(np.exp(logits_V - logits_V.max()).sum(dtype=np.float64)))
