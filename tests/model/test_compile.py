"""Compiled blocks: the same arithmetic, no code made anew while training, nothing compiled outside of it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from tunesmith.backends import detect_device, probe_triton
from tunesmith.data.corpus import Split
from tunesmith.data.dataloader import TrainBatchSampler
from tunesmith.data.packing import EpochLayout
from tunesmith.data.spans import TokenSpans
from tunesmith.evaluation.perplexity import evaluate_split
from tunesmith.generation.engine import generate_tokens
from tunesmith.generation.sampling import SamplingParams
from tunesmith.model.compile import apply_compile, can_compile, is_compiled
from tunesmith.model.gpt2 import GPT2
from tunesmith.model.hf_checkpoint import load_gpt2
from tunesmith.training.optimizer import make_optimizer
from tunesmith.training.train_step import train_step

pytestmark = [
    pytest.mark.skipif(not can_compile(torch.device("cpu")).value, reason="there is no C++ compiler"),
    pytest.mark.filterwarnings("ignore"),  # inside the compiler, which warns of what it does itself
]

LAYOUT = EpochLayout(steps_per_epoch=6, per_step=2, tokens=128)


def split() -> Split:
    """Random samples of 2 to 30 tokens, so that every batch has another layout."""
    lengths = np.random.default_rng(4).integers(2, 30, 80)
    starts = 1 + np.cumsum(lengths) - lengths
    tokens = np.random.default_rng(3).integers(0, 300, size=lengths.sum() + 1).astype(np.uint16)
    none = np.zeros_like(starts)
    return Split(tokens, TokenSpans(starts, lengths, none, none), text_bytes=1)


def train(model: GPT2, n_steps: int) -> list[float]:
    """Losses of some steps in bf16."""
    model.compute_dtype = torch.bfloat16
    optimizer = make_optimizer(model.train(), weight_decay=0.0)
    order = TrainBatchSampler(split(), context_length=64, layout=LAYOUT, constant_size=True, seed=1)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    settings = {"learning_rate": 1e-3, "max_grad_norm": 1.0, "scaler": scaler}
    results = [train_step(model, optimizer, order.batches(step), **settings) for step in range(n_steps)]
    return [float(result.nats) / result.tokens for result in results]


@pytest.mark.slow
def test_compiled_is_eager_and_stays_compiled(make_model_folder: Callable[..., Path]) -> None:
    """Losses equal those of the model as written; layouts change, the code does not; names stay."""
    folder = make_model_folder(n_layer=4)
    eager, compiled = load_gpt2(folder), load_gpt2(folder)
    apply_compile(compiled)
    assert is_compiled(compiled)
    assert not is_compiled(eager)
    expected = train(eager, 6)
    torch._dynamo.reset()
    counters.clear()
    losses = train(compiled, 1)
    graphs = counters["stats"]["unique_graphs"]
    assert 0 < graphs <= 4  # not one for each of the four blocks
    losses = train(load_compiled(folder), 6)
    assert counters["stats"]["unique_graphs"] == graphs
    assert losses == pytest.approx(expected, rel=2e-3)
    assert list(compiled.state_dict()) == list(eager.state_dict())
    before = counters["stats"]["unique_graphs"]
    evaluate_split(compiled, split(), context_length=64, tokens_per_batch=100)
    generate_tokens(
        compiled, [[0], [0, 5]], seeds=[1, 2], params=SamplingParams(0.0, 0, 1.0), max_new_tokens=3, end_of_text_id=0
    )
    assert counters["stats"]["unique_graphs"] == before


def load_compiled(folder: Path) -> GPT2:
    """Another model of the same shape."""
    model = load_gpt2(folder)
    apply_compile(model)
    return model


def test_what_compiling_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A C++ compiler on the CPU, Triton that works on a GPU; the reason says which is missing."""
    monkeypatch.setattr("shutil.which", lambda _name: None)
    assert can_compile(torch.device("cpu")).reason == "g++ is missing"
    monkeypatch.setattr("tunesmith.backends.find_spec", lambda _name: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: (8, 9))
    detect_device.cache_clear()
    probe_triton.cache_clear()
    try:
        assert can_compile(torch.device("cuda", 0)).reason == "Triton is not installed"
    finally:
        detect_device.cache_clear()
        probe_triton.cache_clear()
