"""The chunked loss against torch's plain cross-entropy."""

import pytest
import torch
from torch.nn.functional import cross_entropy, linear

from tunesmith.model.loss import nats_of_each_token, sum_of_nats
from tunesmith.model.shape import LOSS_CHUNK_ROWS

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
    nats = sum_of_nats(*ours, targets_N, vocab_size)
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
    torch.testing.assert_close(nats_of_each_token(hidden_NC, head_VC, targets_N, 130), expected_N)


def test_bf16_states_with_an_fp32_head() -> None:
    """Gradients come back in the dtype of what they belong to, close to the exact ones."""
    hidden_NC, head_VC, targets_N = problem(600, 130, 256)
    states_NC = hidden_NC.bfloat16().requires_grad_()
    weights_VC = head_VC.clone().requires_grad_()
    exact_VC = head_VC.clone().requires_grad_()
    sum_of_nats(states_NC, weights_VC, targets_N, 130).backward()
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
    nats = sum_of_nats(*ours, targets_N[rows_M], 130, rows_M=rows_M)
    expected = cross_entropy(linear(plain[0][rows_M], plain[1][:130]), targets_N[rows_M], reduction="sum")
    nats.backward()
    expected.backward()
    torch.testing.assert_close(nats, expected, rtol=1e-5, atol=1e-5)
    for mine, theirs in zip(ours, plain, strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-5)
