"""Writing texts: each one as if it were alone."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config as HFConfig
from transformers import GPT2LMHeadModel

from tunesmith.errors import UserError
from tunesmith.generation.cpu_inference import (
    Int8Linear,
    Quantize,
    has_fp16_kernels,
    has_packed_kernels,
    prepare_for_inference,
)
from tunesmith.generation.engine import Engine, generate_tokens
from tunesmith.generation.sampling import SamplingParams
from tunesmith.generation.sequence import GenerationOutput, GenerationRequest
from tunesmith.model.gpt2 import GPT2
from tunesmith.model.hf_checkpoint import load_gpt2

GREEDY = SamplingParams(0.0, 0, 1.0)
SAMPLED = SamplingParams(1.0, 50, 0.95)
PROMPTS = [[0], [0, 5, 9, 14], [0, *range(100, 130)], [0, 7]]
NEVER = 300
GreedyByTransformers = Callable[[GPT2LMHeadModel, list[int], int], list[int]]


@pytest.fixture
def model(make_model_folder: Callable[..., Path]) -> GPT2:
    """Random weights, 64 positions, 300 tokens."""
    return load_gpt2(make_model_folder())


def write(
    model: GPT2, prompts: list[list[int]], seeds: list[int], rules: SamplingParams, n: int, end: int = NEVER
) -> list[GenerationOutput]:
    """Shorter to call."""
    return generate_tokens(model, prompts, seeds=seeds, params=rules, max_new_tokens=n, end_of_text_id=end)


@pytest.mark.parametrize("rules", [GREEDY, SAMPLED])
def test_a_text_does_not_depend_on_its_neighbors(rules: SamplingParams, model: GPT2) -> None:
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
    texts = write(model, PROMPTS, [1, 2, 3, 4], SamplingParams(2.5, 20, 0.9), 12)
    for prompt, text in zip(PROMPTS, texts, strict=True):
        with torch.no_grad():
            logits_TV = oracle(torch.tensor([prompt + text.tokens])).logits[0]
        expected_T = logits_TV.log_softmax(-1)[len(prompt) - 1 : -1].gather(1, torch.tensor(text.tokens)[:, None])
        assert text.logprobs == pytest.approx(expected_T[:, 0].tolist(), abs=1e-4)


SHAPES = [
    {"n_layer": 1 + seed % 3, "n_head": heads, "n_embd": 8 * heads * (1 + seed % 2), "n_positions": 16 + 8 * (seed % 4)}
    for seed, heads in enumerate([1, 2, 3, 4] * 5)
]


@pytest.mark.parametrize("seed", range(20))
def test_greedy_equals_transformers(
    seed: int, make_model_folder: Callable[..., Path], greedy_by_transformers: GreedyByTransformers
) -> None:
    """Twenty random models: alone, among unequal prompts, in fewer places, packed or not, beyond the positions."""
    shape = SHAPES[seed]
    folder = make_model_folder(seed=seed, **shape)
    oracle = GPT2LMHeadModel.from_pretrained(folder).eval()
    random = torch.Generator().manual_seed(seed)
    lengths = (1, 3, shape["n_positions"] // 2, shape["n_positions"] - 1, shape["n_positions"])
    prompts = [[0, *torch.randint(1, 300, (n - 1,), generator=random).tolist()] for n in lengths]
    n_new = 2 * shape["n_positions"]
    expected = [greedy_by_transformers(oracle, prompt, n_new) for prompt in prompts]
    model = load_gpt2(folder)
    assert [text.tokens for text in write(model, prompts, [0] * 5, GREEDY, n_new)] == expected
    assert write(model, prompts[1:2], [0], GREEDY, n_new)[0].tokens == expected[1]
    logits = prepare_for_inference(model, "none")
    for batch_size in (1, 2):
        engine = Engine(model, end_of_text_id=NEVER, batch_size=batch_size, positions=10_000, logits=logits)
        for prompt in prompts:
            engine.submit(GenerationRequest(prompt, 0, GREEDY, n_new))
        assert [text.tokens for _, text in sorted(engine.run())] == expected


@pytest.mark.slow
def test_greedy_equals_transformers_in_gpt2s_shape(
    tmp_path: Path, greedy_by_transformers: GreedyByTransformers
) -> None:
    """The 124M shape, two unequal prompts side by side, with packed weights."""
    torch.manual_seed(1)
    oracle = GPT2LMHeadModel(HFConfig(attn_pdrop=0.0)).eval()
    oracle.save_pretrained(tmp_path / "gpt2")
    prompts = [[50256, *range(1000, 1060)], [50256, 5, 9]]
    model = load_gpt2(tmp_path / "gpt2")
    engine = Engine(
        model, end_of_text_id=50256, batch_size=2, positions=80, logits=prepare_for_inference(model, "none")
    )
    for prompt in prompts:
        engine.submit(GenerationRequest(prompt, 0, GREEDY, 12))
    texts = [text.tokens for _, text in sorted(engine.run())]
    assert texts == [greedy_by_transformers(oracle, prompt, 12) for prompt in prompts]


@pytest.mark.parametrize("quantize", ["none", "int8"])
@pytest.mark.parametrize("precision", ["fp32", "fp16 weights", "bf16"])
def test_the_same_seed_alone_and_among_sixty_four(precision: str, quantize: Quantize, model: GPT2) -> None:
    """Seed 7 writes one text, whoever else is written beside it: in products of rounded weights to the last bit.

    fp32 products of several threads may differ in the last bit with the number of rows.
    """
    if precision != "fp32" and not has_fp16_kernels():
        pytest.skip("no kernel for 16-bit weights here")
    model.compute_dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    model.to(model.compute_dtype)
    logits = prepare_for_inference(model, quantize, may_round=precision == "fp16 weights")
    results = []
    for others in (0, 63):
        engine = Engine(model, end_of_text_id=NEVER, batch_size=64, positions=10_000, logits=logits)
        number = engine.submit(GenerationRequest([0, 5, 9], 7, SAMPLED, 150))
        for seed in range(others):
            engine.submit(GenerationRequest([0, *range(1, 2 + seed % 40)], 100 + seed, SAMPLED, 20 + 3 * seed))
        results.append(dict(engine.run())[number])
    assert results[0].tokens == results[1].tokens
    torch.testing.assert_close(*(torch.tensor(result.logprobs) for result in results), rtol=0, atol=1e-4)
    if (precision, quantize) != ("fp32", "none"):
        assert results[0] == results[1]
    assert len(results[0].tokens) == 150


@pytest.mark.parametrize("by_fbgemm", [True, False])
def test_bf16_keeps_differences_between_large_logits(
    by_fbgemm: bool,  # noqa: FBT001  parametrized
    make_model_folder: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Logits around -100, as GPT-2 has them: log-probabilities are off by hundredths of a nat, not by quarters."""
    if not (has_fp16_kernels() if by_fbgemm else has_packed_kernels(torch.bfloat16)):
        pytest.skip("this processor does not compute in it")
    monkeypatch.setattr("tunesmith.generation.cpu_inference.has_fp16_kernels", lambda: by_fbgemm)
    model = load_gpt2(make_model_folder())
    with torch.no_grad():
        model.head_VC[:300, 0] -= 30
        hidden_NC = torch.randn(5, 32, generator=torch.Generator().manual_seed(1))
        hidden_NC[:, 0] = 3.5
        expected_NV = model.to(torch.bfloat16).float().logits(hidden_NC.bfloat16().float()).log_softmax(-1)
        model.to(torch.bfloat16).compute_dtype = torch.bfloat16
        logits = prepare_for_inference(model, "none")
        given_NV = logits(hidden_NC.bfloat16().to(model.compute_dtype)).log_softmax(-1)
    assert (given_NV - expected_NV).abs().mean() < (0.001 if by_fbgemm else 0.05)


def test_int8_is_nearly_the_same(make_model_folder: Callable[..., Path]) -> None:
    """Rounded weights and inputs change logits by less than two hundredths of their spread."""
    folder = make_model_folder()
    exact, rounded = load_gpt2(folder), load_gpt2(folder)
    logits = prepare_for_inference(rounded, "int8")
    hidden_NC = torch.randn(7, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected_NV = exact.logits(hidden_NC).log_softmax(-1)
        error_NV = logits(hidden_NC).log_softmax(-1) - expected_NV
    assert 0 < float(error_NV.std()) < 0.02 * float(expected_NV.std())
    linears = [module for module in rounded.modules() if isinstance(module, Int8Linear)]
    assert len(linears) == 8


def test_a_prompt_may_fill_the_positions(model: GPT2) -> None:
    """It is read whole and the text goes on; a longer prompt is refused, because its beginning would be ignored."""
    full = [0] * 64
    assert len(write(model, [full], [1], GREEDY, 10)[0].tokens) == 10
    with pytest.raises(UserError, match="has 65 tokens, and the model reads at most 64"):
        write(model, [[*full, 0]], [1], GREEDY, 10)


def test_a_cancelled_text_frees_its_place(model: GPT2) -> None:
    """Whether it waits or is being written; the others become what they would have been."""
    alone = write(model, [[0, 7]], [3], SAMPLED, 20)[0].tokens
    engine = Engine(model, end_of_text_id=NEVER, batch_size=2, positions=100)
    numbers = [engine.submit(GenerationRequest([0, seed], seed, SAMPLED, 20)) for seed in (1, 2, 4)]
    wanted = engine.submit(GenerationRequest([0, 7], 3, SAMPLED, 20))
    engine.step()
    engine.cancel(numbers[0])
    engine.cancel(numbers[2])
    finished = dict(engine.run())
    assert set(finished) == {numbers[1], wanted}
    assert finished[wanted].tokens == alone


def test_no_end_before_the_minimum(model: GPT2) -> None:
    """End-of-text is impossible before, and free to come after."""
    end = write(model, [[0]], [1], GREEDY, 1)[0].tokens[0]
    engine = Engine(model, end_of_text_id=end, batch_size=1, positions=100)
    engine.submit(GenerationRequest([0], 1, GREEDY, 30, min_new_tokens=4))
    engine.submit(GenerationRequest([0], 1, GREEDY, 30))
    (_, text), (_, free) = sorted(engine.run())
    assert free.tokens == []
    assert len(text.tokens) >= 4


@pytest.mark.parametrize("training", [True, False])
def test_the_models_mode_is_restored(training: bool, model: GPT2) -> None:  # noqa: FBT001  parametrized
    """Sampling in the middle of training leaves the model in training mode, without dropout in between."""
    model.train(training)
    texts = write(model, [[0]], [1], SAMPLED, 5)
    assert model.training is training
    assert texts[0].tokens == write(model.eval(), [[0]], [1], SAMPLED, 5)[0].tokens
