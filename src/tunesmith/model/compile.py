"""Blocks compiled in place: parameter names stay what they are, and an uncompiled model computes the same.

One block is compiled, and all of them run its code: they differ in their weights only. With FlashAttention a block is
one graph; other attention stays out of it, because every batch has other runs of documents. Code is made for one number
of tokens, so micro-batches have to be of constant size. What is compiled is inside of activation checkpointing, which
keeps or offloads what goes in.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tunesmith.backends import choose_compilation, cpp_compiler, device_here, is_traceable, triton_here
from tunesmith.messages.catalogue import say
from tunesmith.model.attention import attention_backend
from tunesmith.model.gpt2 import GPT2, Attend, Block, as_it_is
from tunesmith.utils.device import Choice
from tunesmith.utils.oom import is_out_of_memory

RECOMPILE_LIMIT = 64
"""Versions of one block's code; torch's own limit of 8 is soon reached by micro-batches that shrink."""


def can_compile(device: torch.device) -> Choice[bool]:
    """Whether there is what torch needs for it: Triton that works for a GPU, a C++ compiler for the CPU."""
    triton = (
        Choice(False, say("Triton kernels are for GPUs")) if device.type == "cpu" else triton_here(device.index or 0)
    )
    return choose_compilation(device_here(device), triton, cpp_compiler())


def compile_in_place(model: GPT2, *, fullgraph: bool = False, backend: str | Callable[..., Any] = "inductor") -> None:
    """Compile every block when it first runs; the results are kept on disk by torch for later runs.

    Args:
        model: on its device, in its dtype.
        fullgraph: whether a block that cannot be one graph is an error; for tests.
        backend: of `torch.compile`; another one for tests.
    """
    compiled = CompiledBlocks(fullgraph=fullgraph, backend=backend)
    for block in _blocks(model):
        block.forward_of = compiled
    _place_attention(model)


def _place_attention(model: GPT2) -> None:
    """Into the compiled blocks or out of them, as this model's attention allows."""
    one_scale = not model.config.scale_attn_by_inverse_layer_idx
    if is_traceable(attention_backend(model).value, one_scale=one_scale):
        run_attend = as_it_is
    else:
        run_attend = torch.compiler.disable(as_it_is)  # not at import: it loads the compiler, which takes a second
    for block in _blocks(model):
        block.attn.run_attend = run_attend


def compute_in(model: GPT2, dtype: torch.dtype) -> None:
    """Change the dtype of the arithmetic, and with it what computes attention and whether that is compiled."""
    model.compute_dtype = dtype
    if is_compiled(model):
        _place_attention(model)


def is_compiled(model: GPT2) -> bool:
    """Whether `compile_in_place` was called."""
    return _compiled(model) is not None


def compilation_failure(model: GPT2) -> str:
    """What the compiler failed with, so that the model runs as it is written; empty where it did not."""
    compiled = _compiled(model)
    return compiled.failure if compiled else ""


@contextmanager
def uncompiled(model: GPT2) -> Iterator[None]:
    """Run this model as it is written in this thread, compiled or not; other models and threads are not affected."""
    compiled = _compiled(model)
    if compiled is None:
        yield
        return
    with compiled.paused():
        yield


@contextmanager
def inference(model: GPT2) -> Iterator[None]:
    """No dropout, no gradients and nothing compiled inside; afterwards the model's mode is what it was.

    Batches have other shapes here, and each would be compiled anew.
    """
    was_training = model.training
    if was_training:  # going through all modules takes longer than some of the work
        model.eval()
    try:
        with torch.no_grad(), uncompiled(model):
            yield
    finally:
        if was_training:
            model.train()


class CompiledBlocks:
    """The code of a model's blocks, and whether it is used.

    Attributes:
        failure: what the compiler failed with; empty where it did not.
    """

    def __init__(self, *, fullgraph: bool, backend: str | Callable[..., Any]) -> None:
        self._settings: dict[str, Any] = {"fullgraph": fullgraph, "backend": backend}
        self._run = torch.compile(Block._forward, dynamic=False, **self._settings)  # noqa: SLF001  what is inside of checkpointing
        self._here = threading.local()
        self.failure = ""

    def __deepcopy__(self, memo: dict[int, Any]) -> "CompiledBlocks":
        del memo  # a copy of the model shares nothing with it
        return CompiledBlocks(**self._settings)

    def __call__(self, block: Block) -> Callable[..., Tensor]:
        """What computes a block now, here."""
        pauses: int = getattr(self._here, "pauses", 0)
        if self.failure or pauses:
            return block._forward  # noqa: SLF001
        return partial(self._compute, block)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Not used in this thread; may be nested."""
        self._here.pauses = getattr(self._here, "pauses", 0) + 1
        try:
            yield
        finally:
            self._here.pauses -= 1

    def _compute(self, block: Block, x_NC: Tensor, attend: Attend) -> Tensor:
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
        return block._forward(x_NC, attend)  # noqa: SLF001


def _is_of_compiler(error: Exception) -> bool:
    """Whether the compiler failed, and not what it had made or the memory that it needs."""
    from torch._dynamo.exc import TorchDynamoException

    causes = [error, getattr(error, "inner_exception", None), error.__cause__]
    if any(cause is not None and is_out_of_memory(cause) for cause in causes):
        return False
    return isinstance(error, TorchDynamoException)


def _compiled(model: GPT2) -> CompiledBlocks | None:
    first = model.transformer.h[0]
    found = first.forward_of if isinstance(first, Block) else None
    return found if isinstance(found, CompiledBlocks) else None


def _blocks(model: GPT2) -> Iterator[Block]:
    for block in model.transformer.h:
        assert isinstance(block, Block)
        yield block
