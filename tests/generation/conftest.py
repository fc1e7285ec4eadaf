"""What tests of writing share."""

from collections.abc import Callable

import pytest
import torch
from transformers import GPT2LMHeadModel


@pytest.fixture
def greedy_by_transformers() -> Callable[[GPT2LMHeadModel, list[int], int], list[int]]:
    """The oracle: the likeliest token, again and again; where the positions end, the last half of them is kept."""
    return _greedy


def _greedy(oracle: GPT2LMHeadModel, prompt: list[int], n: int) -> list[int]:
    n_positions = oracle.config.n_positions
    window, written = list(prompt), []
    for _ in range(n):
        if len(window) > n_positions:
            window = window[-(n_positions // 2) :]
        with torch.no_grad():
            token = int(oracle(torch.tensor([window])).logits[0, -1].argmax())
        window.append(token)
        written.append(token)
    return written
