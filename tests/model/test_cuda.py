"""The paths that only a GPU takes, against fp32 on the CPU. Skipped where there is no GPU."""

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tunesmith.generation.engine import Engine, generate_tokens
from tunesmith.generation.sampling import SamplingParams
from tunesmith.generation.sequence import GenerationRequest
from tunesmith.model.attention import PackedLayout, forward_packed, to_model_device
from tunesmith.model.hf_checkpoint import load_gpt2
from tunesmith.model.loss import fused_linear_cross_entropy

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
    pytest.mark.filterwarnings("default"),  # what torch says of a driver or a GPU is no failure of ours
]

LENGTHS = (1, 9, 9, 60, 33)
OFFSETS = (0, 1, 10, 19, 79, 112)
LAYOUT = PackedLayout.of(OFFSETS)


def stream(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Random tokens of a few documents, and their positions."""
    tokens_N = np.random.default_rng(seed).integers(0, 300, size=OFFSETS[-1])
    return tokens_N, np.concatenate([np.arange(length) for length in LENGTHS])


def test_packed_loss_and_gradients_in_bf16(make_model_folder: Callable[..., Path]) -> None:
    """Variable-length attention and bf16 arithmetic stay close to fp32 on the CPU, in loss and gradients."""
    exact = load_gpt2(make_model_folder(n_embd=64))
    gpu = copy.deepcopy(exact).cuda()
    gpu.compute_dtype = torch.bfloat16
    losses = []
    for model in (exact, gpu):
        hidden_NC = forward_packed(model, *stream(1), LAYOUT)
        targets_N = to_model_device(model, stream(2)[0])
        nats = fused_linear_cross_entropy(hidden_NC, model.head_VC, targets_N, 300)
        nats.backward()
        losses.append(nats.item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)
    for (name, expected), (_, actual) in zip(exact.named_parameters(), gpu.named_parameters(), strict=True):
        difference = (actual.grad.cpu() - expected.grad).norm()
        assert difference <= 0.05 * expected.grad.norm() + 1e-3, name


@torch.no_grad()
def test_no_leak_on_the_card(make_model_folder: Callable[..., Path]) -> None:
    """A changed token changes nothing before it and nothing in other documents."""
    model = load_gpt2(make_model_folder(n_embd=64)).cuda()
    model.compute_dtype = torch.bfloat16
    tokens_N, positions_N = stream(1)
    before_NC = forward_packed(model, tokens_N, positions_N, LAYOUT)
    changed_N = tokens_N.copy()
    changed_N[40] = (changed_N[40] + 1) % 300
    same_N = (forward_packed(model, changed_N, positions_N, LAYOUT) == before_NC).all(dim=1).cpu()
    assert same_N[:40].all()
    assert not same_N[40:79].any()
    assert same_N[79:].all()


def test_greedy_text_in_fp32_is_the_cpus(
    make_model_folder: Callable[..., Path], same_but_for_ties: Callable[..., list[int]]
) -> None:
    """The cache on the GPU writes what the CPU writes, where rounding does not decide between two tokens."""
    folder = make_model_folder()
    model = load_gpt2(folder)
    rules = SamplingParams(0.0, 0, 1.0)
    requests = [GenerationRequest([0], 1, rules, 20), GenerationRequest([0, 5, 9], 2, rules, 20)]
    texts = [
        generate_tokens(
            on_device,
            [request.prompt for request in requests],
            seeds=[1, 2],
            params=rules,
            max_new_tokens=20,
            end_of_text_id=300,
        )
        for on_device in (model, copy.deepcopy(model).cuda())
    ]
    same_but_for_ties(folder, requests, *([text.tokens for text in some] for some in texts))


@pytest.mark.parametrize("rules", [SamplingParams(0.0, 0, 1.0), SamplingParams(0.9, 40, 0.9, 0.01, 1.2)])
def test_recorded_steps_write_what_the_host_chooses(
    rules: SamplingParams, make_model_folder: Callable[..., Path], same_but_for_ties: Callable[..., list[int]]
) -> None:
    """Graphs on the GPU, ahead of their results: the same texts as with a look at every token, of unequal lengths.

    Where rounding decides between two tokens, texts may part, but not many of them.
    """
    folder = make_model_folder(n_positions=600)
    model = load_gpt2(folder).cuda()
    requests = [GenerationRequest([0, *range(1, 2 + seed)], seed, rules, 20 + 70 * seed) for seed in range(8)]
    texts = []
    for async_decode in (False, True):
        engine = Engine(model, end_of_text_id=300, batch_size=3, positions=600, async_decode=async_decode)
        for request in requests:
            engine.submit(request)
        texts.append([text.tokens for _, text in sorted(engine.run(), key=lambda finished: finished[0])])
    assert len(same_but_for_ties(folder, requests, *texts)) <= 2
