"""One optimizer step, as a function of its arguments.

The loss of a step is the sum of nats over all tokens it predicts divided by their number, which is known before the
forward pass: the update does not depend on how the tokens were dealt to micro-batches.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from tunesmith.data.batches import Batch
from tunesmith.distributed.strategy import Strategy
from tunesmith.model.attention import DocumentLayout
from tunesmith.model.gpt2 import GPT2
from tunesmith.model.loss import sum_of_nats
from tunesmith.model.packed import hidden_states, on_device_of
from tunesmith.optimizers.host_adamw import HostAdamW
from tunesmith.optimizers.in_backward import InBackwardAdamW


@dataclass(frozen=True)
class StepResult:
    """What a step measured; tensors stay on the device so that reading them is the caller's choice.

    Attributes:
        nats: fp32 scalar, summed cross-entropy before the update.
        tokens: how many tokens it was summed over.
        grad_norm: fp32 scalar, of the whole gradient before clipping.
        is_bad: bool scalar, whether the loss or, without a scaler, the gradient is not finite: nothing was learned.
    """

    nats: Tensor
    tokens: int
    grad_norm: Tensor
    is_bad: Tensor


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
    """Learn from a step's micro-batches.

    Args:
        model: in training mode, on its device.
        optimizer: of the model's parameters.
        micro_batches: together the step, or this process's share of it.
        learning_rate: of this step.
        max_grad_norm: the gradient is scaled down to this norm if it is longer.
        scaler: enabled for fp16 only; it skips the update when the gradient overflowed.
        strategy: how the model learns together with other processes; None where there are none.
        step_tokens: how many the step predicts in all processes; None where the micro-batches are all of it.
    """
    strategy = strategy or Strategy(model)
    step_tokens = sum(len(batch.targets) for batch in micro_batches) if step_tokens is None else step_tokens
    for group in optimizer.param_groups:
        group["lr"] = learning_rate

    def backward(batch: Batch) -> Tensor:
        return backward_pass(model, batch, step_tokens, scaler, strategy)

    if isinstance(optimizer, InBackwardAdamW) and len(micro_batches) == 1:
        if optimizer.norm_before is None:
            with optimizer.measuring():
                backward(micro_batches[0])
        with optimizer.updating(max_grad_norm):
            nats = backward(micro_batches[0])
        grad_norm = optimizer.finished()  # too late to skip: where this is bad, weights are, and the run goes back
        return StepResult(nats, step_tokens, grad_norm, ~(nats.isfinite() & grad_norm.isfinite()))
    step_nats = torch.zeros((), device=model.head_VC.device)
    for number, batch in enumerate(micro_batches, 1):
        with strategy.accumulate(is_last=number == len(micro_batches)):
            step_nats += backward(batch)
    step_nats = strategy.reduce_loss(step_nats)
    scaler.unscale_(optimizer)
    if isinstance(optimizer, HostAdamW):
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
        _update_unless(is_bad, optimizer, is_sharded=strategy.is_sharded)
    optimizer.zero_grad(set_to_none=True)
    return StepResult(step_nats, step_tokens, grad_norm, is_bad)


def _update_unless(is_bad: Tensor, optimizer: torch.optim.Optimizer, *, is_sharded: bool) -> None:
    """Update, or change nothing.

    Decided on the device, by the way that `GradScaler` has into fused optimizers. Weights in parts wait for the
    verdict, and so do those whose masters are updated on the host.
    """
    if is_sharded or isinstance(optimizer, HostAdamW):
        if not bool(is_bad):  # host sync
            optimizer.step()
        return
    optimizer.found_inf = is_bad.float()  # type: ignore[attr-defined]
    try:
        optimizer.step()
    finally:
        del optimizer.found_inf  # type: ignore[attr-defined]


def no_step(model: GPT2) -> StepResult:
    """The result of a step that has nothing to learn from, because all of it was left out."""
    zero = torch.zeros((), device=model.head_VC.device)
    return StepResult(zero, 0, zero, torch.zeros((), dtype=torch.bool, device=zero.device))


def fresh_scaler(scaler: torch.amp.GradScaler, device: torch.device) -> torch.amp.GradScaler:
    """A scaler with the same scale that remembers nothing of a step that was broken off."""
    fresh = torch.amp.GradScaler(device.type, enabled=scaler.is_enabled())
    fresh.load_state_dict(scaler.state_dict())
    return fresh


def backward_pass(
    model: GPT2, batch: Batch, step_tokens: int, scaler: torch.amp.GradScaler, strategy: Strategy | None = None
) -> Tensor:
    """Add a micro-batch's part to the gradients of a step of so many predicted tokens; its nats, a fp32 scalar."""
    nats = sum_of_batch_nats(model, batch, call=strategy.forward if strategy else None)
    loss = nats / step_tokens
    if strategy and strategy.loss_scale != 1:
        loss = loss * strategy.loss_scale  # gradients are averaged over processes, and are to be summed
    scaler.scale(loss).backward()
    return nats.detach()


def sum_of_batch_nats(model: GPT2, batch: Batch, *, call: Callable[..., Tensor] | None = None) -> Tensor:
    """Summed cross-entropy of what a batch predicts, fp32 scalar with a graph behind it.

    Args:
        model: on its device.
        batch: to compute.
        call: what computes, where that is wrapped around the model.
    """
    layout = DocumentLayout(batch.offsets, batch.longest)
    compute = hidden_states if call is None else partial(hidden_states, call=call)
    hidden_NC = compute(model, batch.tokens, batch.positions, layout)
    targets_M, rows_M = on_device_of(model, batch.targets), on_device_of(model, batch.rows)
    is_all = len(rows_M) == batch.n_tokens
    asked_M = None if is_all else rows_M
    return sum_of_nats(hidden_NC, model.head_VC, targets_M, model.config.vocab_size, rows_M=asked_M)
