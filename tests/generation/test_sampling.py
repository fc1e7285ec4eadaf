"""Choosing tokens, against plain Python and against the exact distribution."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from tunesmith.generation.sampling import SamplingParams, allowed_tokens, sample_token, token_logprob
from tunesmith.generation.sequence import LogitsProcessor

LOGITS = st.lists(st.floats(-8, 8, width=32), min_size=1, max_size=30)


def expected_probabilities(logits: list[float], rules: SamplingParams) -> list[float]:
    """The rules, word by word: temperature, then the K likeliest, then the likeliest up to P, then min-p."""
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
    largest = max(probabilities)
    probabilities = [p if p >= rules.min_p * largest else 0.0 for p in probabilities]
    total = sum(probabilities)
    return [probability / total for probability in probabilities]


def probabilities_of(logits: list[float], rules: SamplingParams) -> np.ndarray:
    """Ours, over the whole vocabulary."""
    ids_K, probabilities_K = allowed_tokens(np.array(logits, np.float32), rules)
    whole = np.zeros(len(logits))
    whole[ids_K] = probabilities_K
    return whole


@given(
    logits=LOGITS.filter(lambda values: len(set(values)) == len(values)),
    temperature=st.sampled_from([0.05, 0.3, 0.8, 1.0, 2.0]),
    top_k=st.integers(0, 40),
    top_p=st.sampled_from([0.05, 0.5, 0.93, 1.0]),
    min_p=st.sampled_from([0.0, 0.02, 0.3, 1.0]),
)
def test_filters_equal_their_definition(
    logits: list[float], temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    """Temperature, top-k, top-p and min-p, alone and together, give the defined distribution."""
    rules = SamplingParams(temperature, top_k, top_p, min_p)
    given_V = probabilities_of(logits, rules)
    expected_V = np.array(expected_probabilities(logits, rules))
    if not np.allclose(given_V, expected_V, atol=1e-5):
        # fp32 and fp64 may disagree on whether a token that reaches a limit to the last digit is still needed
        before = expected_probabilities(logits, SamplingParams(temperature, top_k, 1.0))
        sums = np.cumsum(sorted(before, reverse=True))
        shares = np.array(before) / max(before)
        weights = np.array([math.exp((logit - max(logits)) / temperature) for logit in logits])
        assert min(np.abs(sums - top_p).min(), np.abs(shares - min_p).min(), np.diff(np.sort(weights)).min()) < 1e-5
    assert given_V.sum() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("scale", [0.5, 3.0, 12.0])
@pytest.mark.parametrize(("top_k", "top_p", "min_p"), [(0, 0.95, 0.0), (50, 1.0, 0.0), (40, 0.9, 0.02), (0, 1.0, 0.1)])
def test_filters_equal_transformers_on_a_whole_vocabulary(scale: float, top_k: int, top_p: float, min_p: float) -> None:
    """Flat, usual and peaked logits over 5,000 tokens: the same tokens are kept as by its own filters, in its order."""
    logits_V = torch.randn(5000, generator=torch.Generator().manual_seed(5)).double() * scale
    filters = LogitsProcessorList([TemperatureLogitsWarper(0.8)])
    filters += [TopKLogitsWarper(top_k)] if top_k else []
    filters += [TopPLogitsWarper(top_p)] if top_p < 1 else []
    filters += [MinPLogitsWarper(min_p)] if min_p else []
    expected_V = filters(torch.zeros(1, 1, dtype=torch.long), logits_V[None])[0].softmax(-1).numpy()
    given_V = probabilities_of(logits_V.tolist(), SamplingParams(0.8, top_k, top_p, min_p))
    assert given_V == pytest.approx(expected_V, abs=2e-5)
    assert abs(int((given_V > 0).sum()) - int((expected_V > 0).sum())) <= 1


@pytest.mark.parametrize(
    "rules",
    [
        SamplingParams(1.0, 0, 1.0),
        SamplingParams(0.7, 0, 1.0),
        SamplingParams(1.0, 3, 1.0),
        SamplingParams(1.0, 0, 0.8),
        SamplingParams(1.0, 0, 1.0, min_p=0.1),
        SamplingParams(1.3, 5, 0.95, min_p=0.05),
    ],
)
def test_frequencies_follow_the_distribution(rules: SamplingParams) -> None:
    """Twenty thousand draws pass a chi-squared test at 0.1 % against the exact distribution."""
    logits = [2.0, 1.5, 0.3, 0.0, -1.0, -2.0]
    expected = expected_probabilities(logits, rules)
    random = np.random.default_rng(7)
    draws = 20_000
    counts = [0] * len(logits)
    for _ in range(draws):
        counts[sample_token(np.array(logits, np.float32), rules, random.random())] += 1
    possible = [index for index, probability in enumerate(expected) if probability]
    assert sum(counts[index] for index in possible) == draws
    chi_squared = sum((counts[i] - draws * expected[i]) ** 2 / (draws * expected[i]) for i in possible)
    critical_at_0_1_percent = {1: 10.83, 2: 13.82, 3: 16.27, 4: 18.47, 5: 20.52}
    assert chi_squared < critical_at_0_1_percent[len(possible) - 1]


@pytest.mark.parametrize("repetition_penalty", [1.0, 1.3, 0.7])
@pytest.mark.parametrize("no_repeat_ngram_size", [0, 1, 2, 3])
@given(tokens=st.lists(st.integers(0, 5), min_size=1, max_size=30))
def test_history_equals_transformers(repetition_penalty: float, no_repeat_ngram_size: int, tokens: list[int]) -> None:
    """Repetition penalty and n-grams that may not come twice, over prompt and text, as its own processors do it."""
    logits_V = torch.randn(8, generator=torch.Generator().manual_seed(len(tokens)))
    processors = LogitsProcessorList()
    processors += [RepetitionPenaltyLogitsProcessor(repetition_penalty)] if repetition_penalty != 1 else []
    processors += [NoRepeatNGramLogitsProcessor(no_repeat_ngram_size)] if no_repeat_ngram_size else []
    expected_V = processors(torch.tensor([tokens]), logits_V[None].clone())[0]
    rules = SamplingParams(1.0, 0, 1.0, 0.0, repetition_penalty, no_repeat_ngram_size)
    processor = LogitsProcessor(tokens[:3], rules)
    for token in tokens[3:]:
        processor.append(token)
    given_V = processor.process_logits(logits_V.numpy(), None)
    assert given_V == pytest.approx(expected_V.numpy(), abs=1e-6)
    assert processor.process_logits(logits_V.numpy(), 7)[7] == -np.inf


def test_temperature_zero_is_greedy() -> None:
    """Greedy takes the likeliest token whatever chance says; a log-probability is the model's own."""
    logits_V = np.array([0.0, 1.0, -1.0], np.float32)
    assert [sample_token(logits_V, SamplingParams(0.0, 1, 0.1), chance) for chance in (0.0, 0.999)] == [1, 1]
    assert token_logprob(logits_V, 1) == pytest.approx(1 - math.log(1 + math.e + 1 / math.e), abs=1e-6)
