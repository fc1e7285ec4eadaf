"""One optimizer step, as a function of its arguments.

The loss of a step is the sum of cross-entropies over all tokens it predicts divided by their number, which is known
before the forward pass: the update does not depend on how the tokens were split into micro-batches.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from tunesmith.data.dataloader import Batch
from tunesmith.distributed.strategy import Strategy
from tunesmith.model.attention import PackedLayout, forward_packed, to_model_device
from tunesmith.model.gpt2 import GPT2
from tunesmith.model.loss import fused_linear_cross_entropy
from tunesmith.optim.cpu_offload_adamw import CPUOffloadAdamW
from tunesmith.optim.in_backward_adamw import InBackwardAdamW


@dataclass(frozen=True)
class StepResult:
    """Measurements of a step; they stay on the device, so that the caller decides when to wait for them.

    Attributes:
        nats: fp32 scalar, summed cross-entropy before the update.
        tokens: that it was summed over.
        grad_norm: fp32 scalar, of the whole gradient before clipping.
        is_bad: bool scalar, whether the loss or, without a scaler, the gradient is not finite: the update was skipped.
    """

    nats: Tensor
    tokens: int
    grad_norm: Tensor
    is_bad: Tensor


def learning_rate_at(step: int, *, peak: float, warmup_steps: int, total_steps: int) -> float:
    """Return the learning rate of a step: linear warm-up to the peak, then linear decay towards 0.

    Args:
        step: from 0.
        peak: reached at the last warm-up step.
        warmup_steps: may be 0.
        total_steps: of the run; a step after the last one would have rate 0.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    return peak * (total_steps - step) / (total_steps - warmup_steps)


def train_step(
    model: GPT2,
    optimizer: torch.optim.Optimizer,
    micro_batches: Sequence[Batch],
    *,
    learning_rate: float,
    max_grad_norm: float,
    scaler: torch.amp.GradScaler,
    strategy: Strategy | None = None,
    step_tokens: int | None = None,
) -> StepResult:
    """Compute the gradient of a step from its micro-batches, and update the weights.

    Args:
        model: in training mode, on its device.
        optimizer: of the model's parameters.
        micro_batches: together the step, or this process's part of it.
        learning_rate: of this step.
        max_grad_norm: the gradient is scaled down to this norm if it is longer.
        scaler: enabled for fp16 only; it skips the update when the gradient overflowed.
        strategy: how the gradients of several processes become one; None in a single process.
        step_tokens: that the step predicts in all processes; None where the micro-batches are all of it.
    """
    strategy = strategy or Strategy(model)
    step_tokens = sum(len(batch.targets) for batch in micro_batches) if step_tokens is None else step_tokens
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    if isinstance(optimizer, InBackwardAdamW) and len(micro_batches) == 1:
        if optimizer.prev_grad_norm is None:
            with optimizer.measuring():
                backward_pass(model, micro_batches[0], step_tokens, scaler, strategy)
        with optimizer.updating(max_grad_norm):
            nats = backward_pass(model, micro_batches[0], step_tokens, scaler, strategy)
        grad_norm = (
            optimizer.finished()
        )  # too late to skip: where this is not finite, weights are not, and it rolls back
        return StepResult(nats, step_tokens, grad_norm, ~(nats.isfinite() & grad_norm.isfinite()))
    step_nats = torch.zeros((), device=model.head_VC.device)
    for number, batch in enumerate(micro_batches, 1):
        with strategy.accumulate(is_last=number == len(micro_batches)):
            step_nats += backward_pass(model, batch, step_tokens, scaler, strategy)
    step_nats = strategy.reduce_loss(step_nats)
    scaler.unscale_(optimizer)
    if isinstance(optimizer, CPUOffloadAdamW):
        grad_norm = optimizer.clip(model.parameters(), max_grad_norm)
    else:
        grad_norm = strategy.clip_grad_norm(max_grad_norm)
    strategy.vote_oom()
    is_bad = ~step_nats.isfinite()
    if scaler.is_enabled():  # it looks at the gradient itself, and lowers its scale
        scaler.step(optimizer)
        scaler.update()
    else:
        is_bad = is_bad.to(grad_norm.device) | ~grad_norm.isfinite()
        if strategy.is_sharded or isinstance(optimizer, CPUOffloadAdamW):
            if not bool(is_bad):  # host sync
                optimizer.step()
        else:  # decided on the device, in the way that `GradScaler` tells fused optimizers
            optimizer.found_inf = is_bad.float()  # type: ignore[attr-defined]
            try:
                optimizer.step()
            finally:
                del optimizer.found_inf  # type: ignore[attr-defined]
    optimizer.zero_grad(set_to_none=True)
    return StepResult(step_nats, step_tokens, grad_norm, is_bad)


def empty_step(model: GPT2) -> StepResult:
    """Return the result of a step whose windows are all excluded."""
    zero = torch.zeros((), device=model.head_VC.device)
    return StepResult(zero, 0, zero, torch.zeros((), dtype=torch.bool, device=zero.device))


def fresh_scaler(scaler: torch.amp.GradScaler, device: torch.device) -> torch.amp.GradScaler:
    """Return a scaler with the same scale, without the state of a step that was aborted."""
    fresh = torch.amp.GradScaler(device.type, enabled=scaler.is_enabled())
    fresh.load_state_dict(scaler.state_dict())
    return fresh


def backward_pass(
    model: GPT2, batch: Batch, step_tokens: int, scaler: torch.amp.GradScaler, strategy: Strategy | None = None
) -> Tensor:
    """Add a micro-batch's part to the gradients of a step of `step_tokens`; return its summed loss, an fp32 scalar."""
    nats = batch_loss_sum(model, batch, call=strategy.forward if strategy else None)
    loss = nats / step_tokens
    if strategy and strategy.loss_scale != 1:
        loss = loss * strategy.loss_scale  # gradients are averaged over processes, and are to be summed
    scaler.scale(loss).backward()
    return nats.detach()


def batch_loss_sum(model: GPT2, batch: Batch, *, call: Callable[..., Tensor] | None = None) -> Tensor:
    """Return the summed cross-entropy of what a batch predicts, an fp32 scalar with a graph.

    Args:
        model: on its device.
        batch: to compute.
        call: what computes, where it is wrapped around the model.
    """
    layout = PackedLayout(batch.cu_seqlens, batch.max_seqlen)
    compute = forward_packed if call is None else partial(forward_packed, call=call)
    hidden_NC = compute(model, batch.tokens, batch.positions, layout)
    targets_M, rows_M = to_model_device(model, batch.targets), to_model_device(model, batch.target_positions)
    needed_rows_M = None if len(rows_M) == batch.n_tokens else rows_M
    return fused_linear_cross_entropy(
        hidden_NC, model.head_VC, targets_M, model.config.vocab_size, rows_M=needed_rows_M
    )
