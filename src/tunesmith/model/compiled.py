"""Blocks compiled in place: parameter names stay what they are, and an uncompiled model computes the same.

One block is compiled, and all of them run its code: they differ in their weights only. On CUDA a block is one graph,
attention included; on the CPU attention stays out of it, because every batch has other runs of documents. Code is made
for one number of tokens, so micro-batches have to be of constant size.
"""

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from tunesmith.machine import Choice
from tunesmith.messages.catalogue import say
from tunesmith.model.gpt2 import GPT2, Block, as_it_is
from tunesmith.model.softmax import has_triton


def can_compile(device: torch.device) -> Choice[bool]:
    """Whether there is what torch needs for it: Triton for a card, a C++ compiler for the CPU."""
    if device.type == "cuda":
        return Choice(True, say("Triton is here")) if has_triton() else Choice(False, say("Triton is not installed"))
    compilers = ("cl",) if sys.platform == "win32" else ("g++", "clang++", "c++")
    found = next((name for name in compilers if shutil.which(name)), None)
    if found is None:
        return Choice(False, say("there is no {compiler}", compiler=compilers[0]))
    return Choice(True, say("{compiler} is here", compiler=found))


def compile_in_place(model: GPT2) -> None:
    """Compile every block when it first runs; the results are kept on disk by torch for later runs."""
    on_card = model.head_VC.is_cuda
    left_out = torch.compiler.disable(as_it_is)  # not at import: it loads the compiler, which takes more than a second
    for block in model.transformer.h:
        assert isinstance(block, Block)
        block.attn.run_attend = as_it_is if on_card else left_out
        block.compile(fullgraph=on_card, dynamic=False)


def is_compiled(model: GPT2) -> bool:
    """Whether `compile_in_place` was called."""
    return model.transformer.h[0]._compiled_call_impl is not None  # noqa: SLF001  torch has no public name for it


@contextmanager
def uncompiled(model: GPT2) -> Iterator[None]:
    """Run the model as it is written, compiled or not."""
    if not is_compiled(model):  # without asking torch's compiler, whose import takes a second
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
