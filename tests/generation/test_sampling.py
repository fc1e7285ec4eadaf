"""Choosing tokens, against plain Python and against the exact distribution."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.generation.sampling import SamplingRules, choose_token, filtered_probabilities

LOGITS = st.lists(st.floats(-8, 8, width=32), min_size=1, max_size=30)


def expected_probabilities(logits: list[float], rules: SamplingRules) -> list[float]:
    """The rules, word by word: temperature, then the K likeliest, then the likeliest up to P."""
    weights = [math.exp(logit / rules.temperature) for logit in logits]
    if rules.top_k:
        smallest_kept = sorted(weights, reverse=True)[min(rules.top_k, len(weights)) - 1]
        weights = [weight if weight >= smallest_kept else 0.0 for weight in weights]
    total = sum(weights)
    probabilities = [weight / total for weight in weights]
    kept, reached = set(), 0.0
    for index in sorted(range(len(logits)), key=lambda index: -probabilities[index]):
        if reached < rules.top_p:
            kept.add(index)
        reached += probabilities[index]
    if rules.top_p < 1:
        probabilities = [p if index in kept else 0.0 for index, p in enumerate(probabilities)]
    total = sum(probabilities)
    return [probability / total for probability in probabilities]


@given(
    logits=LOGITS.filter(lambda values: len(set(values)) == len(values)),
    temperature=st.sampled_from([0.3, 0.8, 1.0, 2.0]),
    top_k=st.integers(0, 40),
    top_p=st.sampled_from([0.05, 0.5, 0.93, 1.0]),
)
def test_filters_equal_their_definition(logits: list[float], temperature: float, top_k: int, top_p: float) -> None:
    """Temperature, top-k and top-p, alone and together, give the defined distribution."""
    rules = SamplingRules(temperature, top_k, top_p)
    given_V = filtered_probabilities(torch.tensor(logits), rules)
    expected_V = torch.tensor(expected_probabilities(logits, rules))
    if not torch.allclose(given_V, expected_V, atol=1e-5):
        # fp32 and fp64 may disagree on whether a token that reaches P to the last digit is still needed
        boundary = expected_probabilities(logits, SamplingRules(temperature, top_k, 1.0))
        sums = torch.tensor(sorted(boundary, reverse=True)).cumsum(0)
        assert (sums - top_p).abs().min() < 1e-5
    assert float(given_V.sum()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    "rules",
    [SamplingRules(1.0, 0, 1.0), SamplingRules(0.7, 0, 1.0), SamplingRules(1.0, 3, 1.0), SamplingRules(1.0, 0, 0.8)],
)
def test_frequencies_follow_the_distribution(rules: SamplingRules) -> None:
    """Twenty thousand draws pass a chi-squared test at 0.1 % against the exact distribution."""
    logits = [2.0, 1.5, 0.3, 0.0, -1.0, -2.0]
    expected = expected_probabilities(logits, rules)
    generator = torch.Generator().manual_seed(7)
    draws = 20_000
    counts = [0] * len(logits)
    for _ in range(draws):
        counts[choose_token(torch.tensor(logits), rules, generator)[0]] += 1
    possible = [index for index, probability in enumerate(expected) if probability]
    assert sum(counts[index] for index in possible) == draws
    chi_squared = sum((counts[i] - draws * expected[i]) ** 2 / (draws * expected[i]) for i in possible)
    critical_at_0_1_percent = {1: 10.83, 2: 13.82, 3: 16.27, 4: 18.47, 5: 20.52}
    assert chi_squared < critical_at_0_1_percent[len(possible) - 1]


def test_temperature_zero_is_greedy_and_draws_nothing() -> None:
    """Greedy takes the likeliest token, reports the model's own log-probability, and leaves the generator alone."""
    generator = torch.Generator().manual_seed(3)
    before = generator.get_state()
    token, logprob = choose_token(torch.tensor([0.0, 1.0, -1.0]), SamplingRules(0.0, 1, 0.1), generator)
    assert token == 1
    assert logprob == pytest.approx(1 - math.log(1 + math.e + 1 / math.e), abs=1e-6)
    assert torch.equal(generator.get_state(), before)
