"""One optimizer step against the plain one: transformers, one sample at a time, unfused AdamW."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import GPT2LMHeadModel

from tunesmith.data.corpus import Split
from tunesmith.data.dataloader import Batch, pack_batches
from tunesmith.data.packing import windows_of
from tunesmith.data.spans import TokenSpans
from tunesmith.model.gpt2 import GPT2
from tunesmith.model.hf_checkpoint import load_gpt2, to_hf_state_dict
from tunesmith.optim.state_format import STATE_FORMATS
from tunesmith.training.optimizer import load_optimizer_state, make_optimizer, optimizer_state
from tunesmith.training.train_step import StepResult, batch_loss_sum, train_step

LENGTHS = [5, 12, 12, 1, 30, 7, 64, 3]


@pytest.fixture
def split() -> Split:
    """Random samples of 1 to 64 tokens."""
    offsets = np.concatenate([[1], 1 + np.cumsum(LENGTHS)])
    tokens = np.random.default_rng(3).integers(0, 300, size=offsets[-1]).astype(np.uint16)
    return Split(
        tokens, TokenSpans(offsets[:-1], np.array(LENGTHS), *np.zeros((2, len(LENGTHS)), np.int64)), text_bytes=0
    )


def batches(split: Split, tokens_per_batch: int) -> list[Batch]:
    """The whole split as micro-batches."""
    return list(pack_batches(split, windows_of(split.spans, 64), tokens_per_batch))


def step(model: GPT2, micro_batches: list[Batch], *, max_grad_norm: float = 1.0) -> StepResult:
    """A fresh optimizer's first step."""
    optimizer = make_optimizer(model, weight_decay=0.1)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    return train_step(model, optimizer, micro_batches, learning_rate=1e-3, max_grad_norm=max_grad_norm, scaler=scaler)


def test_equals_the_plain_step(make_model_folder: Callable[..., Path], split: Split) -> None:
    """Loss, gradient norm and updated weights are those of a plain implementation with decay on matrices only."""
    folder = make_model_folder()
    oracle = GPT2LMHeadModel.from_pretrained(folder).train()
    nats = torch.zeros(())
    for start, end in zip(split.spans.starts, split.spans.ends, strict=True):
        tokens = torch.from_numpy(split.tokens[start - 1 : end].astype(np.int64))
        nats = nats + cross_entropy(oracle(tokens[None, :-1]).logits[0], tokens[1:], reduction="sum")
    (nats / sum(LENGTHS)).backward()
    grad_norm = torch.nn.utils.clip_grad_norm_(oracle.parameters(), 0.05)
    decayed = [p for name, p in oracle.named_parameters() if "ln_" not in name and not name.endswith("bias")]
    others = [p for name, p in oracle.named_parameters() if "ln_" in name or name.endswith("bias")]
    torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}], lr=1e-3, foreach=False
    ).step()

    model = load_gpt2(folder).train()
    result = step(model, batches(split, 80), max_grad_norm=0.05)

    assert result.tokens == sum(LENGTHS)
    torch.testing.assert_close(result.nats, nats.detach(), rtol=1e-5, atol=0)
    torch.testing.assert_close(result.grad_norm, grad_norm, rtol=1e-4, atol=0)
    expected = oracle.state_dict()
    for name, tensor in to_hf_state_dict(model).items():
        # Adam's first step moves a weight by the full rate in the sign of its gradient, however small: where the
        # true gradient is 0 (the keys' bias, unseen positions) the sign is rounding, so those may differ by it.
        close = torch.isclose(tensor, expected[name], rtol=0, atol=2e-5)
        assert close.float().mean() > 0.9, name
        assert (tensor - expected[name]).abs().max() <= 2.1e-3, name


@pytest.mark.parametrize("prompts", [False, True])
@pytest.mark.parametrize("tokens_per_batch", [64, 70, 100])
def test_the_split_into_micro_batches_changes_nothing(
    tokens_per_batch: int, make_model_folder: Callable[..., Path], split: Split, *, prompts: bool
) -> None:
    """The gradient of a step is the same however its samples are dealt: unequal batches, unequally supervised."""
    folder = make_model_folder()
    if prompts:
        given = np.array([0, 11, 3, 0, 29, 1, 60, 2])
        split = replace(split, spans=replace(split.spans, prompt_tokens=given))
    whole, parts = (load_gpt2(folder).train() for _ in range(2))
    one, many = batches(split, 1000), batches(split, tokens_per_batch)
    assert len(one) == 1
    assert len(many) > 1
    results = step(whole, one, max_grad_norm=1e9), step(parts, many, max_grad_norm=1e9)
    torch.testing.assert_close(results[0].grad_norm, results[1].grad_norm, rtol=1e-5, atol=0)
    torch.testing.assert_close(results[0].nats, results[1].nats, rtol=1e-6, atol=0)
    first, second = (model.transformer.h[0].mlp.c_fc.weight for model in (whole, parts))
    torch.testing.assert_close(first, second, rtol=0, atol=1e-5)


def test_padded_rows_stay_zero(make_model_folder: Callable[..., Path], split: Split) -> None:
    """Neither gradient nor weight decay moves the rows that pad the vocabulary."""
    model = load_gpt2(make_model_folder()).train()
    step(model, batches(split, 1000))
    assert not model.head_VC[300:].any()


def test_optimizer_state_survives_a_round_trip(make_model_folder: Callable[..., Path], split: Split) -> None:
    """A second step from restored moments is bitwise the second step."""
    folder = make_model_folder()
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    settings = {"learning_rate": 1e-3, "max_grad_norm": 1.0, "scaler": scaler}
    model = load_gpt2(folder).train()
    optimizer = make_optimizer(model, weight_decay=0.1)
    train_step(model, optimizer, batches(split, 1000), **settings)
    copy = load_gpt2(folder).train()
    copy.load_state_dict(model.state_dict())
    restored = make_optimizer(copy, weight_decay=0.1)
    load_optimizer_state(copy, restored, optimizer_state(model, optimizer))
    train_step(model, optimizer, batches(split, 1000), **settings)
    train_step(copy, restored, batches(split, 1000), **settings)
    pairs = zip(model.parameters(), copy.parameters(), strict=True)
    assert all(torch.equal(mine, theirs) for mine, theirs in pairs)


def test_a_loss_scale_changes_nothing_but_overflow_skips(make_model_folder: Callable[..., Path], split: Split) -> None:
    """Gradients are unscaled before clipping; one that overflowed makes no update and lowers the scale."""
    folder = make_model_folder()
    plain, scaled = (load_gpt2(folder).train() for _ in range(2))
    expected = step(plain, batches(split, 1000))
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimizer = make_optimizer(scaled, weight_decay=0.1)
    settings = {"learning_rate": 1e-3, "max_grad_norm": 1.0, "scaler": scaler}
    result = train_step(scaled, optimizer, batches(split, 1000), **settings)
    torch.testing.assert_close(result.grad_norm, expected.grad_norm, rtol=1e-4, atol=0)
    before = scaled.head_VC.detach().clone()
    with torch.no_grad():
        scaled.transformer.ln_f.weight[0] = torch.inf
    train_step(scaled, optimizer, batches(split, 1000), **settings)
    assert torch.equal(scaled.head_VC, before)
    assert scaler.get_scale() == 512.0


class ReadsByTheHost(TorchDispatchMode):
    """Counts what makes a GPU wait: reading a tensor's value."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        del types
        self.count += function in {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default}
        return function(*args, **kwargs or {})


def test_a_step_reads_nothing_back(make_model_folder: Callable[..., Path], split: Split) -> None:
    """No value is read between logging points: neither loss nor gradient norm, in several micro-batches."""
    model = load_gpt2(make_model_folder()).train()
    optimizer = make_optimizer(model, weight_decay=0.1)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    micro_batches = batches(split, 70)
    assert len(micro_batches) > 1
    with ReadsByTheHost() as reads:
        result = train_step(model, optimizer, micro_batches, learning_rate=1e-3, max_grad_norm=1.0, scaler=scaler)
        assert reads.count == 0
        float(result.nats)
        assert reads.count == 1


def test_two_hundred_steps_repeat_bitwise(make_model_folder: Callable[..., Path], split: Split) -> None:
    """The same start gives the same weights, bit for bit, in fp32 on a CPU."""
    folder = make_model_folder()
    ends = []
    for _ in range(2):
        model = load_gpt2(folder).train()
        optimizer = make_optimizer(model, weight_decay=0.1)
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        for number in range(200):
            micro_batches = batches(split, 64 + number % 64)
            train_step(model, optimizer, micro_batches, learning_rate=1e-3, max_grad_norm=1.0, scaler=scaler)
        ends.append([parameter.detach().clone() for parameter in model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*ends, strict=True))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("kept", ["fp32", "muon", "8bit", "split-8bit", "split-8bit+fused-backward", "bf16-4bit"])
def test_a_gradient_that_is_no_number_changes_nothing(
    kept: str, bad: float, make_model_folder: Callable[..., Path], split: Split
) -> None:
    """Weights, moments and step counts stay bitwise what they were, and the next step is made as if nothing was."""
    model = load_gpt2(make_model_folder(n_embd=64)).train()
    plan = STATE_FORMATS["fp32" if kept == "muon" else kept]
    optimizer = make_optimizer(model, weight_decay=0.1, plan=plan, muon=kept == "muon")
    scaler = torch.amp.GradScaler("cpu", enabled=False)

    def make() -> StepResult:
        micro_batches = batches(split, 80)
        assert len(micro_batches) > 1
        return train_step(model, optimizer, micro_batches, learning_rate=1e-3, max_grad_norm=1.0, scaler=scaler)

    assert not make().is_bad
    before = {**model.state_dict(), **optimizer_state(model, optimizer)}
    before = {name: tensor.clone() for name, tensor in before.items()}
    hook = model.transformer.ln_f.bias.register_hook(lambda gradient: gradient * bad)
    assert make().is_bad
    after = {**model.state_dict(), **optimizer_state(model, optimizer)}
    assert all(tensor.equal(after[name]) for name, tensor in before.items())
    hook.remove()
    assert not make().is_bad
    assert not model.transformer.ln_f.bias.equal(before["transformer.ln_f.bias"])


def test_muon_leaves_a_bad_step_out_without_the_host(make_model_folder: Callable[..., Path], split: Split) -> None:
    """As on a GPU: a verdict of 0 gives the bits of a plain step, any other changes none, and no value is read."""
    folder, ends = make_model_folder(), []
    for verdicts in ((None, None), (0.0, 1.0, 0.0, 1.0)):
        model = load_gpt2(folder).train()
        optimizer = make_optimizer(model, weight_decay=0.1, muon=True)
        for group in optimizer.param_groups:
            group["lr"] = 1e-3
        for verdict in verdicts:
            nats = batch_loss_sum(model, batches(split, 1000)[0])
            (nats / (0.0 if verdict else 100.0)).backward()
            with ReadsByTheHost() as reads:
                if verdict is None:
                    optimizer.step()
                else:
                    optimizer._step_unless(torch.tensor(verdict))
            assert reads.count == 0
            optimizer.zero_grad()
        ends.append({**model.state_dict(), **optimizer_state(model, optimizer)})
    assert all(tensor.equal(ends[1][name]) for name, tensor in ends[0].items())
