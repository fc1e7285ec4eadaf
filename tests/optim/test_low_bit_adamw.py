"""AdamW with a compressed state against torch's own."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from tunesmith.optim.low_bit_adamw import LowBitAdamW
from tunesmith.optim.quantization import merge_fp32
from tunesmith.optim.state_format import STATE_FORMATS, is_compressible

HELD = ["8bit", "split-8bit", "bf16-8bit", "bf16-4bit"]
BETAS, EPSILON, DECAY, RATE = (0.9, 0.999), 1e-8, 0.1, 1e-3


def pair(name: str, seed: int = 0) -> tuple[list[nn.Parameter], LowBitAdamW, list[nn.Parameter], torch.optim.AdamW]:
    """A matrix and a bias twice: for ours, which compresses the matrix, and for torch's."""
    generator = torch.Generator().manual_seed(seed)
    values = [torch.randn(48, 256, generator=generator), torch.randn(48, generator=generator)]
    ours, theirs = ([nn.Parameter(value.clone()) for value in values] for _ in range(2))
    groups = [{"params": ours, "weight_decay": DECAY}]
    mine = LowBitAdamW(groups, STATE_FORMATS[name], ours[:1], betas=BETAS, epsilon=EPSILON, seed=seed)
    mine.param_groups[0]["lr"] = RATE
    oracle = torch.optim.AdamW(theirs, lr=RATE, betas=BETAS, eps=EPSILON, weight_decay=DECAY, foreach=False)
    return ours, mine, theirs, oracle


def give(parameters: list[nn.Parameter], step: int) -> None:
    """The same gradients to whoever asks, in the dtype of the parameter, large in some columns and small in others."""
    generator = torch.Generator().manual_seed(1000 + step)
    for parameter in parameters:
        gradient = torch.randn(parameter.shape, generator=generator)
        if gradient.ndim == 2:
            gradient *= torch.logspace(-3, 0, gradient.shape[1])
        parameter.grad = gradient.to(torch.bfloat16).to(parameter.dtype)


def weights(parameter: nn.Parameter, optimizer: LowBitAdamW) -> torch.Tensor:
    """In fp32, both halves where there are two."""
    remainder = optimizer.state[parameter].get("remainder")
    return parameter.detach().float() if remainder is None else merge_fp32(parameter.detach(), remainder)


@pytest.mark.parametrize("name", HELD)
def test_the_first_step_is_adamws(name: str) -> None:
    """From no state at all nothing is rounded but what is kept: fp32 weights are torch's, bf16 ones next to them."""
    ours, mine, theirs, oracle = pair(name)
    give(ours, 0)
    give(theirs, 0)
    before = theirs[0].detach().clone()
    mine.step()
    oracle.step()
    found, expected = weights(ours[0], mine), theirs[0].detach()
    if name.startswith("bf16"):
        start = before.to(torch.bfloat16).float()
        expected = expected - before + start  # it starts at the rounded weights
        assert ((found - expected).abs() <= 2**-7 * expected.abs() + 1e-6).all()
        assert (found - expected).mean().abs() < 1e-4
    else:
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(ours[1], theirs[1], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", HELD)
def test_many_steps_go_the_same_way(name: str) -> None:
    """After 50 steps the weights have moved as far in torch's direction as torch's have; the others exactly so."""
    ours, mine, theirs, oracle = pair(name)
    starts = weights(ours[0], mine).clone(), theirs[0].detach().clone()
    for step in range(50):
        give(ours, step)
        give(theirs, step)
        mine.step()
        oracle.step()
    moved, expected = weights(ours[0], mine) - starts[0], theirs[0].detach() - starts[1]
    assert ((moved * expected).sum() / expected.square().sum()).item() == pytest.approx(
        1, abs=0.15 if name.endswith("4bit") else 0.05
    )
    if not name.startswith("bf16"):
        assert (moved - expected).norm() / expected.norm() < 0.05
    torch.testing.assert_close(ours[1], theirs[1], rtol=1e-5, atol=1e-6)


def test_the_split_master_is_the_fp32_weight() -> None:
    """With the same gradients, the two halves together are bitwise the weights of the plan that keeps them whole."""
    whole, its, _, _ = pair("8bit")
    halves, other, _, _ = pair("split-8bit")
    for step in range(30):
        give(whole, step)
        give(halves, step)
        its.step()
        other.step()
        assert torch.equal(weights(halves[0], other), whole[0].detach())
    assert halves[0].dtype == torch.bfloat16


@pytest.mark.parametrize("name", HELD)
def test_the_state_takes_what_the_plan_says(name: str) -> None:
    """Bytes of codes and scales, and two or four for the weight."""
    ours, mine, _, _ = pair(name)
    plan, count = STATE_FORMATS[name], ours[0].numel()
    state = mine.state[ours[0]]
    moments = sum(state[key].nbytes for key in state if key.startswith("exp_avg"))
    assert moments == sum(code.bytes_for(count) for code in plan.moments)
    assert moments < count * plan.moment_bits / 8 * 2 * 1.07
    weight = ours[0].nbytes + (state["remainder"].nbytes if "remainder" in state else 0)
    assert weight == count * (2 if plan.weights == "bf16" else 4)


def test_gradients_of_many_micro_batches_are_not_lost() -> None:
    """A thousand small gradients behind a large one: in plain bf16 they vanish, here they count on average."""
    ours, _mine, _, _ = pair("bf16-8bit")
    matrix, small = ours[0], 2.0**-10
    with torch.no_grad():
        plain = torch.ones_like(matrix)
    for number in range(513):
        (matrix.float() * (1.0 if number == 0 else small)).sum().backward()
        if number:
            plain += torch.full_like(plain, small)
    assert matrix.grad is not None
    assert (plain.float() == 1).all()
    assert matrix.grad.float().mean().item() == pytest.approx(1 + 512 * small, rel=0.01)


def test_what_is_compressed() -> None:
    """Matrices of blocks whose size is a multiple of the block of codes; nothing else."""
    assert is_compressible("transformer.h.3.mlp.c_fc.weight", (3072, 768))
    for name, shape in (
        ("transformer.wte.weight", (50304, 768)),
        ("transformer.h.0.ln_1.weight", (768,)),
        ("transformer.h.0.attn.c_attn.lora_A", (8, 768)),
        ("transformer.h.0.attn.c_attn.weight", (3, 5)),
        ("lm_head.weight", (50304, 768)),
    ):
        assert not is_compressible(name, shape)


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
def test_the_kernel_is_the_plain_path() -> None:
    """Triton's interpreter runs the kernel on the CPU: the same update, chance at most one level off."""
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    program = Path(__file__).with_name("kernel_against_plain.py")
    answer = subprocess.run([sys.executable, program], capture_output=True, text=True, env=environment, check=False)
    assert answer.stdout == "equal\n", answer.stderr


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
def test_kernels_accumulate_and_leave_out_bad_steps() -> None:
    """Triton's interpreter, the optimizer on the way it takes on a GPU.

    Every accumulated number is one of the two neighbors in bf16, their mean is the sum, the same seed gives the same
    bits, and a step that is not finite changes nothing.
    """
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    program = Path(__file__).with_name("kernel_chances.py")
    answer = subprocess.run([sys.executable, program], capture_output=True, text=True, env=environment, check=False)
    assert answer.stdout == "equal\n", answer.stderr


def test_nothing_is_read_by_the_host_where_kernels_update(monkeypatch: pytest.MonkeyPatch) -> None:
    """The step count and the verdict stay on the device: one launch for the matrix, which is given both."""
    asked: list[tuple[torch.Tensor, torch.Tensor]] = []
    module = ModuleType("tunesmith.optim.low_bit_adamw_triton")
    module.launch = lambda *args, found_inf, **_: asked.append((args[2]["step"], found_inf))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr("tunesmith.optim.low_bit_adamw.has_kernel", lambda _: True)
    ours, mine, _, _ = pair("split-8bit")
    reads = 0

    class Reads(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal reads
            reads += function is torch.ops.aten._local_scalar_dense.default
            return function(*args, **kwargs or {})

    for verdict, steps in ((0.0, 1), (1.0, 1), (0.0, 2)):
        give(ours, 0)
        before = ours[1].detach().clone()
        mine.found_inf = torch.tensor(verdict)
        with Reads():
            mine.step()
        assert torch.equal(ours[1], before) == bool(verdict)
        count, found_inf = asked[-1]
        assert count is mine.state[ours[0]]["step"]
        assert (found_inf.item(), count.item(), mine.state[ours[1]]["step"].item()) == (verdict, steps, steps)
    assert len(asked) == 3
    assert reads == 0
