"""Checkpoints of nanoGPT (`ckpt.pt`) and build-nanogpt (`model_05000.pt`): pickles, read as plain data only.

nanoGPT computes the exact GELU (the first months of it: the tanh approximation), build-nanogpt the tanh approximation.
A compiled model's names begin with `_orig_mod.`; without `bias=True` there are no biases, which is the same as zeros.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tunesmith.convert.imported_model import ForeignModel, expected_shapes, refuse_incomplete
from tunesmith.errors import UserError
from tunesmith.model.gpt2_config import GPT2Config
from tunesmith.model.hf_config import parse_hf_config

SIZES = {
    "vocab_size": "vocab_size",
    "block_size": "n_positions",
    "n_embd": "n_embd",
    "n_layer": "n_layer",
    "n_head": "n_head",
}
COMPILED = "_orig_mod."
DISTRIBUTED = "module."
MASK = ".attn.bias"
"""The causal mask of old versions."""


@dataclass
class GPTConfig:
    """Replaces the class of the same name that build-nanogpt pickles: it takes the fields and does nothing."""


def read_nanogpt(path: Path) -> ForeignModel:
    """Read one.

    Raises:
        UserError: if it is another file, damaged, or would run code when read.
    """
    content = _content(path)
    state = content.get("model") if isinstance(content, dict) else None
    settings = content.get("model_args", content.get("config")) if isinstance(content, dict) else None
    exact = isinstance(settings, dict)
    shape = settings if isinstance(settings, dict) else getattr(settings, "__dict__", {})
    if not isinstance(state, dict) or not set(SIZES) <= set(shape):
        raise UserError(
            "{path} is not a checkpoint of nanoGPT or build-nanogpt: it lacks {missing}",
            hint="name the ckpt.pt that train.py wrote",
            path=path,
            missing="'model'" if not isinstance(state, dict) else "'model_args'",
        )
    raw = {SIZES[key]: value for key, value in shape.items() if key in SIZES}
    config = parse_hf_config({**raw, "activation_function": "gelu" if exact else "gelu_new"}, origin=str(path))
    weights = _weights(path, state, config)
    refuse_incomplete(path, config, weights)
    kind = "nanoGPT" if exact else "build-nanogpt"
    return ForeignModel(kind, config, weights)


def _content(path: Path) -> Any:  # noqa: ANN401  whatever was saved
    try:
        with torch.serialization.safe_globals([(GPTConfig, "__main__.GPTConfig"), (GPTConfig, "train_gpt2.GPTConfig")]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # noqa: BLE001  a damaged pickle makes torch's reader raise anything
        lines = str(error).splitlines() or [type(error).__name__]
        raise UserError(
            "{path} cannot be read as plain weights: {reason}",
            hint="the file is damaged, incomplete, or contains code, which is never run",
            path=path,
            reason=lines[0][:200],
        ) from None


def _weights(path: Path, state: dict[Any, Any], config: GPT2Config) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {}
    for key, tensor in state.items():
        name = str(key).removeprefix(DISTRIBUTED).removeprefix(COMPILED).removeprefix(DISTRIBUTED)
        if name.endswith(MASK) and isinstance(tensor, Tensor) and tensor.ndim == 4:
            continue
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            raise UserError(
                "{path}: {name} is not a weight", hint="name the ckpt.pt that train.py wrote", path=path, name=name
            )
        weights[name] = tensor
    head, table = weights.pop("lm_head.weight", None), weights.get("transformer.wte.weight")
    if head is not None and table is not None and not torch.equal(head, table):
        raise UserError(
            "{path}: head and embeddings differ, and nanoGPT ties them",
            hint="the checkpoint was changed or is another program's",
            path=path,
        )
    for name, sizes in expected_shapes(config).items():
        if name.endswith(".bias") and name not in weights:
            weights[name] = torch.zeros(sizes)
    return weights
