"""What is frozen stays, bit for bit; the rest learns exactly what it would have learned."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import tunesmith
from tunesmith.errors import UserError
from tunesmith.model.attention import PackedLayout, forward_packed
from tunesmith.model.gpt2_config import Frozen
from tunesmith.model.hf_checkpoint import load_gpt2
from tunesmith.model.lora import freeze
from tunesmith.model.loss import fused_linear_cross_entropy
from tunesmith.training.optimizer import make_optimizer, optimizer_state

CHOICES: dict[Frozen, Callable[[str], bool]] = {
    "embeddings": lambda name: ".h." not in name,
    1: lambda name: ".h.0." in name,
    2: lambda name: ".h." in name,
}


def gradients(model: Any) -> dict[str, torch.Tensor | None]:
    """Of the loss on a few documents."""
    random = np.random.default_rng(1)
    tokens_N, targets_N = random.integers(0, 300, (2, 30))
    positions_N = np.concatenate([np.arange(12), np.arange(18)])
    hidden_NC = forward_packed(model, tokens_N, positions_N, PackedLayout.of((0, 12, 30)))
    fused_linear_cross_entropy(hidden_NC, model.head_VC, torch.from_numpy(targets_N), 300).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("frozen", CHOICES)
def test_gradients_of_the_rest_are_the_same(frozen: Frozen, make_model_folder: Callable[..., Path]) -> None:
    """No gradient for what is frozen, and for the rest the one it has without freezing."""
    folder = make_model_folder()
    expected = gradients(load_gpt2(folder).train())
    model = load_gpt2(folder).train()
    freeze(model, frozen)
    for name, gradient in gradients(model).items():
        assert (gradient is None) == CHOICES[frozen](name), name
        if gradient is not None:
            torch.testing.assert_close(gradient, expected[name])
    names = {key.split(".", 1)[1] for key in optimizer_state(model, make_optimizer(model, weight_decay=0.1))}
    assert names == {name for name, _ in model.named_parameters() if not CHOICES[frozen](name)}


@pytest.mark.parametrize("frozen", CHOICES)
def test_a_run_leaves_what_is_frozen(frozen: Frozen, make_model_folder: Callable[..., Path], tmp_path: Path) -> None:
    """Through a whole run with weight decay, what is frozen is that of the base at the end, and nothing else is."""
    base, out = make_model_folder(), tmp_path / "out"
    text = tmp_path / "text.txt"
    text.write_text("".join(f"night {number}, lamp steady\n" for number in range(60)), encoding="utf-8")
    tunesmith.train(text, model=base, out=out, freeze=frozen, epochs=2.0, device="cpu", weight_decay=0.1)
    before, after = load_file(base / "model.safetensors"), load_file(out / "model.safetensors")
    for name, tensor in after.items():
        assert torch.equal(tensor, before[name]) == CHOICES[frozen](name), name


def test_there_must_be_so_many_blocks(make_model_folder: Callable[..., Path], tmp_path: Path) -> None:
    """More blocks than the model has are an error, before anything is written."""
    text = tmp_path / "text.txt"
    text.write_text("one\ntwo\nthree\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"^freeze 3: the model has 2 blocks"):
        tunesmith.train(text, model=make_model_folder(), out=tmp_path / "out", freeze=3)
    assert not (tmp_path / "out").exists()
