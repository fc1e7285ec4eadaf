"""LoRA: a frozen projection plus a trained difference of low rank.

Shapes: N tokens, I channels in, O channels out, R the rank.

    y = W x + b + alpha / R * B A x      A [R, I], B [O, R]; B begins as 0, so training begins at the base model

Reference: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models". On disk an adapter has the names and
shapes of the `peft` library, which loads it on the `transformers` model; there GPT-2's projections are Conv1D, whose
weights lie the other way round, and `fan_in_fan_out` says so.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tunesmith.errors import UserError
from tunesmith.model.gpt2 import GPT2, Linear
from tunesmith.model.gpt2_config import Frozen, LoRA
from tunesmith.utils.files import describe_os_error, write_atomically, write_json

PEFT_PREFIX = "base_model.model"


class LoRALinear(nn.Module):
    """A frozen linear layer with a learned difference; the layer's own parameters keep their names."""

    def __init__(self, linear: Linear, lora: LoRA) -> None:
        super().__init__()
        self.weight = linear.weight.requires_grad_(False)
        self.bias = linear.bias.requires_grad_(False)
        out_features, in_features = linear.weight.shape
        device = linear.weight.device
        self.lora_A = nn.Parameter(torch.empty(lora.rank, in_features, device=device))
        self.lora_B = nn.Parameter(torch.zeros(out_features, lora.rank, device=device))
        self.lora_dropout = nn.Dropout(lora.dropout)
        self.scale = lora.alpha / lora.rank

    def forward(self, x_NI: Tensor) -> Tensor:
        """[N, O] in the dtype of the input."""
        dtype = x_NI.dtype
        low_NR = F.linear(self.lora_dropout(x_NI), self.lora_A.to(dtype))
        difference_NO = F.linear(low_NR, self.lora_B.to(dtype)) * self.scale
        # the large product last: where norms are computed again for the backward pass, it is not
        return F.linear(x_NI, self.weight.to(dtype), self.bias.to(dtype)) + difference_NO

    @torch.no_grad()
    def merged_weight(self) -> Tensor:
        """[O, I]: one matrix that computes the same."""
        return self.weight + self.scale * (self.lora_B @ self.lora_A)


def apply_lora(model: GPT2, lora: LoRA, *, seed: int) -> None:
    """Replace projections of every block by `LoRALinear` and freeze everything else."""
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for block in model.transformer.h:
        for target in lora.targets:
            parent_name, name = target.split(".")
            parent = block.get_submodule(parent_name)
            adapted = LoRALinear(parent.get_submodule(name), lora)  # type: ignore[arg-type]  # our own Linear
            bound = 1 / math.sqrt(adapted.lora_A.shape[1])  # peft's start: He's with a = sqrt(5)
            with torch.no_grad():
                adapted.lora_A.copy_(torch.empty(adapted.lora_A.shape).uniform_(-bound, bound, generator=generator))
            setattr(parent, name, adapted)


def freeze(model: GPT2, frozen: Frozen) -> None:
    """Ask for no gradients of these parts: they take no part in an update, nor memory for it."""
    blocks = model.transformer.h
    if frozen == "embeddings":
        model.requires_grad_(False)
        blocks.requires_grad_(True)
    elif isinstance(frozen, int):
        blocks[:frozen].requires_grad_(False)


def adapted_layers(model: GPT2) -> Iterator[tuple[str, LoRALinear]]:
    """Iterate over the layers with adapters and their names."""
    return ((name, module) for name, module in model.named_modules() if isinstance(module, LoRALinear))


def save_adapter(model: GPT2, folder: Path, lora: LoRA, *, base: str) -> None:
    """Write an adapter folder as `peft` does.

    Args:
        model: with adapters.
        folder: may not exist yet.
        lora: what they were made by.
        base: name or path of the model they belong to.
    """
    write_adapter(adapter_state(model), folder, lora, base=base)


def adapter_state(model: GPT2) -> dict[str, Tensor]:
    """The adapters under `peft`'s names, on the CPU; empty for a model without."""
    return {
        f"{PEFT_PREFIX}.{name}.{part}.weight": getattr(layer, part).detach().cpu().contiguous()
        for name, layer in adapted_layers(model)
        for part in ("lora_A", "lora_B")
    }


def write_adapter(tensors: dict[str, Tensor], folder: Path, lora: LoRA, *, base: str) -> None:
    """`save_adapter` of adapters that were taken from a model before (`adapter_state`)."""
    folder.mkdir(exist_ok=True)
    write_atomically(folder / "adapter_model.safetensors", lambda path: save_file(tensors, path, {"format": "pt"}))
    write_json(
        folder / "adapter_config.json",
        {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base,
            "r": lora.rank,
            "lora_alpha": lora.alpha,
            "lora_dropout": lora.dropout,
            "target_modules": list(lora.targets),
            "fan_in_fan_out": True,
            "bias": "none",
            "inference_mode": True,
        },
    )


@torch.no_grad()
def load_adapter(model: GPT2, folder: Path) -> None:
    """Fill the adapters of a model from a folder.

    Raises:
        UserError: if it is damaged or belongs to another shape.
    """
    path = folder / "adapter_model.safetensors"
    try:
        stored = load_file(path)
        for name, layer in adapted_layers(model):
            for part in ("lora_A", "lora_B"):
                getattr(layer, part).copy_(stored.pop(f"{PEFT_PREFIX}.{name}.{part}.weight"))
    except (OSError, KeyError, RuntimeError, SafetensorError, json.JSONDecodeError) as error:
        raise UserError(
            "the adapter {path} cannot be read: {error}",
            hint="it is damaged or belongs to another model",
            path=path,
            error=describe_os_error(error),
        ) from None
