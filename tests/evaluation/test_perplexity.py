"""Perplexity against transformers, one sample at a time."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import GPT2LMHeadModel

from tunesmith.config import EvaluateConfig
from tunesmith.data.corpus import Corpus, prepare_corpus
from tunesmith.data.source_files import FoundSources, found_sources
from tunesmith.data.sources import ReadingOptions
from tunesmith.data.tokenizer import load_tokenizer
from tunesmith.evaluation.evaluate import evaluate_model
from tunesmith.evaluation.perplexity import Evaluation, confidence_interval, evaluate_split
from tunesmith.model.config_file import read_hf_config
from tunesmith.model.weights import load_gpt2

TEXTS = ["the lamp burns", "rain", "gulls! 42 of them, and the wind is in the north today", "the stairs", "rain"]


def sources_of(source: Path) -> FoundSources:
    """What a SOURCE stands for."""
    with found_sources([str(source)]) as found:
        return found


@pytest.fixture
def folder(make_model_folder: Callable[..., Path]) -> Path:
    """A random model with a tokenizer."""
    return make_model_folder()


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """A few samples, one of them longer than 20 tokens."""
    path = tmp_path / "text.txt"
    path.write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    return path


def corpus_of(folder: Path, text: Path) -> Corpus:
    """All samples kept apart, as `evaluate` does."""
    tokenizer = load_tokenizer(folder, read_hf_config(folder))
    return prepare_corpus(sources_of(text), tokenizer, ReadingOptions(), val_fraction=1, seed=0)


def expected_nats(folder: Path) -> list[float]:
    """Every sample behind an end-of-text, with its own end-of-text predicted, through transformers."""
    oracle = GPT2LMHeadModel.from_pretrained(folder).eval()
    tokenizer = load_tokenizer(folder, read_hf_config(folder))
    nats = []
    for ids in tokenizer.encode(TEXTS):
        with torch.no_grad():
            logits_TV = oracle(torch.tensor([[0, *ids]])).logits[0]
        nats.append(float(cross_entropy(logits_TV, torch.tensor([*ids, 0]), reduction="sum")))
    return nats


def test_equals_transformers_sample_by_sample(folder: Path, text: Path) -> None:
    """Packed evaluation gives each sample the nats that transformers gives it alone."""
    evaluation = evaluate_split(
        load_gpt2(folder), corpus_of(folder, text).validation, context_tokens=64, tokens_per_batch=64
    )
    assert evaluation.sample_nats == pytest.approx(expected_nats(folder), rel=1e-5)
    assert evaluation.perplexity == pytest.approx(math.exp(sum(expected_nats(folder)) / evaluation.tokens), rel=1e-4)
    assert evaluation.text_bytes == sum(map(len, TEXTS))
    assert evaluation.bits_per_byte == pytest.approx(
        sum(expected_nats(folder)) / math.log(2) / sum(map(len, TEXTS)), rel=1e-5
    )


@pytest.mark.parametrize("tokens_per_batch", [64, 100, 10_000])
@pytest.mark.parametrize("context_tokens", [7, 64])
def test_batch_size_changes_nothing(tokens_per_batch: int, context_tokens: int, folder: Path, text: Path) -> None:
    """The figures depend on the context, not on how many tokens are computed at once."""
    split = corpus_of(folder, text).validation
    model = load_gpt2(folder).train()
    one = evaluate_split(model, split, context_tokens=context_tokens, tokens_per_batch=1)
    many = evaluate_split(model, split, context_tokens=context_tokens, tokens_per_batch=tokens_per_batch)
    assert many.sample_nats == pytest.approx(one.sample_nats, rel=1e-5)
    assert many.tokens == one.tokens
    assert model.training


def test_prompts_are_read_and_not_counted(folder: Path, tmp_path: Path) -> None:
    """Of a pair only the completion and its end-of-text are measured, behind the prompt they belong to."""
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"question": "the lamp", "answer": "burns"}\n{"question": "rain", "answer": "at dusk"}\n', "utf-8")
    oracle = GPT2LMHeadModel.from_pretrained(folder).eval()
    tokenizer = load_tokenizer(folder, read_hf_config(folder))
    expected = []
    for prompt, completion in (("the lamp\n", "burns"), ("rain\n", "at dusk")):
        given_ids, learned_ids = tokenizer.encode([prompt, completion])
        with torch.no_grad():
            logits_TV = oracle(torch.tensor([[0, *given_ids, *learned_ids]])).logits[0][len(given_ids) :]
        expected.append(float(cross_entropy(logits_TV, torch.tensor([*learned_ids, 0]), reduction="sum")))
    result = evaluate_model(EvaluateConfig(str(folder), (str(path),)))
    assert result["nats_per_token"] * result["tokens"] == pytest.approx(sum(expected), rel=1e-5)
    assert result["bytes"] == len("burns" + "at dusk")


def test_a_model_that_knows_nothing(folder: Path, text: Path) -> None:
    """With all logits equal, perplexity is the size of the true vocabulary, padding not counted."""
    model = load_gpt2(folder)
    with torch.no_grad():
        model.transformer.wte.weight.zero_()
    evaluation = evaluate_split(model, corpus_of(folder, text).validation, context_tokens=64, tokens_per_batch=64)
    assert evaluation.perplexity == pytest.approx(300, rel=1e-6)


def test_three_tokens_by_hand() -> None:
    """Probabilities 1/2, 1/4 and 1/8 in two samples: token-weighted, not averaged over samples."""
    evaluation = Evaluation(np.log([2.0 * 4.0, 8.0]), np.array([2, 1]), text_bytes=6)
    assert evaluation.perplexity == pytest.approx(4.0)
    assert evaluation.bits_per_byte == pytest.approx(1.0)


def test_confidence_interval() -> None:
    """It holds the estimate, shrinks with more samples, is the same every time, and needs two samples."""
    random = np.random.default_rng(1)
    tokens = random.integers(5, 50, size=400)
    nats = tokens * random.normal(3.0, 0.5, size=400)
    large, small = (Evaluation(nats[:n], tokens[:n], text_bytes=1) for n in (400, 40))
    low, high = confidence_interval(large, seed=1) or (0, 0)
    wide_low, wide_high = confidence_interval(small, seed=1) or (0, 0)
    assert low < large.perplexity < high
    assert high - low < wide_high - wide_low
    assert confidence_interval(large, seed=1) == (low, high)
    assert confidence_interval(Evaluation(nats[:1], tokens[:1], text_bytes=1), seed=1) is None
    # the textbook's standard error of a ratio agrees with the width
    residual = nats - large.nats_per_token * tokens
    standard_error = math.sqrt(400 * residual.var(ddof=1)) / tokens.sum()
    assert math.log(high / low) == pytest.approx(2 * 1.96 * standard_error, rel=0.15)


def test_the_verb_reports_what_it_measured(folder: Path, text: Path) -> None:
    """`evaluate` on a CPU is exact, and names every figure with its unit and method."""
    result = evaluate_model(EvaluateConfig(str(folder), (str(text),)))
    total = sum(expected_nats(folder))
    assert result["nats_per_token"] == pytest.approx(total / result["tokens"], rel=1e-4)
    assert result["samples"] == len(TEXTS)
    assert result["bytes"] == sum(map(len, TEXTS))
    assert result["confidence_interval"][0] < result["perplexity"] < result["confidence_interval"][1]
    assert "end-of-text included" in result["method"]
    assert not result["trained_on_this"]
