"""What is computed once more: the same numbers, no product too many, and less memory kept."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tunesmith.config import ACTIVATION_CHECKPOINTING_LEVELS, ActivationCheckpointing
from tunesmith.model import activation_checkpointing
from tunesmith.model.activation_checkpointing import apply_activation_checkpointing
from tunesmith.model.attention import PackedLayout, forward_packed
from tunesmith.model.compile import apply_compile, can_compile
from tunesmith.model.gpt2 import GPT2
from tunesmith.model.gpt2_config import LoRA
from tunesmith.model.hf_checkpoint import load_gpt2
from tunesmith.model.lora import apply_lora, freeze
from tunesmith.model.loss import fused_linear_cross_entropy

LAYOUT = PackedLayout.of((0, 20, 40, 47, 64))
TOKENS = np.random.default_rng(1).integers(0, 300, 64)
POSITIONS = np.concatenate([np.arange(end - start) for start, end in ((0, 20), (20, 40), (40, 47), (47, 64))])


class Products(TorchDispatchMode):
    """Counts operations by name."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls[func.name().removeprefix("aten::")] += 1
        return func(*args, **(kwargs or {}))


def gradients(model: GPT2, what: ActivationCheckpointing) -> tuple[dict[str, torch.Tensor], Counter[str]]:
    """Of every learned parameter after one backward pass, and what was computed for it."""
    apply_activation_checkpointing(model, what)
    return backward(model)


def backward(model: GPT2) -> tuple[dict[str, torch.Tensor], Counter[str]]:
    """The same, as the model is."""
    model.zero_grad(set_to_none=True)
    torch.manual_seed(7)  # dropout
    with Products() as counted:
        hidden_NC = forward_packed(model, TOKENS, POSITIONS, LAYOUT)
        fused_linear_cross_entropy(hidden_NC, model.head_VC, torch.from_numpy(TOKENS), 300).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}, counted.calls


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("learned", ["all", "full", "adapters"])
def test_gradients_are_bitwise_the_same(
    make_model_folder: Callable[..., Path], learned: str, dtype: torch.dtype
) -> None:
    """With dropout, frozen parts and adapters too; and the two cheap ways repeat no matrix product."""
    model = load_gpt2(make_model_folder(), dropout=0.1).train()
    model.compute_dtype = dtype
    if learned == "full":
        freeze(model, "embeddings")
    elif learned == "adapters":
        apply_lora(model, LoRA(4, 8.0, 0.1, ("attn.c_attn", "mlp.c_proj")), seed=1)
    expected, counted = gradients(model, "none")
    products: dict[ActivationCheckpointing, int] = {}
    for what in ACTIVATION_CHECKPOINTING_LEVELS:
        found, calls = gradients(model, what)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], gradient) for name, gradient in expected.items()), what
        products[what] = calls["addmm"]
    assert counted["addmm"] == 4 * model.config.n_layer
    assert products["selective"] == products["none"]
    assert products["full"] == products["offload"] > products["none"]


@pytest.mark.filterwarnings("ignore")  # inside the compiler, which warns of what it does itself
@pytest.mark.skipif(not can_compile(torch.device("cpu")).value, reason="no C++ compiler")
def test_compiled_blocks_compute_the_same(make_model_folder: Callable[..., Path]) -> None:
    """Recomputation inside of compiled code."""
    model = load_gpt2(make_model_folder()).train()
    expected, _ = gradients(model, "none")
    apply_compile(model)
    for what in ACTIVATION_CHECKPOINTING_LEVELS:
        torch.compiler.reset()
        apply_activation_checkpointing(model, what)
        found, _ = backward(model)
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-4)


def test_a_card_keeps_what_goes_into_blocks_on_the_host(
    make_model_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every block's input is handed to the host and nothing else of the block; the result is the same."""
    model = load_gpt2(make_model_folder()).train()
    expected, _ = gradients(model, "none")
    taken: list[torch.Size] = []

    def pinned(shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
        taken.append(shape)
        return torch.empty(shape, dtype=dtype)  # without a GPU nothing is pinned

    monkeypatch.setattr(activation_checkpointing, "pinned_empty", pinned)
    apply_activation_checkpointing(model, "full")
    for block in model.blocks:
        block.forward.to_host = True
    found, _ = backward(model)
    assert all(torch.equal(found[name], gradient) for name, gradient in expected.items())
    inputs = [shape for shape in taken if shape == (64, model.config.n_embd)]
    assert len(inputs) == len(taken)
    assert len(inputs) >= model.config.n_layer
