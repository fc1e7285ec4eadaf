"""Texts compared as far as rounding lets them be equal: the oracle is transformers in double precision."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from tunesmith.generation.sampling import sample_token
from tunesmith.generation.sequence import GenerationRequest, LogitsProcessor

ROUNDING = 1e-4
"""Of a logit in fp32, however its sums are ordered; logits here are of order 1."""
TRIALS = 400

SameButForTies = Callable[[Path, Sequence[GenerationRequest], Sequence[list[int]], Sequence[list[int]]], list[int]]


@pytest.fixture
def same_but_for_ties() -> SameButForTies:
    """A function that checks that two sets of texts are the same, or part where rounding decides; it tells which do."""
    from transformers import GPT2LMHeadModel

    def check(
        folder: Path, requests: Sequence[GenerationRequest], first: Sequence[list[int]], second: Sequence[list[int]]
    ) -> list[int]:
        exact = GPT2LMHeadModel.from_pretrained(folder).double().eval()
        parted = [number for number, texts in enumerate(zip(first, second, strict=True)) if texts[0] != texts[1]]
        for number in parted:
            request, one, other = requests[number], first[number], second[number]
            at = next((place for place, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), None)
            assert at is not None, f"text {number}: one of them ends early"
            before = [*request.prompt, *one[:at]]
            with torch.no_grad():
                logits_V = exact(torch.tensor([before])).logits[0, -1].numpy()
            uniform = np.random.default_rng(request.seed).random(at + 1)[-1]
            noise = np.random.default_rng(0)
            history = LogitsProcessor(before, request.params)
            possible = {
                sample_token(
                    history.process_logits(
                        (logits_V + noise.uniform(-ROUNDING, ROUNDING, logits_V.shape)).astype(np.float32), None
                    ),
                    request.params,
                    uniform,
                )
                for _ in range(TRIALS)
            }
            assert {one[at], other[at]} <= possible, f"text {number}, token {at}: {one[at]} and {other[at]}"
        return parted

    return check
