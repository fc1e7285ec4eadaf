"""The kernel against plain torch, run by `test_low_bit_adamw.py` under Triton's interpreter."""

import sys

import torch

from tunesmith.optim import low_bit_adamw_triton
from tunesmith.optim.low_bit_adamw import AdamWHyperparams, update_chunked
from tunesmith.optim.quantization import dequantize, generator_for, merge_fp32, quantized_zeros, split_fp32
from tunesmith.optim.state_format import BLOCK, STATE_FORMATS

for name in ("8bit", "split-8bit", "bf16-8bit", "bf16-4bit"):
    plan = STATE_FORMATS[name]
    whole = torch.randn(30, BLOCK)
    sides = []
    for _ in range(2):
        state = {}
        for moment, code in zip(("exp_avg", "exp_avg_sq"), plan.moments, strict=True):
            state[f"{moment}_codes"], state[f"{moment}_scales"] = quantized_zeros(code, whole.numel(), whole.device)
        weight = whole.clone()
        if plan.weights == "split":
            weight, state["remainder"] = split_fp32(whole)
        elif plan.weights == "bf16":
            weight = whole.to(torch.bfloat16)
        sides.append((weight, state))
    (mine, my_state), (plain, plain_state) = sides
    for step in (1, 2, 3, 1000, 100_000):
        gradient = torch.randn(30, BLOCK) * torch.logspace(-4, 0, BLOCK)
        rates = AdamWHyperparams(1e-2, 0.1, 0.9, 0.999, 1e-8)
        for key, value in plain_state.items():
            my_state[key].copy_(value)  # one step at a time: what is left to chance differs
        mine.copy_(plain)
        low_bit_adamw_triton.launch(
            mine, gradient.to(mine.dtype), {**my_state, "step": torch.tensor(float(step))}, plan, rates, seed=7
        )
        update_chunked(
            plain, gradient.to(plain.dtype), plain_state, plan, rates, step, generator_for(plain.device, step)
        )
        if plan.weights == "split":
            torch.testing.assert_close(
                merge_fp32(mine, my_state["remainder"]),
                merge_fp32(plain, plain_state["remainder"]),
                rtol=1e-6,
                atol=1e-6,
            )
        elif plan.weights == "bf16":
            torch.testing.assert_close(mine.float(), plain.float(), rtol=2**-7, atol=1e-6)
        else:
            torch.testing.assert_close(mine, plain, rtol=1e-6, atol=1e-6)
        first, second = plan.moments
        for moment, code in zip(("exp_avg", "exp_avg_sq"), plan.moments, strict=True):
            torch.testing.assert_close(my_state[f"{moment}_scales"], plain_state[f"{moment}_scales"], rtol=1e-5, atol=0)
            ones = torch.ones(30)
            roots = [
                dequantize(code, s[f"{moment}_codes"], ones).abs().sqrt().sqrt() * code.levels
                for s in (my_state, plain_state)
            ]
            apart = (roots[0] - roots[1]).abs()
            assert apart.max() < 1.01, (name, moment, apart.max())
            if code.bits == 8 and code.signed:
                assert (apart > 0.5).float().mean() < 0.01
sys.stdout.write("equal\n")
