"""From logits to a token: pure functions of one row each, so that a sample depends on its own seed only.

Shapes: V vocabulary.
References: Fan et al. 2018 (top-k), Holtzman et al. 2020 (top-p, "The Curious Case of Neural Text Degeneration").
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class SamplingRules:
    """How to choose.

    Attributes:
        temperature: divides the logits; 0 takes the likeliest token.
        top_k: keep the K likeliest tokens; 0 keeps all.
        top_p: then keep the likeliest tokens until their probabilities reach this sum; 1 keeps all.
    """

    temperature: float
    top_k: int
    top_p: float


def choose_token(logits_V: Tensor, rules: SamplingRules, generator: torch.Generator) -> tuple[int, float]:
    """Choose a token.

    Args:
        logits_V: fp32 logits.
        rules: how to choose.
        generator: advanced by exactly one draw, or not at all when greedy.

    Returns:
        The token's id and its log-probability in nats under the model itself, before any rule.
    """
    if rules.temperature == 0:
        token = int(logits_V.argmax())
    else:
        probabilities_V = filtered_probabilities(logits_V, rules)
        token = int(torch.multinomial(probabilities_V, 1, generator=generator))
    return token, float(logits_V[token] - logits_V.logsumexp(-1))


def filtered_probabilities(logits_V: Tensor, rules: SamplingRules) -> Tensor:
    """The distribution that is drawn from, [V]; temperature must be above 0."""
    logits_V = logits_V / rules.temperature
    if 0 < rules.top_k < len(logits_V):
        smallest_kept = logits_V.topk(rules.top_k).values[-1]
        logits_V = logits_V.masked_fill(logits_V < smallest_kept, -torch.inf)
    probabilities_V = logits_V.softmax(-1)
    if rules.top_p < 1:
        sorted_V, order_V = probabilities_V.sort(descending=True)
        reached_before_V = sorted_V.cumsum(-1) - sorted_V  # a token stays if those above it fall short of top_p
        dropped_V = torch.empty_like(reached_before_V, dtype=torch.bool)
        dropped_V[order_V] = reached_before_V >= rules.top_p
        probabilities_V = probabilities_V.masked_fill(dropped_V, 0.0)
        probabilities_V = probabilities_V / probabilities_V.sum()
    return probabilities_V
