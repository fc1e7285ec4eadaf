"""Blocks compiled from outside: parameter names stay the same, and an uncompiled model computes the same.

One block is compiled, and all blocks run its code: they differ in their weights only. With FlashAttention a block is
one graph; other attention is left out of it, because every batch has other groups of document lengths. Code is made for
one number of tokens, so micro-batches have to be of constant size. Compiled code is inside of activation checkpointing
(`tunesmith.model.activation_checkpointing`), which keeps or offloads the block's input.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from tunesmith.backends import cpp_compiler, detect_device, is_traceable, probe_triton, resolve_compilation
from tunesmith.i18n import say
from tunesmith.model.attention import attention_backend
from tunesmith.model.gpt2 import GPT2, Attend, Block, InnerAttention
from tunesmith.utils.device import Decision
from tunesmith.utils.oom import is_out_of_memory

RECOMPILE_LIMIT = 64
"""Versions of one block's code; torch's own limit of 8 is soon reached by micro-batches that shrink."""


def can_compile(device: torch.device) -> Decision[bool]:
    """Whether torch can compile here: Triton that works for a GPU, a C++ compiler for the CPU."""
    triton = (
        Decision(False, say("Triton kernels are for GPUs")) if device.type == "cpu" else probe_triton(device.index or 0)
    )
    return resolve_compilation(detect_device(device), triton, cpp_compiler())


def apply_compile(model: GPT2, *, fullgraph: bool = False, backend: str | Callable[..., Any] = "inductor") -> None:
    """Compile every block when it first runs; torch keeps the results on disk for later runs.

    Args:
        model: on its device, in its dtype; without activation checkpointing, which is applied afterwards.
        fullgraph: whether a block that cannot be one graph is an error; for tests.
        backend: of `torch.compile`; another one for tests.
    """
    compiled = CompiledBlocks(fullgraph=fullgraph, backend=backend)
    for block in model.blocks:
        set_forward(block, CompiledForward(block, compiled))
    _place_attention(model)


def set_forward(module: nn.Module, forward: Callable[..., Tensor] | None) -> None:
    """Replace the forward pass of one module; None restores that of its class."""
    vars(module).pop("forward", None)
    if forward is not None:
        module.forward = forward


def _place_attention(model: GPT2) -> None:
    """Put attention into the compiled code or leave it out, as its backend requires."""
    one_scale = not model.config.scale_attn_by_inverse_layer_idx
    is_inside = is_traceable(attention_backend(model).value, one_scale=one_scale)
    for block in model.blocks:
        inner = block.attn.inner_attention
        # bound to one function, so that all layers share their code
        set_forward(inner, MethodType(InnerAttention.forward if is_inside else _uncompiled_attention(), inner))


@cache
def _uncompiled_attention() -> Callable[..., Tensor]:
    """Make the function when it is first needed: this imports the compiler, which takes a second."""
    forward: Callable[..., Tensor] = torch.compiler.disable(InnerAttention.forward)
    return forward


def set_compute_dtype(model: GPT2, dtype: torch.dtype) -> None:
    """Change the dtype of the arithmetic, and with it the attention backend and whether it is compiled."""
    model.compute_dtype = dtype
    if is_compiled(model):
        _place_attention(model)


def is_compiled(model: GPT2) -> bool:
    """Whether `apply_compile` was called."""
    return _compiled(model) is not None


def compilation_failure(model: GPT2) -> str:
    """Return the compiler's error, after which the model runs uncompiled; empty if there was none."""
    compiled = _compiled(model)
    return compiled.failure if compiled else ""


@contextmanager
def eager_mode(model: GPT2) -> Iterator[None]:
    """Run this model uncompiled in this thread; other models and threads are not affected."""
    compiled = _compiled(model)
    if compiled is None:
        yield
        return
    with compiled.paused():
        yield


@contextmanager
def inference_mode(model: GPT2) -> Iterator[None]:
    """Disable dropout, gradients and compiled code; afterwards the model is in the mode it was in.

    Batches have other shapes here, and each shape would be compiled.
    """
    was_training = model.training
    if was_training:  # visiting all modules takes longer than some of the work
        model.eval()
    try:
        with torch.no_grad(), eager_mode(model):
            yield
    finally:
        if was_training:
            model.train()


class CompiledBlocks:
    """Compiled code of a model's blocks, and whether it is used.

    Attributes:
        failure: the compiler's error; empty if there was none.
    """

    def __init__(self, *, fullgraph: bool, backend: str | Callable[..., Any]) -> None:
        self._settings: dict[str, Any] = {"fullgraph": fullgraph, "backend": backend}
        self._run = torch.compile(Block.forward, dynamic=False, **self._settings)
        self._thread = threading.local()
        self.failure = ""

    def __deepcopy__(self, memo: dict[int, Any]) -> "CompiledBlocks":
        del memo  # a copy of the model shares nothing with it
        return CompiledBlocks(**self._settings)

    @property
    def is_active(self) -> bool:
        """Whether this thread runs the compiled code now."""
        return not self.failure and not getattr(self._thread, "pauses", 0)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Run uncompiled in this thread; may be nested."""
        self._thread.pauses = getattr(self._thread, "pauses", 0) + 1
        try:
            yield
        finally:
            self._thread.pauses -= 1

    def run(self, block: Block, x_NC: Tensor, attend: Attend) -> Tensor:
        """Run the compiled code, or the block as it is written once the compiler has failed."""
        if not self.failure:
            try:
                with torch._dynamo.config.patch(recompile_limit=RECOMPILE_LIMIT):  # noqa: SLF001  its public name
                    out_NC: Tensor = self._run(block, x_NC, attend)
                    return out_NC
            except Exception as error:
                if self._settings["fullgraph"] or not _is_of_compiler(error):
                    raise
                cause = getattr(error, "inner_exception", None) or error
                self.failure = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
        return Block.forward(block, x_NC, attend)


class CompiledForward:
    """Forward pass of a block by compiled code."""

    def __init__(self, block: Block, compiled: CompiledBlocks) -> None:
        self.block = block
        self.compiled = compiled

    def __call__(self, x_NC: Tensor, attend: Attend) -> Tensor:
        return self.bind()(x_NC, attend)

    def bind(self) -> Callable[..., Tensor]:
        """Return the code that this thread runs now: compiled, or as it is written."""
        return partial(self.compiled.run if self.compiled.is_active else Block.forward, self.block)


def _is_of_compiler(error: Exception) -> bool:
    """Whether the compiler failed, and not what it had made or the memory that it needs."""
    from torch._dynamo.exc import TorchDynamoException

    causes = [error, getattr(error, "inner_exception", None), error.__cause__]
    if any(cause is not None and is_out_of_memory(cause) for cause in causes):
        return False
    return isinstance(error, TorchDynamoException)


def _compiled(model: GPT2) -> CompiledBlocks | None:
    forward = model.blocks[0].forward
    forward = getattr(forward, "forward", forward)  # inside of a checkpoint
    return forward.compiled if isinstance(forward, CompiledForward) else None
