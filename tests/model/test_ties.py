"""What `test_cuda.py` compares texts by, tried without a GPU: a tie passes, everything else fails."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GPT2LMHeadModel

from tunesmith.generation.engine import Engine
from tunesmith.generation.sampling import SamplingParams, sample_token
from tunesmith.generation.sequence import GenerationRequest
from tunesmith.model.hf_checkpoint import load_gpt2

GREEDY = SamplingParams(0.0, 0, 1.0)
RULES = [GREEDY, SamplingParams(0.9, 40, 0.9, 0.01, 1.2)]

Check = Callable[[Path, Sequence[GenerationRequest], Sequence[list[int]], Sequence[list[int]]], list[int]]


@pytest.mark.parametrize("rules", RULES)
def test_texts_of_one_model_are_the_same(
    rules: SamplingParams, make_model_folder: Callable[..., Path], same_but_for_ties: Check
) -> None:
    """On the host and ahead of it; another token anywhere is no tie, and neither is a text that ends early."""
    folder = make_model_folder()
    model = load_gpt2(folder)
    requests = [GenerationRequest([0, *range(1, 2 + seed)], seed, rules, 20) for seed in range(3)]
    texts = []
    for async_decode in (False, True):
        engine = Engine(model, end_of_text_id=300, batch_size=3, positions=64, async_decode=async_decode)
        for request in requests:
            engine.submit(request)
        texts.append([text.tokens for _, text in sorted(engine.run(), key=lambda finished: finished[0])])
    assert same_but_for_ties(folder, requests, *texts) == []
    for place in (0, 11):
        wrong = [[*text] for text in texts[0]]
        wrong[1][place] = (wrong[1][place] + 150) % 300
        with pytest.raises(AssertionError, match=f"text 1, token {place}"):
            same_but_for_ties(folder, requests, texts[0], wrong)
    with pytest.raises(AssertionError, match="ends early"):
        same_but_for_ties(folder, requests, texts[0], [text[:-1] for text in texts[0]])


def test_a_tie_is_told_from_a_difference(make_model_folder: Callable[..., Path], same_but_for_ties: Check) -> None:
    """Two tokens with the same embedding row are equally likely: either may be chosen."""
    folder = make_model_folder()
    with torch.no_grad():
        model = GPT2LMHeadModel.from_pretrained(folder)
        logits_V = model(torch.tensor([[0]])).logits[0, -1].numpy()
        best = sample_token(logits_V.astype(np.float32), GREEDY, 0.0)
        twin = (best + 1) % 300
        model.transformer.wte.weight[twin] = model.transformer.wte.weight[best]
        model.save_pretrained(folder)
    requests = [GenerationRequest([0], 7, GREEDY, 1)]
    assert same_but_for_ties(folder, requests, [[best]], [[twin]]) == [0]
    assert same_but_for_ties(folder, requests, [[best]], [[best]]) == []
    with pytest.raises(AssertionError, match="token 0"):
        same_but_for_ties(folder, requests, [[best]], [[(best + 2) % 300]])
