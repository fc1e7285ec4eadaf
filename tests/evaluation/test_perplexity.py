"""Perplexity against transformers, one sample at a time."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch.nn.functional import cross_entropy
from transformers import GPT2LMHeadModel

from tunesmith.cli import main
from tunesmith.config import EvaluateConfig
from tunesmith.data.corpus import Corpus, prepare_corpus, text_sizes
from tunesmith.data.readers import ReadingOptions
from tunesmith.data.source_files import ResolvedSources, resolve_sources
from tunesmith.data.tokenizer import load_tokenizer
from tunesmith.errors import UserError
from tunesmith.evaluation.evaluate import evaluate_model
from tunesmith.evaluation.perplexity import Evaluation, evaluate_split, perplexity_interval
from tunesmith.model.hf_checkpoint import load_gpt2
from tunesmith.model.hf_config import read_hf_config

END_OF_TEXT = "<|endoftext|>"
ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
TEXTS = ["the lamp burns", "rain", "gulls! 42 of them, and the wind is in the north today", "the stairs", "rain"]


def sources_of(source: Path) -> ResolvedSources:
    """What a SOURCE stands for."""
    with resolve_sources([str(source)]) as found:
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
        load_gpt2(folder), corpus_of(folder, text).validation, context_length=64, tokens_per_batch=64
    )
    assert evaluation.sample_nats == pytest.approx(expected_nats(folder), rel=1e-5)
    assert evaluation.perplexity == pytest.approx(math.exp(sum(expected_nats(folder)) / evaluation.tokens), rel=1e-4)
    assert evaluation.text_bytes == sum(map(len, TEXTS))
    assert evaluation.bits_per_byte == pytest.approx(
        sum(expected_nats(folder)) / math.log(2) / sum(map(len, TEXTS)), rel=1e-5
    )


@pytest.mark.parametrize("tokens_per_batch", [64, 100, 10_000])
@pytest.mark.parametrize("context_length", [7, 64])
def test_batch_size_changes_nothing(tokens_per_batch: int, context_length: int, folder: Path, text: Path) -> None:
    """The figures depend on the context, not on how many tokens are computed at once."""
    split = corpus_of(folder, text).validation
    model = load_gpt2(folder).train()
    one = evaluate_split(model, split, context_length=context_length, tokens_per_batch=1)
    many = evaluate_split(model, split, context_length=context_length, tokens_per_batch=tokens_per_batch)
    assert many.sample_nats == pytest.approx(one.sample_nats, rel=1e-5)
    assert many.tokens == one.tokens
    assert model.training


DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
BOOKS = {"shakespeare": DATA / "tinyshakespeare" / "input.txt", "wikitext": DATA / "wikitext-2" / "valid.txt"}


def sliding_nats(folder: Path, text: str, context_length: int, stride: int) -> float:
    """Through transformers, a window at a time: read it, keep the predictions of what no earlier window predicted."""
    oracle = GPT2LMHeadModel.from_pretrained(folder).eval()
    ids = load_tokenizer(folder, read_hf_config(folder)).encode([text])[0]
    read, wanted = [0, *ids], [*ids, 0]
    nats, done, begin = 0.0, 0, 0
    while done < len(wanted):
        end = min(begin + context_length, len(wanted))
        with torch.no_grad():
            logits_TV = oracle(torch.tensor([read[begin:end]])).logits[0][done - begin :]
        nats += float(cross_entropy(logits_TV, torch.tensor(wanted[done:end]), reduction="sum"))
        done, begin = end, begin + stride
    return nats


@pytest.mark.parametrize("stride", [16, 47, 64])
@pytest.mark.parametrize("book", BOOKS)
def test_sliding_equals_transformers_on_real_text(
    book: str, stride: int, tmp_path: Path, make_model_folder: Callable[..., Path]
) -> None:
    """Every token once, through overlapping windows, whatever the stride; bytes and characters are the text's."""
    if not BOOKS[book].is_file():
        pytest.skip("the real text is not beside this checkout")
    text = BOOKS[book].read_text("utf-8")[:6000]
    (tmp_path / "book.txt").write_text(text, "utf-8")
    folder = make_model_folder()
    result = evaluate_model(
        EvaluateConfig(str(folder), (str(tmp_path / "book.txt"),), split_on="document", stride=stride)
    )
    text = text.removesuffix("\n") if result["bytes"] < len(text.encode()) else text
    expected = sliding_nats(folder, text, 64, stride)
    assert result["loss"] == pytest.approx(expected / result["tokens"], rel=1e-5)
    assert result["perplexity"] == pytest.approx(math.exp(expected / result["tokens"]), rel=1e-4)
    assert result["bits_per_byte"] == pytest.approx(expected / math.log(2) / len(text.encode()), rel=1e-5)
    assert result["bits_per_character"] == pytest.approx(expected / math.log(2) / len(text), rel=1e-5)


def test_a_smaller_stride_sees_more(folder: Path, text: Path) -> None:
    """Samples that fit the context do not depend on the stride; a stride beyond the context would skip tokens."""
    figures = [
        evaluate_model(EvaluateConfig(str(folder), (str(text),), context_length=64, stride=stride))
        for stride in (1, 64)
    ]
    assert figures[0]["loss"] == figures[1]["loss"]
    with pytest.raises(UserError, match="--stride 65 does not fit a context of 64"):
        evaluate_model(EvaluateConfig(str(folder), (str(text),), context_length=64, stride=65))


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
    assert result["loss"] * result["tokens"] == pytest.approx(sum(expected), rel=1e-5)
    assert result["bytes"] == len("burns" + "at dusk")


def test_a_model_that_knows_nothing(folder: Path, text: Path) -> None:
    """With all logits equal, perplexity is the size of the true vocabulary, padding not counted."""
    model = load_gpt2(folder)
    with torch.no_grad():
        model.transformer.wte.weight.zero_()
    evaluation = evaluate_split(model, corpus_of(folder, text).validation, context_length=64, tokens_per_batch=64)
    assert evaluation.perplexity == pytest.approx(300, rel=1e-6)


def test_bits_per_byte_do_not_depend_on_the_tokenizer(make_model_folder: Callable[..., Path], tmp_path: Path) -> None:
    """A model that gives every byte the same chance, under two tokenizers: 8 bits a byte by both.

    Under the second tokenizer every other token is a pair of bytes, with the square of a byte's chance.
    """
    bytes_only = Tokenizer(models.BPE(vocab={END_OF_TEXT: 0, **{c: i for i, c in enumerate(ALPHABET, 1)}}, merges=[]))
    in_pairs = Tokenizer(
        models.BPE(
            vocab={END_OF_TEXT: 0, **{c: i for i, c in enumerate(ALPHABET, 1)}, "ab": 257},
            merges=[("a", "b")],
        )
    )
    path = tmp_path / "ab.txt"
    path.write_text("ababab\nabab\nab\n", "utf-8")
    bits = []
    for name, tokenizer in (("bytes", bytes_only), ("pairs", in_pairs)):
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        folder = make_model_folder(name, tokenizer=False, vocab_size=tokenizer.get_vocab_size())
        tokenizer.save(str(folder / "tokenizer.json"))
        model = load_gpt2(folder)
        chances_V = torch.full((tokenizer.get_vocab_size(),), 1 / 256)
        chances_V[257:] = 1 / 256**2
        chances_V[0] = 1.0  # end-of-text costs nothing, so that nothing but bytes is counted
        with torch.no_grad():  # hidden states of one constant channel: the head's first column is the log-chances
            for parameter in model.parameters():
                parameter.zero_()
            model.transformer.ln_f.bias[0] = 1.0
            model.head_VC[: len(chances_V), 0] = chances_V.log()
        corpus = prepare_corpus(
            sources_of(path), load_tokenizer(folder, read_hf_config(folder)), ReadingOptions(), val_fraction=1, seed=0
        )
        evaluation = evaluate_split(model, corpus.validation, context_length=64, tokens_per_batch=64)
        normalizer = float(chances_V.sum().log())  # the chances do not sum to 1, which costs the same for each token
        bits.append((evaluation.sample_nats.sum() - normalizer * evaluation.tokens) / math.log(2) / 12)
    assert bits == pytest.approx([8.0, 8.0], rel=1e-5)


def test_text_sizes_are_those_of_the_text(folder: Path, tmp_path: Path) -> None:
    """Bytes and characters of every sample, counted without decoding, also where a token ends inside a character."""
    lines = ["plain", "naïve café", "灯台の夜は静かだ", "🦊 and 👩‍🚀", "mixed 夜 and é"]
    path = tmp_path / "lines.txt"
    path.write_text("\n".join(lines) + "\n", "utf-8")
    sizes = text_sizes(corpus_of(folder, path).validation, load_tokenizer(folder, read_hf_config(folder)))
    assert sizes.characters.tolist() == [len(line) for line in lines]
    assert sizes.text_bytes.tolist() == [len(line.encode()) for line in lines]


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
    low, high = perplexity_interval(large, seed=1) or (0, 0)
    wide_low, wide_high = perplexity_interval(small, seed=1) or (0, 0)
    assert low < large.perplexity < high
    assert high - low < wide_high - wide_low
    assert perplexity_interval(large, seed=1) == (low, high)
    assert perplexity_interval(Evaluation(nats[:1], tokens[:1], text_bytes=1), seed=1) is None
    # the textbook's standard error of a ratio agrees with the width
    residual = nats - large.loss * tokens
    standard_error = math.sqrt(400 * residual.var(ddof=1)) / tokens.sum()
    assert math.log(high / low) == pytest.approx(2 * 1.96 * standard_error, rel=0.15)


def test_the_verb_reports_what_it_measured(folder: Path, text: Path) -> None:
    """`evaluate` on a CPU is exact, and names every figure with its unit and method."""
    result = evaluate_model(EvaluateConfig(str(folder), (str(text),)))
    total = sum(expected_nats(folder))
    assert result["loss"] == pytest.approx(total / result["tokens"], rel=1e-4)
    assert result["samples"] == len(TEXTS)
    assert result["bytes"] == sum(map(len, TEXTS))
    assert result["perplexity_ci95"][0] < result["perplexity"] < result["perplexity_ci95"][1]
    assert "end-of-text included" in result["method"]
    assert not result["overlaps_training_data"]


def test_base_against_tuned(make_model_folder: Callable[..., Path], text: Path, tmp_path: Path) -> None:
    """Both are measured on the same samples; the difference has its own, narrower interval, and the worst are named."""
    tuned, base = make_model_folder("tuned", seed=1), make_model_folder("base", seed=2)
    out = tmp_path / "samples.jsonl"
    result = evaluate_model(EvaluateConfig(str(tuned), (str(text),), base=str(base), worst=2, out=str(out)))
    lines = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    nats, base_nats = expected_nats(tuned), expected_nats(base)
    assert [line["nats"] for line in lines] == pytest.approx(nats, rel=1e-4)
    assert [line["base_nats"] for line in lines] == pytest.approx(base_nats, rel=1e-4)
    tokens = sum(line["tokens"] for line in lines)
    difference = result["difference"]
    expected = math.exp(sum(nats) / tokens) - math.exp(sum(base_nats) / tokens)
    assert difference["perplexity"]["value"] == pytest.approx(expected, rel=1e-3)
    assert difference["loss"]["value"] == pytest.approx((sum(nats) - sum(base_nats)) / tokens, rel=1e-3)
    low, high = difference["bits_per_byte"]["ci95"]
    assert low <= difference["bits_per_byte"]["value"] <= high
    per_token = [line["nats"] / line["tokens"] for line in lines]
    assert [worst["sample"] - 1 for worst in result["worst_samples"]] == sorted(range(5), key=lambda n: -per_token[n])[
        :2
    ]
    assert all(worst["text"] == TEXTS[worst["sample"] - 1] for worst in result["worst_samples"])
    with pytest.raises(UserError, match="is already there"):
        evaluate_model(EvaluateConfig(str(tuned), (str(text),), out=str(out)))


def test_a_model_does_not_differ_from_itself(folder: Path, text: Path) -> None:
    """Compared with itself the difference is 0 and so is its interval: both are drawn together."""
    difference = evaluate_model(EvaluateConfig(str(folder), (str(text),), base=str(folder)))["difference"]
    for name in ("perplexity", "loss", "bits_per_byte"):
        assert difference[name] == {"value": 0.0, "ci95": [0.0, 0.0]}
    assert difference["win_rate"] == 0


def test_the_table_compares_in_columns(
    make_model_folder: Callable[..., Path], text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Base, tuned and difference stand beside each other, as the JSON object has them, the worst samples below."""
    command = ["evaluate", str(make_model_folder("tuned", seed=1)), str(text)]
    command += ["--base", str(make_model_folder("base", seed=2)), "--worst", "1"]
    capsys.readouterr()
    assert main([*command, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert main(command) == 0
    shown = capsys.readouterr().out
    (row,) = [line.split() for line in shown.splitlines() if line.startswith("perplexity")]
    low, high = result["difference"]["perplexity"]["ci95"]
    figures = [result["base"]["perplexity"], result["perplexity"]]
    assert row[1:3] == [f"{figure:.2f}" for figure in figures]
    assert row[3:] == [f"{figures[1] - figures[0]:+.2f}", f"({low:+.2f}", "to", f"{high:+.2f})"]
    assert f"sample {result['worst_samples'][0]['sample']}: {result['worst_samples'][0]['text']}" in shown
