"""The chunked loss against torch's plain cross-entropy."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy, linear
from torch.utils._python_dispatch import TorchDispatchMode

from tunesmith.model.gpt2_config import EVALUATION_CHUNK_ROWS, LOSS_CHUNK_ROWS
from tunesmith.model.hf_checkpoint import load_gpt2
from tunesmith.model.loss import _SumOfNats, fused_linear_cross_entropy, token_cross_entropy

CHANNELS = 24


def problem(rows: int, vocab_size: int, padded: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hidden states, a head with padded rows that are not even zero, and targets."""
    generator = torch.Generator().manual_seed(rows)
    hidden_NC = torch.randn(rows, CHANNELS, generator=generator)
    head_VC = torch.randn(padded, CHANNELS, generator=generator)
    return hidden_NC, head_VC, torch.randint(0, vocab_size, (rows,), generator=generator)


CHUNK_ROWS = LOSS_CHUNK_ROWS["cpu"]


@pytest.mark.parametrize("rows", [1, CHUNK_ROWS - 1, CHUNK_ROWS, CHUNK_ROWS + 1, 2 * CHUNK_ROWS + 76])
@pytest.mark.parametrize(("vocab_size", "padded"), [(128, 128), (130, 256)])
def test_value_and_gradients_equal_the_plain_loss(rows: int, vocab_size: int, padded: int) -> None:
    """Loss and both gradients, under an upstream factor, equal torch's; padded rows get no probability."""
    hidden_NC, head_VC, targets_N = problem(rows, vocab_size, padded)
    ours = [hidden_NC.clone().requires_grad_(), head_VC.clone().requires_grad_()]
    plain = [hidden_NC.clone().requires_grad_(), head_VC.clone().requires_grad_()]
    nats = fused_linear_cross_entropy(*ours, targets_N, vocab_size)
    expected = cross_entropy(linear(plain[0], plain[1][:vocab_size]), targets_N, reduction="sum")
    (nats * 0.37).backward()
    (expected * 0.37).backward()
    torch.testing.assert_close(nats, expected, rtol=1e-5, atol=1e-5)
    for mine, theirs in zip(ours, plain, strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-5)
    assert not ours[1].grad[vocab_size:].any()


def test_each_token_without_gradients() -> None:
    """The evaluation form gives every token's own loss."""
    hidden_NC, head_VC, targets_N = problem(700, 130, 256)
    expected_N = cross_entropy(linear(hidden_NC, head_VC[:130]), targets_N, reduction="none")
    torch.testing.assert_close(token_cross_entropy(hidden_NC, head_VC, targets_N, 130), expected_N)


def test_bf16_states_with_an_fp32_head() -> None:
    """Gradients come back in the dtype of what they belong to, close to the exact ones."""
    hidden_NC, head_VC, targets_N = problem(600, 130, 256)
    states_NC = hidden_NC.bfloat16().requires_grad_()
    weights_VC = head_VC.clone().requires_grad_()
    exact_VC = head_VC.clone().requires_grad_()
    fused_linear_cross_entropy(states_NC, weights_VC, targets_N, 130).backward()
    cross_entropy(linear(hidden_NC, exact_VC[:130]), targets_N, reduction="sum").backward()
    assert states_NC.grad.dtype == torch.bfloat16
    assert weights_VC.grad.dtype == torch.float32
    assert (weights_VC.grad - exact_VC.grad).norm() < 0.02 * exact_VC.grad.norm()


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_only_the_asked_rows_are_learned_from(share: float) -> None:
    """Rows that nothing is predicted behind (prompts, filling) have no part in loss or gradients."""
    hidden_NC, head_VC, targets_N = problem(CHUNK_ROWS + 90, 130, 256)
    rows_M = torch.nonzero(torch.rand(len(hidden_NC), generator=torch.Generator().manual_seed(1)) < share)[:, 0]
    ours = [hidden_NC.clone().requires_grad_(), head_VC.clone().requires_grad_()]
    plain = [hidden_NC.clone().requires_grad_(), head_VC.clone().requires_grad_()]
    nats = fused_linear_cross_entropy(*ours, targets_N[rows_M], 130, rows_M=rows_M)
    expected = cross_entropy(linear(plain[0][rows_M], plain[1][:130]), targets_N[rows_M], reduction="sum")
    nats.backward()
    expected.backward()
    torch.testing.assert_close(nats, expected, rtol=1e-5, atol=1e-5)
    for mine, theirs in zip(ours, plain, strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-5)


class GpuProducts(TorchDispatchMode):
    """Products of 16-bit matrices that are written in fp32, which torch has for GPUs only, in double precision."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        del types
        kwargs = kwargs or {}
        if function is torch.ops.aten.addmm.dtype_out:
            self.count += 1
            total, left, right, dtype = args
            assert left.dtype == right.dtype != dtype == total.dtype == torch.float32
            return kwargs["out"].copy_(total.double() + left.double() @ right.double())
        return function(*args, **kwargs)


def far_from_zero(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hidden states in a dtype, a head and targets: logits around -100 with a deviation of 3, as GPT-2's are."""
    generator = torch.Generator().manual_seed(3)
    hidden_NC = torch.randn(200, 64, generator=generator) - 4
    head_VC = torch.randn(1024, 64, generator=generator) * 0.09 + 0.4
    return hidden_NC.to(dtype), head_VC, torch.randint(0, 1000, (200,), generator=generator)


def test_logits_around_minus_100_are_told_apart_in_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU: losses within 0.03 nats of double precision and gradients within 1 %, not 0.1 nats and 2 %."""
    hidden_NC, head_VC, targets_N = far_from_zero(torch.bfloat16)
    exact = [hidden_NC.double().requires_grad_(), head_VC.double().requires_grad_()]
    expected_N = cross_entropy(linear(exact[0], exact[1][:1000]), targets_N, reduction="none")
    expected_N.sum().backward()
    assert linear(*exact)[:, :1000].mean().item() == pytest.approx(-102, abs=3)
    errors = {}
    for centers in (True, False):
        monkeypatch.setattr("tunesmith.model.loss._centers", lambda _, centers=centers: centers)
        ours = [hidden_NC.clone().requires_grad_(), head_VC.clone().requires_grad_()]
        nats = fused_linear_cross_entropy(*ours, targets_N, 1000)
        nats.backward()
        of_tokens = (token_cross_entropy(hidden_NC, head_VC, targets_N, 1000) - expected_N).abs().mean().item()
        of_gradients = [
            ((mine.grad.double() - its.grad).norm() / its.grad.norm()).item()
            for mine, its in zip(ours, exact, strict=True)
        ]
        errors[centers] = of_tokens, abs(nats.item() - expected_N.sum().item()) / len(targets_N), max(of_gradients)
    of_token, of_mean, of_gradient = errors[True]
    assert of_token < 0.03
    assert of_mean < 0.003
    assert of_gradient < 0.01
    assert errors[False][0] > 0.1
    assert errors[False][2] > 0.02


@pytest.mark.parametrize("on_gpu", [True, False])
def test_the_heads_gradient_does_not_overflow_in_fp16(*, on_gpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new token, 300 times in a chunk, and a hidden channel of 300: beyond fp16's 65,504, before any loss scale."""
    hidden_NC, head_VC, targets_N = problem(300, 130, 256)
    hidden_NC[:, 5] = 300.0
    head_VC[:, 5] = 0.0
    head_VC[7, 5] = -0.1  # 30 nats below the others
    targets_N[:] = 7
    states_NC = hidden_NC.half()
    exact = [states_NC.double(), head_VC.double().requires_grad_()]
    cross_entropy(linear(exact[0], exact[1][:130]), targets_N, reduction="sum").backward()
    assert exact[1].grad.abs().max() > torch.finfo(torch.float16).max
    if on_gpu:
        monkeypatch.setattr("tunesmith.model.loss._product_buffer", lambda *_: None)
    ours = [states_NC.clone().requires_grad_(), head_VC.clone().requires_grad_()]
    with GpuProducts() as products:
        fused_linear_cross_entropy(*ours, targets_N, 130).backward()
    assert products.count == on_gpu
    assert ours[0].grad.isfinite().all()
    assert (ours[1].grad.double() - exact[1].grad).norm() < 0.002 * exact[1].grad.norm()


GPT2_HEAD = (50304, 768)


@pytest.mark.parametrize(("has_triton", "most_bytes"), [(True, 300e6), (False, 400e6)])
def test_evaluation_on_a_gpu_needs_less_than_400_mb(
    *,
    has_triton: bool,
    most_bytes: float,
    launches: list[dict[str, Any]],
    watch: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """GPT-2's head, 16,384 tokens in bf16: logits of a chunk and the centered head, and the kernel writes none back."""
    monkeypatch.setattr("tunesmith.model.loss.has_triton", lambda: has_triton)
    hidden_NC = torch.empty(16384, 768, dtype=torch.bfloat16, device="meta")
    head_VC = torch.empty(GPT2_HEAD, device="meta")
    targets_N = torch.empty(16384, dtype=torch.int64, device="meta")
    with watch(hidden_NC, head_VC, targets_N) as gpu:
        nats_N = token_cross_entropy(hidden_NC, head_VC, targets_N, 50257)
    assert nats_N.shape == (16384,)
    assert gpu.peak_bytes < most_bytes
    chunks = 16384 // EVALUATION_CHUNK_ROWS["cuda"]
    assert gpu.names["aten.mm.default"] == chunks
    assert len(launches) == (chunks if has_triton else 0)
    assert all(options["writes_gradient"] is False for options in launches)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_heads_gradient_is_added_up_by_the_product_on_a_gpu(
    dtype: torch.dtype, launches: list[dict[str, Any]], watch: Callable[..., Any]
) -> None:
    """Three products and a kernel for each chunk, the last one adding to the fp32 sum; no other matrix is made."""
    context = SimpleNamespace(needs_input_grad=(True, True), save_for_backward=lambda *_: None)
    hidden_NC = torch.empty(8192, 768, dtype=dtype, device="meta")
    head_VC = torch.empty(GPT2_HEAD, device="meta")
    targets_N = torch.empty(8192, dtype=torch.int64, device="meta")
    with watch(hidden_NC, head_VC, targets_N) as gpu:
        _SumOfNats.forward(context, hidden_NC, head_VC, targets_N, 50257, None)
    assert (len(launches), gpu.names["aten.addmm.dtype_out"], gpu.names["aten.mm.default"]) == (2, 2, 2)
    assert gpu.names["aten.mm.out"] == 2
    logits_bytes, weight_bytes, gradient_bytes = 4096 * 50304 * 2, 50304 * 768 * 2, 50304 * 768 * 4
    states_bytes = (8192 + 3 * 4096) * 768 * 2
    assert gpu.peak_bytes < logits_bytes + weight_bytes + gradient_bytes + states_bytes + 1e6


@pytest.mark.usefixtures("launches")
def test_logits_are_written_in_fp32_on_a_gpu(make_model_folder: Callable[..., Path], watch: Callable[..., Any]) -> None:
    """While writing: one product, whose sums are not rounded to bf16 again. With gradients the plain one."""
    model = load_gpt2(make_model_folder()).to("meta", torch.bfloat16)
    hidden_NC = torch.empty(5, model.config.n_embd, dtype=torch.bfloat16, device="meta")
    with watch() as gpu, torch.no_grad():
        logits_NV = model.logits(hidden_NC)
    assert (logits_NV.dtype, logits_NV.shape) == (torch.float32, (5, model.config.vocab_size))
    assert gpu.names["aten.mm.dtype"] == 1
    assert gpu.names["aten._to_copy.default"] == 0
    with watch() as gpu:
        model.logits(hidden_NC).sum().backward()
    assert gpu.names["aten.mm.dtype"] == 0
