"""Choosing tokens where the logits are: the same distributions and the same draws as on the host."""

import math
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import RepetitionPenaltyLogitsProcessor, TopKLogitsWarper, TopPLogitsWarper

from tunesmith.generation.sampling import SamplingParams, sample_token, token_logprob
from tunesmith.generation.sampling_batched import (
    BatchedSamplingParams,
    apply_repetition_penalty,
    sample_tokens,
    token_logprobs,
)

CPU = torch.device("cpu")
RULES = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.3, 0.8, 1.0, 2.0]),
    top_k=st.integers(0, 40),
    top_p=st.sampled_from([0.05, 0.5, 0.93, 1.0]),
    min_p=st.sampled_from([0.0, 0.02, 0.3, 1.0]),
)


@given(data=st.data(), n_rows=st.integers(1, 6), vocab_size=st.integers(1, 60), seed=st.integers(0, 2**32))
def test_every_row_draws_what_the_host_draws(data: st.DataObject, n_rows: int, vocab_size: int, seed: int) -> None:
    """Rows with rules of their own, side by side; a draw within rounding of a border may fall on either side."""
    random = np.random.default_rng(seed)
    logits_NV = random.normal(scale=3, size=(n_rows, vocab_size)).astype(np.float32)
    rules = [data.draw(RULES) for _ in range(n_rows)]
    uniform_N = random.random(n_rows)
    drawn_N = sample_tokens(
        torch.from_numpy(logits_NV), BatchedSamplingParams.of(rules, vocab_size), torch.from_numpy(uniform_N)
    )
    for row in range(n_rows):
        chances = [float(np.clip(uniform_N[row] + by, 0, 1 - 1e-9)) for by in (-1e-6, 0, 1e-6)]
        near = [sample_token(logits_NV[row], rules[row], chance) for chance in chances]
        assert int(drawn_N[row]) in near


@pytest.mark.parametrize(
    ("rules", "warper"),
    [
        (SamplingParams(1.0, 7, 1.0), TopKLogitsWarper(7)),
        (SamplingParams(1.0, 0, 0.8), TopPLogitsWarper(0.8)),
        (SamplingParams(1.0, 0, 1.0), None),
    ],
)
def test_draws_over_all_chances_have_the_exact_distribution(rules: SamplingParams, warper: TopKLogitsWarper) -> None:
    """With chances spread evenly over [0, 1) each token comes as often as transformers' filter says."""
    n_draws = 4000
    logits_1V = torch.randn(1, 50, generator=torch.Generator().manual_seed(5)) * 2
    filtered_1V = logits_1V if warper is None else warper(torch.zeros(1, 1, dtype=torch.long), logits_1V.clone())
    uniform_N = (torch.arange(n_draws, dtype=torch.float64) + 0.5) / n_draws
    drawn_N = sample_tokens(
        logits_1V.expand(n_draws, -1).contiguous(), BatchedSamplingParams.of([rules] * n_draws, 50), uniform_N
    )
    frequencies_V = torch.bincount(drawn_N, minlength=50) / n_draws
    assert torch.allclose(frequencies_V, filtered_1V.softmax(dim=1)[0], atol=1.5 / n_draws)


def test_the_highest_chance_draws_the_last_token_that_is_kept() -> None:
    """Never one behind it that the filters took away."""
    logits_1V = torch.tensor([[3.0, 1.0, 2.0, -9.0, -9.0]])
    rules = BatchedSamplingParams.of([SamplingParams(1.0, 3, 1.0)], 5)
    assert sample_tokens(logits_1V, rules, torch.tensor([1 - 2**-53], dtype=torch.float64)).tolist() == [2]
    assert sample_tokens(logits_1V, rules, torch.tensor([0.0], dtype=torch.float64)).tolist() == [0]


def test_penalties_equal_those_of_transformers() -> None:
    """Tokens that were seen become less likely, whatever the sign of their logits."""
    logits_NV = torch.randn(3, 20, generator=torch.Generator().manual_seed(1))
    seen = torch.tensor([[0, 3], [19, 19], [5, 6]])
    seen_NV = torch.zeros(3, 20, dtype=torch.bool).scatter_(1, seen, value=True)
    rules = BatchedSamplingParams.of([SamplingParams(1.0, 0, 1.0, repetition_penalty=1.3)] * 3, 20)
    expected_NV = RepetitionPenaltyLogitsProcessor(1.3)(seen, logits_NV.clone())
    assert torch.equal(apply_repetition_penalty(logits_NV, rules, seen_NV), expected_NV)


def test_log_probabilities_are_those_of_the_model() -> None:
    """As on the host, whatever the rules are."""
    logits_NV = torch.randn(4, 1000, generator=torch.Generator().manual_seed(2)) * 4
    tokens_N = torch.tensor([0, 10, 500, 999])
    expected = [token_logprob(row.numpy(), int(token)) for row, token in zip(logits_NV, tokens_N, strict=True)]
    assert token_logprobs(logits_NV, tokens_N).tolist() == pytest.approx(expected, abs=1e-5)


def test_a_row_of_impossible_tokens_but_one_draws_that() -> None:
    """Minus infinity is never drawn."""
    logits_1V = torch.full((1, 9), -math.inf)
    logits_1V[0, 4] = 0.5
    rules = BatchedSamplingParams.of([SamplingParams(0.7, 5, 0.9)], 9)
    assert sample_tokens(logits_1V, rules, torch.tensor([0.77], dtype=torch.float64)).tolist() == [4]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
def test_the_kernel_keeps_and_draws_what_the_host_does() -> None:
    """Triton's interpreter runs it on the CPU: small vocabularies with ties, and GPT-2's whole one."""
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    program = Path(__file__).with_name("sampling_triton_against_host.py")
    answer = subprocess.run([sys.executable, program], capture_output=True, text=True, env=environment, check=False)
    assert answer.stdout == "equal\n", answer.stderr
