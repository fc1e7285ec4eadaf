"""Writing texts: each one as if it were alone."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import GPT2LMHeadModel

from tunesmith.errors import UserError
from tunesmith.generation.engine import Continuation, continue_texts
from tunesmith.generation.sampling import SamplingRules
from tunesmith.model.gpt2 import GPT2
from tunesmith.model.weights import load_gpt2

GREEDY = SamplingRules(0.0, 0, 1.0)
SAMPLED = SamplingRules(1.0, 50, 0.95)
PROMPTS = [[0], [0, 5, 9, 14], [0, *range(100, 130)], [0, 7]]
NEVER = 300


@pytest.fixture
def model(make_model_folder: Callable[..., Path]) -> GPT2:
    """Random weights, 64 positions, 300 tokens."""
    return load_gpt2(make_model_folder())


def write(
    model: GPT2, prompts: list[list[int]], seeds: list[int], rules: SamplingRules, n: int, end: int = NEVER
) -> list[Continuation]:
    """Shorter to call."""
    return continue_texts(model, prompts, seeds=seeds, rules=rules, max_new_tokens=n, end_of_text_id=end)


@pytest.mark.parametrize("rules", [GREEDY, SAMPLED])
def test_a_text_does_not_depend_on_its_neighbours(rules: SamplingRules, model: GPT2) -> None:
    """A batch of unequal prompts gives each the text that it gets alone."""
    together = write(model, PROMPTS, [1, 2, 3, 4], rules, 20)
    alone = [write(model, [prompt], [seed], rules, 20)[0] for prompt, seed in zip(PROMPTS, [1, 2, 3, 4], strict=True)]
    assert [text.tokens for text in together] == [text.tokens for text in alone]
    assert all(len(text.tokens) == 20 and text.finish_reason == "length" for text in together)


def test_seeds_decide(model: GPT2) -> None:
    """The same seed writes the same text, another seed another one."""
    first, second, other = write(model, [[0]] * 3, [1, 1, 2], SAMPLED, 20)
    assert first.tokens == second.tokens
    assert first.logprobs == pytest.approx(second.logprobs, abs=1e-4)  # matrix products round by row
    assert other.tokens != first.tokens


def test_end_of_text_stops_and_is_not_written(model: GPT2) -> None:
    """A text ends where end-of-text is chosen, while the others go on."""
    whole = write(model, PROMPTS, [1, 2, 3, 4], SAMPLED, 20)
    end = whole[1].tokens[6]
    ended = write(model, PROMPTS, [1, 2, 3, 4], SAMPLED, 20, end=end)
    for text, uncut in zip(ended, whole, strict=True):
        if end in uncut.tokens:
            assert text.finish_reason == "stop"
            assert text.tokens == uncut.tokens[: uncut.tokens.index(end)]
        else:
            assert text.tokens == uncut.tokens


def test_logprobs_are_the_models_own(model: GPT2, tmp_path: Path) -> None:
    """Reported log-probabilities equal those of transformers, whatever the temperature."""
    oracle = GPT2LMHeadModel.from_pretrained(tmp_path / "model").eval()
    texts = write(model, PROMPTS, [1, 2, 3, 4], SamplingRules(2.5, 20, 0.9), 12)
    for prompt, text in zip(PROMPTS, texts, strict=True):
        with torch.no_grad():
            logits_TV = oracle(torch.tensor([prompt + text.tokens])).logits[0]
        expected_T = logits_TV.log_softmax(-1)[len(prompt) - 1 : -1].gather(1, torch.tensor(text.tokens)[:, None])
        assert text.logprobs == pytest.approx(expected_T[:, 0].tolist(), abs=1e-4)


def test_the_models_positions_are_a_limit(model: GPT2) -> None:
    """A prompt that fills all positions still gets one token; a longer one is refused."""
    full = [0] * 64
    assert len(write(model, [full], [1], GREEDY, 10)[0].tokens) == 1
    assert len(write(model, [full[:-3]], [1], GREEDY, 10)[0].tokens) == 4
    with pytest.raises(UserError, match="has 65 tokens, and the model reads at most 64"):
        write(model, [[*full, 0]], [1], GREEDY, 10)


@pytest.mark.parametrize("training", [True, False])
def test_the_models_mode_is_restored(training: bool, model: GPT2) -> None:  # noqa: FBT001  parametrized
    """Sampling in the middle of training leaves the model in training mode, without dropout in between."""
    model.train(training)
    texts = write(model, [[0]], [1], SAMPLED, 5)
    assert model.training is training
    assert texts[0].tokens == write(model.eval(), [[0]], [1], SAMPLED, 5)[0].tokens
