"""The model against transformers' GPT-2, over random small configurations."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import GPT2LMHeadModel

from tunesmith.generation.engine import generate_tokens
from tunesmith.generation.sampling import SamplingParams
from tunesmith.model.attention import GroupedSDPA, PackedLayout
from tunesmith.model.gpt2 import ACTIVATIONS, GPT2
from tunesmith.model.hf_checkpoint import CONV1D, load_gpt2, save_gpt2, to_hf_state_dict
from tunesmith.model.loss import fused_linear_cross_entropy

SEEDS = range(20)


def random_settings(seed: int) -> dict[str, Any]:
    """A small configuration with every implemented switch thrown at random."""
    choose = random.Random(seed)
    n_head = choose.choice([1, 2, 3, 4])
    return {
        "vocab_size": choose.randint(30, 400),
        "n_positions": 80,
        "n_head": n_head,
        "n_embd": n_head * choose.choice([8, 12, 16]),
        "n_layer": choose.randint(1, 4),
        "n_inner": choose.choice([None, 20, 100]),
        "activation_function": choose.choice(sorted(ACTIVATIONS)),
        "layer_norm_epsilon": choose.choice([1e-5, 1e-3]),
        "scale_attn_weights": choose.random() < 0.8,
        "scale_attn_by_inverse_layer_idx": choose.random() < 0.4,
        "reorder_and_upcast_attn": choose.random() < 0.3,
        "tie_word_embeddings": choose.random() < 0.7,
    }


@pytest.fixture
def make_pair(make_model_folder: Callable[..., Path]) -> Callable[[int], tuple[GPT2LMHeadModel, GPT2, Path]]:
    """A function that gives transformers' model, ours with the same weights, and their folder."""

    def make(seed: int) -> tuple[GPT2LMHeadModel, GPT2, Path]:
        folder = make_model_folder(seed=seed, tokenizer=False, **random_settings(seed))
        return GPT2LMHeadModel.from_pretrained(folder).eval(), load_gpt2(folder), folder

    return make


def random_documents(seed: int, vocab_size: int) -> list[Tensor]:
    """Documents of 1 to 80 tokens, some of them equally long."""
    generator = torch.Generator().manual_seed(seed)
    lengths = [*torch.randint(1, 81, (4,), generator=generator).tolist(), 7, 7, 1]
    return [torch.randint(0, vocab_size, (length,), generator=generator) for length in lengths]


def packed_hidden(model: GPT2, documents: list[Tensor]) -> Tensor:
    """Hidden states of documents side by side, [N, C]."""
    offsets = [0]
    for document in documents:
        offsets.append(offsets[-1] + len(document))
    positions_N = torch.cat([torch.arange(len(document)) for document in documents])
    attend = GroupedSDPA(PackedLayout.of(tuple(offsets)))
    hidden_NC: Tensor = model(torch.cat(documents), positions_N, lambda _layer: attend)
    return hidden_NC


@pytest.mark.parametrize("seed", SEEDS)
def test_logits_and_gradients_equal_transformers(
    seed: int, make_pair: Callable[[int], tuple[GPT2LMHeadModel, GPT2, Path]]
) -> None:
    """Packed logits are within 1e-5, and every gradient within 1e-4, of transformers on one document at a time."""
    oracle, model, _ = make_pair(seed)
    documents = random_documents(seed, oracle.config.vocab_size)
    targets = [document.roll(1) for document in documents]
    oracle_nats = torch.zeros(())
    oracle_logits = []
    for document, target in zip(documents, targets, strict=True):
        logits_TV = oracle(document[None]).logits[0]
        oracle_logits.append(logits_TV)
        oracle_nats = oracle_nats + cross_entropy(logits_TV, target, reduction="sum")
    oracle_nats.backward()

    hidden_NC = packed_hidden(model, documents)
    nats = fused_linear_cross_entropy(hidden_NC, model.head_VC, torch.cat(targets), model.config.vocab_size)
    nats.backward()

    torch.testing.assert_close(model.logits(hidden_NC), torch.cat(oracle_logits), atol=1e-5, rtol=0)
    torch.testing.assert_close(nats, oracle_nats, rtol=1e-5, atol=0)
    expected = {name: parameter.grad for name, parameter in oracle.named_parameters()}
    for name, parameter in model.named_parameters():
        gradient = parameter.grad
        assert gradient is not None
        if name in {"transformer.wte.weight", "lm_head.weight"}:
            assert not gradient[model.config.vocab_size :].any()
            gradient = gradient[: model.config.vocab_size]
        if name.endswith(CONV1D):
            gradient = gradient.t()
        # The key bias moves every score of a query alike, so its true gradient is 0: compare it by size.
        difference = (gradient - expected[name]).norm()
        assert difference <= 1e-4 * expected[name].norm() + 1e-5, name


@pytest.mark.parametrize("seed", SEEDS)
def test_greedy_text_equals_transformers(
    seed: int, make_pair: Callable[[int], tuple[GPT2LMHeadModel, GPT2, Path]]
) -> None:
    """Fifty greedy tokens behind each of three unequal prompts, batched, are those transformers writes one by one."""
    oracle, model, _ = make_pair(seed)
    generator = torch.Generator().manual_seed(seed)
    prompts = [torch.randint(0, oracle.config.vocab_size, (n,), generator=generator).tolist() for n in (1, 5, 12)]
    never = oracle.config.vocab_size
    expected = [
        oracle.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=50,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )[0, len(prompt) :].tolist()
        for prompt in prompts
    ]
    written = generate_tokens(
        model,
        prompts,
        seeds=[0, 1, 2],
        params=SamplingParams(temperature=0.0, top_k=0, top_p=1.0),
        max_new_tokens=50,
        end_of_text_id=never,
    )
    assert [text.tokens for text in written] == expected


@pytest.mark.parametrize("seed", SEEDS)
def test_export_then_import_is_bitwise(
    seed: int, make_pair: Callable[[int], tuple[GPT2LMHeadModel, GPT2, Path]], tmp_path: Path
) -> None:
    """What we write is what transformers wrote, bit by bit, and it loads there with equal logits."""
    oracle, model, folder = make_pair(seed)
    state = to_hf_state_dict(model)
    expected = oracle.state_dict()
    if oracle.config.tie_word_embeddings:
        del expected["lm_head.weight"]
    assert set(state) == set(expected)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in state.items())

    copy = tmp_path / "copy"
    copy.mkdir()
    save_gpt2(model, copy, hf_config=oracle.config.to_dict())
    again = to_hf_state_dict(load_gpt2(copy))
    assert all(torch.equal(tensor, again[name]) for name, tensor in state.items())
    tokens = torch.arange(10)[None] % oracle.config.vocab_size
    with torch.no_grad():
        assert torch.equal(GPT2LMHeadModel.from_pretrained(copy).eval()(tokens).logits, oracle(tokens).logits)
    assert folder != copy


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_leak_from_the_future_or_from_neighbors(dtype: torch.dtype, make_model_folder: Callable[..., Path]) -> None:
    """A changed token changes nothing before it and nothing in other documents, and does change what follows it."""
    model = load_gpt2(make_model_folder(n_positions=700))
    model.compute_dtype = dtype
    generator = torch.Generator().manual_seed(1)
    documents = [torch.randint(0, 300, (length,), generator=generator) for length in (9, 9, 30, 600, 1, 4)]
    with torch.no_grad():
        before_NC = packed_hidden(model, documents)
        offset = 0
        for number, document in enumerate(documents):
            at = len(document) // 2
            changed = [other.clone() for other in documents]
            changed[number][at] = (document[at] + 1) % 300
            after_NC = packed_hidden(model, changed)
            same_N = (before_NC == after_NC).all(dim=1)
            affected = torch.zeros(len(same_N), dtype=torch.bool)
            affected[offset + at : offset + len(document)] = True
            assert same_N[~affected].all()
            assert not same_N[affected].any()
            offset += len(document)


@torch.no_grad()
def test_bf16_arithmetic_stays_close(make_model_folder: Callable[..., Path]) -> None:
    """Computing in bf16 with fp32 weights moves the loss, and by well under one percent."""
    model = load_gpt2(make_model_folder())
    documents = [document[:60] for document in random_documents(3, 300)]
    targets_N = torch.cat([document.roll(1) for document in documents])
    exact, rounded = (
        float(fused_linear_cross_entropy(packed_hidden(model, documents), model.head_VC, targets_N, 300))
        for model.compute_dtype in (torch.float32, torch.bfloat16)
    )
    assert rounded == pytest.approx(exact, rel=5e-3)
    assert rounded != exact
