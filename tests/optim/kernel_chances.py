"""Accumulation by chance, and steps that are left out, run by `test_low_bit_adamw.py` under Triton's interpreter."""

import sys

import torch
from torch import Tensor, nn

from tunesmith.optim import low_bit_adamw
from tunesmith.optim.low_bit_adamw import LowBitAdamW
from tunesmith.optim.low_bit_adamw_triton import launch_accumulate
from tunesmith.optim.state_format import STATE_FORMATS

COUNT = 40_000  # several programs, the last one not full
STEP = torch.tensor(3.0)


def accumulated(total: Tensor, new: Tensor, **numbers: int) -> Tensor:
    """The sum, in a tensor of its own."""
    result = total.clone()
    launch_accumulate(result, new, STEP, **numbers)
    return result


def check_accumulation() -> None:
    """Neighbors, mean, and what the bits depend on."""
    generator = torch.Generator().manual_seed(1)
    total = torch.randn(COUNT, generator=generator).bfloat16()
    new = (torch.randn(COUNT, generator=generator) * 1e-3).bfloat16()
    exact = total.float() + new.float()
    first = accumulated(total, new, seed=5, accumulation=1)
    bits = exact.view(torch.int32)
    below, above = (((bits >> 16) + up).to(torch.int16).view(torch.bfloat16) for up in (0, 1))
    is_exact = (bits & 0xFFFF) == 0
    assert ((first == below) | ((first == above) & ~is_exact)).all()
    assert (first == above).float().mean() > 0.3  # of mantissas in between half goes either way
    one, other = torch.full((COUNT,), 1.0).bfloat16(), torch.full((COUNT,), 2.0**-10).bfloat16()
    share = accumulated(one, other, seed=6, accumulation=1).float().sub(1).mul(2**7).mean().item()
    deviation = (0.125 * 0.875 / COUNT) ** 0.5
    assert abs(share - 0.125) < 4 * deviation, share
    assert torch.equal(first, accumulated(total, new, seed=5, accumulation=1))
    assert not torch.equal(first, accumulated(total, new, seed=6, accumulation=1))
    assert not torch.equal(first, accumulated(total, new, seed=5, accumulation=2))
    STEP.add_(1)
    assert not torch.equal(first, accumulated(total, new, seed=5, accumulation=1))
    pattern = torch.full((COUNT,), 0x7FFF, dtype=torch.int16).view(torch.bfloat16)
    assert accumulated(pattern, new, seed=5, accumulation=1).isnan().all()
    infinite = torch.full_like(new, torch.inf)
    assert torch.equal(accumulated(infinite, new, seed=5, accumulation=1), infinite)


def check_bad_steps(name: str) -> None:
    """A bad gradient with its verdict on the device changes no bit, and the next step is what it would have been."""
    ends = []
    for bad in (False, True):
        generator = torch.Generator().manual_seed(2)
        matrix, bias = (nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((16, 256), (16,)))
        groups = [{"params": [matrix, bias], "weight_decay": 0.1}]
        optimizer = LowBitAdamW(groups, STATE_FORMATS[name], [matrix], betas=(0.9, 0.999), epsilon=1e-8, seed=4)
        optimizer.param_groups[0]["lr"] = 1e-3

        def everything(matrix: Tensor = matrix, bias: Tensor = bias, its: LowBitAdamW = optimizer) -> list[Tensor]:
            states = [value for one in (matrix, bias) for value in its.state[one].values()]
            return [tensor.detach().clone() for tensor in (matrix, bias, *states)]

        for step in range(4):
            for parameter in (matrix, bias):
                parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
            optimizer.found_inf = torch.zeros(())
            if bad and step == 2:
                good = [parameter.grad.clone() for parameter in (matrix, bias)]
                before = everything()
                matrix.grad[3, 7] = bias.grad[2] = torch.nan
                optimizer.found_inf = torch.ones(())
                optimizer.step()
                optimizer.zero_grad()
                assert all(map(torch.equal, before, everything())), name
                matrix.grad, bias.grad = good
                optimizer.found_inf = torch.zeros(())
            optimizer.step()
            optimizer.zero_grad()
        ends.append(everything())
    assert all(map(torch.equal, *ends)), name
    assert any(not torch.equal(*pair) for pair in zip(before, ends[1], strict=True)), name


low_bit_adamw.has_kernel = lambda _: True
check_accumulation()
for plan in ("8bit", "split-8bit", "bf16-8bit", "bf16-4bit"):
    check_bad_steps(plan)
sys.stdout.write("equal\n")
