"""AdamW whose moments are written in few bits and whose weights may be halves of fp32 numbers.

A chunk of a matrix at a time is dequantized to fp32, updated as AdamW does, and quantized again, so that hardly any
memory is needed in addition to the compressed state. On a GPU one kernel does it (`low_bit_adamw_triton.py`).

References: Loshchilov & Hutter 2019, "Decoupled Weight Decay Regularization"; Dettmers et al. 2021, "8-bit Optimizers
    via Block-wise Quantization".
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from tunesmith.errors import UserError
from tunesmith.model.loss import has_triton
from tunesmith.optim.quantization import (
    dequantize,
    generator_for,
    merge_fp32,
    quantize_,
    quantized_zeros,
    random_int31,
    round_stochastic_bf16,
    seed_for,
    split_fp32,
)
from tunesmith.optim.state_format import BLOCK, StateFormat

CHUNK_BLOCKS = {"cpu": 1 << 8, "cuda": 1 << 13}
"""Blocks updated at a time: what fits a CPU's cache, or 4 MB for each fp32 number of them on a GPU."""
TEMPORARIES = 16
"""fp32 numbers that plain torch needs for each one updated."""
WEIGHT_ROUNDING, GRADIENT_ROUNDING = 0, 1


@dataclass(frozen=True)
class AdamWHyperparams:
    """Numbers of one update.

    Attributes:
        learning_rate: of this step.
        weight_decay: of this parameter's group.
        beta1: decay of the first moment.
        beta2: decay of the second.
        epsilon: added to the root of the second.
    """

    learning_rate: float
    weight_decay: float
    beta1: float
    beta2: float
    epsilon: float


class LowBitAdamW(torch.optim.Optimizer):
    """AdamW with a compressed state for some parameters and the usual one for the others.

    An attribute `found_inf`, as torch's fused optimizers know it, is an fp32 scalar: unless it is 0, `step` changes
    nothing. Where kernels update, they look at it themselves and the host does not wait for it.

    Args:
        groups: parameters with their `weight_decay`.
        plan: how weights and moments are kept.
        compressed: which of the parameters; their data become bf16 here unless the plan keeps them in fp32.
        seed: of all stochastic rounding.
    """

    _step_supports_amp_scaling = True  # torch.amp.GradScaler sets `found_inf` instead of reading it on the host

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        plan: StateFormat,
        compressed: Iterable[nn.Parameter],
        *,
        betas: tuple[float, float],
        epsilon: float,
        seed: int,
    ) -> None:
        super().__init__(groups, {"lr": 0.0, "betas": betas, "eps": epsilon, "weight_decay": 0.0})
        self.plan = plan
        self._seed = seed
        self._number = {p: number for number, p in enumerate(compressed)}
        self._accumulations = 0
        self._has_begun = False
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter] = self._fresh_state(parameter)

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        assert closure is None
        found_inf: Tensor | None = getattr(self, "found_inf", None)
        if found_inf is not None and not all(map(has_kernel, self._number)):
            if bool(found_inf):  # host sync on a GPU without Triton
                return
            found_inf = None
        self._make_room()
        for group in self.param_groups:
            given = [parameter for parameter in group["params"] if parameter.grad is not None]
            compressed = [parameter for parameter in given if parameter in self._number]
            if compressed:
                steps = [self.state[parameter]["step"] for parameter in compressed]
                counted = [1 - found_inf] * len(steps) if found_inf is not None else 1.0
                torch._foreach_add_(steps, counted)
            for parameter in compressed:
                self._update(parameter, group, found_inf)
            update_uncompressed([p for p in given if p not in self._number], self.state, group, found_inf)
        self._accumulations, self._has_begun = 0, False

    @torch.no_grad()
    def update(self, parameter: nn.Parameter, group: dict[str, Any]) -> None:
        """Update one compressed parameter from its gradient."""
        self.state[parameter]["step"] += 1
        self._update(parameter, group, None)

    @torch.no_grad()
    def _update(self, parameter: nn.Parameter, group: dict[str, Any], found_inf: Tensor | None) -> None:
        """The same, with the step counted already."""
        assert parameter.grad is not None
        self._has_begun = True
        state, number = self.state[parameter], self._number[parameter]
        beta1, beta2 = group["betas"]
        rates = AdamWHyperparams(group["lr"], group["weight_decay"], beta1, beta2, group["eps"])
        if has_kernel(parameter):
            from tunesmith.optim.low_bit_adamw_triton import launch

            seed = seed_for(self._seed, number, WEIGHT_ROUNDING)
            launch(parameter.data, parameter.grad, state, self.plan, rates, seed=seed, found_inf=found_inf)
            return
        step = int(state["step"])
        generator = generator_for(parameter.device, self._seed, step, number, WEIGHT_ROUNDING)
        update_chunked(parameter.data, parameter.grad, state, self.plan, rates, step, generator)

    def accumulate(self, parameter: nn.Parameter, gradient: Tensor) -> Tensor:
        """Add to a bf16 parameter's gradient so far, rounded stochastically: small numbers are not lost."""
        held, parameter.grad = parameter.grad, None
        if held is None:
            return gradient
        self._accumulations += 1
        if has_kernel(parameter):
            from tunesmith.optim.low_bit_adamw_triton import launch_accumulate

            seed = seed_for(self._seed, self._number[parameter], GRADIENT_ROUNDING)
            step_done = self.state[parameter]["step"]
            launch_accumulate(held, gradient, step_done, seed=seed, accumulation=self._accumulations)
            return held
        step = int(self.state[parameter]["step"])
        numbers = (self._seed, step, self._number[parameter], GRADIENT_ROUNDING, self._accumulations)
        generator = generator_for(parameter.device, *numbers)
        size = CHUNK_BLOCKS[parameter.device.type] * BLOCK
        for sum_S, new_S in zip(held.view(-1).split(size), gradient.reshape(-1).split(size), strict=True):
            sum_S.copy_(round_stochastic_bf16(sum_S.float() + new_S, random_int31(len(sum_S), generator)))
        return held

    def zero_grad(self, set_to_none: bool = True) -> None:  # noqa: FBT001, FBT002  torch's signature
        """Forget the gradients, also those of a step that was broken off.

        Raises:
            UserError: if that step had changed weights already, so that it cannot be made again.
        """
        self._accumulations = 0
        if self._has_begun:
            self._has_begun = False
            raise UserError(
                "memory ran out in the middle of an update that had begun",
                hint="free memory and continue from the last checkpoint with --resume",
            )
        super().zero_grad(set_to_none)

    def _make_room(self) -> None:
        """Let memory run out before the update if it does: torch keeps for it what is asked for and dropped here."""
        for device in {parameter.device for parameter in self._number}:
            if device.type == "cuda" and not has_triton():
                torch.empty(CHUNK_BLOCKS["cuda"] * BLOCK * TEMPORARIES, dtype=torch.float32, device=device)

    def _fresh_state(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        if parameter not in self._number:
            return uncompressed_state(parameter)
        # where it is read: by the kernel, or on the host
        state = {"step": torch.zeros((), device=parameter.device if has_kernel(parameter) else "cpu")}
        for moment, code in zip(("exp_avg", "exp_avg_sq"), self.plan.moments, strict=True):
            state[f"{moment}_codes"], state[f"{moment}_scales"] = quantized_zeros(
                code, parameter.numel(), parameter.device
            )
        if self.plan.weights == "split":
            parameter.data, state["remainder"] = split_fp32(parameter.data)
        elif self.plan.weights == "bf16":
            parameter.data = parameter.data.to(torch.bfloat16)
        if self.plan.is_half:
            parameter.register_hook(lambda gradient: self.accumulate(parameter, gradient))
        return state


def has_kernel(parameter: Tensor) -> bool:
    """Whether Triton kernels update a compressed parameter."""
    return parameter.is_cuda and has_triton()


def uncompressed_state(parameter: nn.Parameter) -> dict[str, Tensor]:
    """Both moments and the step of torch's fused AdamW, made before the first step: memory does not run out in it."""
    return {
        "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
        **{moment: torch.zeros_like(parameter) for moment in ("exp_avg", "exp_avg_sq")},
    }


def update_uncompressed(
    parameters: list[nn.Parameter],
    state: Any,  # noqa: ANN401
    group: dict[str, Any],
    found_inf: Tensor | None = None,
) -> None:
    """One step of torch's fused AdamW; unless `found_inf`, an fp32 scalar, is 0, it changes nothing."""
    if not parameters:
        return
    beta1, beta2 = group["betas"]
    with torch.no_grad():
        adamw(
            list(parameters),
            [parameter.grad for parameter in parameters if parameter.grad is not None],
            exp_avgs=[state[parameter]["exp_avg"] for parameter in parameters],
            exp_avg_sqs=[state[parameter]["exp_avg_sq"] for parameter in parameters],
            max_exp_avg_sqs=[],
            state_steps=[state[parameter]["step"] for parameter in parameters],
            fused=True,
            found_inf=found_inf,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def update_chunked(
    weight: Tensor,
    gradient: Tensor,
    state: dict[str, Tensor],
    plan: StateFormat,
    rates: AdamWHyperparams,
    step: int,
    generator: torch.Generator,
) -> None:
    """The update in plain torch, for any device; the weight and its state are overwritten.

    Args:
        weight: fp32, or bf16 with `state["remainder"]` or without.
        gradient: of the same shape, in any floating dtype.
        state: compressed moments.
        plan: how they are kept.
        rates: numbers of this step.
        step: counts from 1.
        generator: of all stochastic rounding.
    """
    first, second = plan.moments
    n_blocks = weight.numel() // BLOCK
    stretch = CHUNK_BLOCKS[weight.device.type]
    weights, gradients = weight.view(-1), gradient.reshape(-1)
    remainders = state["remainder"].view(-1) if "remainder" in state else None
    codes_bytes = BLOCK * plan.moment_bits // 8
    for start in range(0, n_blocks, stretch):
        blocks = slice(start, min(start + stretch, n_blocks))
        numbers = slice(blocks.start * BLOCK, blocks.stop * BLOCK)
        codes = slice(blocks.start * codes_bytes, blocks.stop * codes_bytes)
        gradient_BS = gradients[numbers].float().view(-1, BLOCK)
        codes_1, scales_1 = state["exp_avg_codes"][codes], state["exp_avg_scales"][blocks]
        codes_2, scales_2 = state["exp_avg_sq_codes"][codes], state["exp_avg_sq_scales"][blocks]
        moment_1 = dequantize(first, codes_1, scales_1).lerp_(gradient_BS, 1 - rates.beta1)
        moment_2 = dequantize(second, codes_2, scales_2)
        moment_2.mul_(rates.beta2).addcmul_(gradient_BS, gradient_BS, value=1 - rates.beta2)
        value_S = weights[numbers]
        if remainders is not None:
            value_S = merge_fp32(value_S, remainders[numbers])
        value_BS = value_S.float().view(-1, BLOCK).mul_(1 - rates.learning_rate * rates.weight_decay)
        root_BS = (moment_2 / (1 - rates.beta2**step)).sqrt_().add_(rates.epsilon)
        value_BS.addcdiv_(moment_1, root_BS, value=-rates.learning_rate / (1 - rates.beta1**step))
        bits_BS = random_int31(value_BS.numel(), generator).view(-1, BLOCK)
        quantize_(second, moment_2, codes_2, scales_2, (bits_BS >> 16) * 2.0**-15)
        chance_BS = torch.rand(value_BS.shape, generator=generator, device=weight.device) if first.bits == 4 else None
        quantize_(first, moment_1, codes_1, scales_1, chance_BS)
        if remainders is not None:
            weights[numbers], remainders[numbers] = split_fp32(value_BS.view(-1))
        elif plan.weights == "bf16":
            weights[numbers] = round_stochastic_bf16(value_BS, bits_BS).view(-1)
