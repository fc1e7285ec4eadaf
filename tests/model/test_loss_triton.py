"""Logits into losses and gradients: the plain path against autograd, the kernel against double precision."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from torch.nn.functional import cross_entropy

from tunesmith.model.loss import BLOCK_ROWS as BLOCK_ROWS_OF
from tunesmith.model.loss import cross_entropy_backward_

BLOCK_ROWS = BLOCK_ROWS_OF["cpu"]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [0, 1, BLOCK_ROWS, BLOCK_ROWS + 3])
def test_the_plain_path_is_autograds(rows: int, dtype: torch.dtype) -> None:
    """Value and gradient of torch's cross-entropy; padded columns and rows without a target get nothing."""
    generator = torch.Generator().manual_seed(rows)
    logits_KV = (torch.randn(rows, 192, generator=generator) * 4).to(dtype)
    targets_K = torch.randint(0, 130, (rows,), generator=generator)
    targets_K[1::3] = -1
    exact_KV = logits_KV[:, :130].float().requires_grad_()
    expected_K = cross_entropy(exact_KV, targets_K, reduction="none", ignore_index=-1)
    expected_K.sum().backward()
    out_K = torch.empty(rows)
    cross_entropy_backward_(logits_KV, targets_K, 130, out_K=out_K)
    torch.testing.assert_close(out_K, expected_K.detach())
    torch.testing.assert_close(logits_KV[:, :130], exact_KV.grad.to(dtype))
    assert not logits_KV[:, 130:].any()
    assert not logits_KV[1::3].any()


KERNEL_AGAINST_DOUBLE = """
import torch
from tunesmith.model import loss_triton
for dtype in (torch.float32, torch.bfloat16, torch.float16):
    for columns, vocab_size, block in ((256, 130, 64), (128, 128, 128), (192, 190, 256)):
        loss_triton.BLOCK_COLUMNS = block
        logits = (torch.randn(7, columns) * 4).to(dtype)
        logits[3, 5] = -torch.inf
        targets = torch.tensor([0, vocab_size - 1, 5, -1, 7, 100, -100])
        exact = logits[:, :vocab_size].double().requires_grad_()
        expected = torch.nn.functional.cross_entropy(exact, targets.clamp(min=-1), reduction="none", ignore_index=-1)
        expected.sum().backward()
        for writes_gradient in (False, True):
            mine, out = logits.clone(), torch.empty(7)
            loss_triton.launch(mine, targets, vocab_size, out_K=out, writes_gradient=writes_gradient)
            torch.testing.assert_close(out, expected.detach().float())
            if writes_gradient:
                torch.testing.assert_close(mine[:, :vocab_size], exact.grad.to(dtype))
                assert not mine[:, vocab_size:].any()
            else:
                assert torch.equal(mine, logits)
print("equal")
"""


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
def test_the_kernel_against_double_precision() -> None:
    """Triton's interpreter runs the kernel on the CPU: losses and gradients in every dtype, ragged columns.

    Without the gradient the losses are the same and the logits stay what they were.
    """
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    answer = subprocess.run(
        [sys.executable, "-c", KERNEL_AGAINST_DOUBLE], capture_output=True, text=True, env=environment, check=False
    )
    assert answer.stdout == "equal\n", answer.stderr
