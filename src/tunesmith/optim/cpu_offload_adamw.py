"""AdamW on the host: the GPU has bf16 weights, the host their fp32 masters, both moments and the summed gradient.

A gradient leaves the GPU as soon as the backward pass has made it, on a stream of its own, and a thread adds it up in
fp32 meanwhile. After the last one the host updates its masters, matrix by matrix, and while it works on the next one
the last travels back. Nothing is rounded that the reference does not round: it computes with bf16 copies of fp32
weights too.

References: Ren et al. 2021, "ZeRO-Offload: Democratizing Billion-Scale Model Training".
"""

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any
from weakref import WeakMethod

import torch
from torch import Tensor, nn

from tunesmith.optim.low_bit_adamw import uncompressed_state, update_uncompressed
from tunesmith.optim.state_format import HOST_STAGING_BYTES
from tunesmith.utils.device import pinned_empty, use_device


class CPUOffloadAdamW(torch.optim.Optimizer):
    """See the module.

    Args:
        groups: parameters with their `weight_decay`.
        halved: which of them are kept in bf16 on the device; the others stay in fp32 there.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        halved: Iterable[nn.Parameter],
        *,
        betas: tuple[float, float],
        epsilon: float,
    ) -> None:
        super().__init__(groups, {"lr": 0.0, "betas": betas, "eps": epsilon, "weight_decay": 0.0})
        halves = set(halved)
        self._masters: dict[nn.Parameter, nn.Parameter] = {}
        self._adding: deque[tuple[Future[None], int]] = deque()
        self._staged_bytes = 0
        # a thread has a current GPU of its own, and to wait on another one would start CUDA there
        self._adder = ThreadPoolExecutor(1, "gradients", use_device, (self.param_groups[0]["params"][0].device,))
        self._streams: dict[torch.device, torch.cuda.Stream] = {}
        take = WeakMethod(self._take)  # a hook that held the optimizer would keep the whole model in memory for ever
        for group in self.param_groups:
            for parameter in group["params"]:
                master = nn.Parameter(parameter.detach().to("cpu", torch.float32, copy=True))
                master.grad = torch.zeros_like(master)
                self._masters[parameter] = master
                self.state[parameter] = {**uncompressed_state(master), "master": master.data}
                if parameter in halves:
                    parameter.data = parameter.data.to(torch.bfloat16)
                parameter.register_post_accumulate_grad_hook(partial(_take_away, take))

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update the masters from what has arrived, and the weights from the masters."""
        assert closure is None
        self._wait()
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    master = self._masters[parameter]
                    update_uncompressed([master], {master: self.state[parameter]}, group)
                    self._send(parameter, master)

    def clip(self, parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
        """Scale the summed gradient down to this norm if it is longer; its norm before, on the host.

        Args:
            parameters: of the model, in its order, which decides the last bit of the norm.
            max_norm: the longest.
        """
        self._wait()
        masters = [self._masters[parameter] for parameter in parameters if parameter in self._masters]
        return torch.nn.utils.clip_grad_norm_(masters, max_norm)

    def zero_grad(self, set_to_none: bool = True) -> None:  # noqa: FBT001, FBT002  torch's signature
        self._wait()
        super().zero_grad(set_to_none)
        for master in self._masters.values():
            assert master.grad is not None
            master.grad.zero_()

    def restore(self, parameter: nn.Parameter, state: dict[str, Tensor]) -> None:
        """Put a saved state back: the master is part of it."""
        master = self._masters[parameter]
        master.data.copy_(state["master"])
        self.state[parameter] = {**state, "master": master.data}
        with torch.no_grad():
            self._send(parameter, master)

    @torch.no_grad()
    def _take(self, parameter: nn.Parameter) -> None:
        """Send a finished gradient to the host and let it go."""
        gradient, parameter.grad = parameter.grad, None
        assert gradient is not None
        total = self._masters[parameter].grad
        assert total is not None
        if not gradient.is_cuda:
            total.add_(gradient)
            return
        stream = self._streams.setdefault(gradient.device, torch.cuda.Stream(gradient.device))
        stream.wait_stream(torch.cuda.current_stream(gradient.device))
        with torch.cuda.stream(stream):
            self._wait(most_bytes=max(HOST_STAGING_BYTES - gradient.nbytes, 0))
            arrived = pinned_empty(gradient.shape, gradient.dtype)
            arrived.copy_(gradient, non_blocking=arrived.is_pinned())
            event = stream.record_event()
        gradient.record_stream(stream)
        self._add(_add_when_there, total, arrived, event)

    def _add(self, add: Callable[..., None], total: Tensor, arrived: Tensor, *others: object) -> None:
        self._staged_bytes += arrived.nbytes
        self._adding.append((self._adder.submit(add, total, arrived, *others), arrived.nbytes))

    def _wait(self, *, most_bytes: int = 0) -> None:
        """Wait until at most this many bytes of gradients remain to be added on the host."""
        while self._adding and (self._staged_bytes > most_bytes or not most_bytes):
            future, n_bytes = self._adding.popleft()
            self._staged_bytes -= n_bytes
            future.result()

    def _send(self, parameter: nn.Parameter, master: nn.Parameter) -> None:
        """To the device, without waiting; pinned memory is not used again before it has arrived."""
        if not parameter.is_cuda:
            parameter.copy_(master)
            return
        staged = pinned_empty(master.shape, parameter.dtype)
        parameter.copy_(staged.copy_(master), non_blocking=True)


def _take_away(take: WeakMethod[Any], parameter: Tensor) -> None:
    """Let the optimizer take a gradient, if there still is one."""
    taker = take()
    if taker is not None:
        assert isinstance(parameter, nn.Parameter)
        taker(parameter)


def _add_when_there(total: Tensor, arrived: Tensor, event: torch.cuda.Event) -> None:
    event.synchronize()
    total.add_(arrived)
