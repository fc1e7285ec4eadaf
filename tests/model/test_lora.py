"""Adapters against `peft` on the `transformers` model: the same logits, merged and unmerged."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import tunesmith
from tunesmith.errors import UserError
from tunesmith.model.attention import PackedLayout, forward_packed
from tunesmith.model.gpt2 import GPT2
from tunesmith.model.gpt2_config import PROJECTIONS, LoRA
from tunesmith.model.hf_checkpoint import load_gpt2, save_gpt2
from tunesmith.model.lora import adapted_layers, apply_lora, load_adapter, save_adapter
from tunesmith.training.optimizer import make_optimizer, trainable

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft's own call

TOKENS_N = np.random.default_rng(1).integers(0, 300, 40)


def our_logits(model: GPT2) -> torch.Tensor:
    """Of one document."""
    with torch.no_grad():
        return model.logits(forward_packed(model.eval(), TOKENS_N, np.arange(40), PackedLayout.of((0, 40))))


def moved(model: GPT2) -> GPT2:
    """With adapters that are not zero any more."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for _, layer in adapted_layers(model):
            layer.lora_B.normal_(0, 0.1, generator=generator)
    return model


@pytest.mark.parametrize("targets", [PROJECTIONS, ("attn.c_attn",), ("mlp.c_fc", "attn.c_proj")])
def test_peft_computes_the_same(
    targets: tuple[str, ...], make_model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    """Logits of the base at the start; then equal ones through peft, and through the merged model folder."""
    folder = make_model_folder()
    base = load_gpt2(folder)
    expected = our_logits(base)
    lora = LoRA(rank=4, alpha=8.0, dropout=0.1, targets=targets)
    model = load_gpt2(folder)
    apply_lora(model, lora, seed=1)
    torch.testing.assert_close(our_logits(model), expected)
    ours = our_logits(moved(model))
    assert not torch.allclose(ours, expected, atol=1e-2)
    save_adapter(model, tmp_path / "adapter", lora, base=str(folder))
    peft = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), tmp_path / "adapter").eval()
    tokens = torch.from_numpy(TOKENS_N)[None]
    with torch.no_grad():
        torch.testing.assert_close(ours, peft(tokens).logits[0], atol=1e-4, rtol=1e-4)
    (tmp_path / "merged").mkdir()
    save_gpt2(model, tmp_path / "merged", hf_config={**peft.base_model.model.config.to_dict()})
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    with torch.no_grad():
        torch.testing.assert_close(ours, plain(tokens).logits[0], atol=1e-4, rtol=1e-4)
    again = load_gpt2(folder)
    apply_lora(again, lora, seed=2)
    load_adapter(again, tmp_path / "adapter")
    assert torch.equal(our_logits(again), ours)


def test_only_adapters_are_learned(make_model_folder: Callable[..., Path]) -> None:
    """Optimizer state exists for A and B only: 8 bytes for each of their numbers."""
    model = load_gpt2(make_model_folder())
    apply_lora(model, LoRA(8, 16.0, 0.0, ("attn.c_attn",)), seed=1)
    names = [name for name, _ in trainable(model)]
    assert names == [f"transformer.h.{layer}.attn.c_attn.{part}" for layer in (0, 1) for part in ("lora_A", "lora_B")]
    optimizer = make_optimizer(model, weight_decay=0.0)
    state = sum(value.nbytes for entry in optimizer.state.values() for key, value in entry.items() if key != "step")
    assert state == 2 * 4 * 2 * 8 * (32 + 96)


def test_a_run_with_adapters(make_model_folder: Callable[..., Path], tmp_path: Path) -> None:
    """The result is a merged model folder and an adapter that give the same logits; the rest is the base's."""
    base = make_model_folder()
    text = tmp_path / "text.txt"
    text.write_text("".join(f"night {number}, lamp steady\n" for number in range(60)), encoding="utf-8")
    settings = {"model": base, "lora_r": 4, "epochs": 2.0, "device": "cpu", "precision": "fp32"}
    result = tunesmith.train(text, out=tmp_path / "out", **settings)
    assert result.perplexity < result.base_perplexity
    peft = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "out" / "adapter").eval()
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    tokens = torch.from_numpy(TOKENS_N)[None]
    with torch.no_grad():
        torch.testing.assert_close(peft(tokens).logits, plain(tokens).logits, atol=1e-4, rtol=1e-4)
    before, after = load_file(base / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(before["transformer.wte.weight"], after["transformer.wte.weight"])
    assert not torch.equal(before["transformer.h.0.attn.c_attn.weight"], after["transformer.h.0.attn.c_attn.weight"])


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({"lora_r": -1}, "lora_r -1"),
        ({"lora_r": 4, "lora_target_modules": ("c_attn",)}, "lora_target_modules c_attn is none of attn.c_attn"),
        ({"lora_r": 4, "freeze": "embeddings"}, "lora_r and freeze exclude each other"),
    ],
)
def test_what_makes_no_sense_is_refused(
    asked: dict[str, object], named: str, make_model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    """One error with the flag, before anything is written."""
    with pytest.raises(UserError, match=named):
        tunesmith.train(tmp_path / "text.txt", model=make_model_folder(), out=tmp_path / "out", **asked)
    assert not (tmp_path / "out").exists()
