"""Checkpoints of nanoGPT (`ckpt.pt`), read and written, and of build-nanogpt (`model_05000.pt`), read.

They are pickles, and read as plain data only. What is written is what nanoGPT's `sample.py --out_dir=DIR` and
`train.py --init_from=resume` load.

nanoGPT computes the exact GELU (the first months of it: the tanh approximation), build-nanogpt the tanh approximation.
A GPT-2 that is written was trained with the tanh approximation; nanoGPT's own import of GPT-2 ignores that,
too, and how much it changes is measured and reported.
A compiled model's names begin with `_orig_mod.`; without `bias=True` there are no biases, which is the same as zeros.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tunesmith.convert.exported_model import Exported, copy_settings
from tunesmith.convert.imported_model import ForeignModel, expected_shapes, refuse_incomplete
from tunesmith.convert.verify import ReadBack, Verification, verify
from tunesmith.errors import UserError
from tunesmith.model.gpt2_config import GPT2Config
from tunesmith.model.hf_checkpoint import model_from_state_dict
from tunesmith.model.hf_config import parse_hf_config

SIZES = {
    "vocab_size": "vocab_size",
    "block_size": "n_positions",
    "n_embd": "n_embd",
    "n_layer": "n_layer",
    "n_head": "n_head",
}
FILE = "ckpt.pt"
TANH_GELU = ("gelu_new", "gelu_pytorch_tanh", "gelu_fast")
LARGEST_DIFFERENCE = 1e-3
ADAMW = {"lr": 6e-4, "betas": (0.9, 0.95), "weight_decay": 0.1}
"""nanoGPT's defaults; its `train.py` sets the rate at every step."""
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


def write_nanogpt(exported: Exported, folder: Path, dtype: str) -> None:
    """Write `ckpt.pt`, and the tokenizer next to it, which nanoGPT does not read but other programs do."""
    del dtype
    config = exported.model.config
    if (
        config.activation_function not in {*TANH_GELU, "gelu"}
        or config.n_inner != 4 * config.n_embd
        or not config.tie_word_embeddings
        or not config.scale_attn_weights
        or config.scale_attn_by_inverse_layer_idx
    ):
        raise UserError(
            "nanoGPT knows only GPT-2 with GELU, tied embeddings, plain attention and an MLP of four times the width",
            hint="take --format onnx or --format safetensors",
        )
    state = {name: tensor.contiguous().clone() for name, tensor in exported.state.items()}
    state["lm_head.weight"] = state["transformer.wte.weight"]
    sizes = {"n_layer": config.n_layer, "n_head": config.n_head, "n_embd": config.n_embd}
    checkpoint = {
        "model": state,
        "optimizer": _fresh_optimizer(state),
        "model_args": {
            **sizes,
            "block_size": config.n_positions,
            "bias": True,
            "vocab_size": config.vocab_size,
            "dropout": 0.0,
        },
        "iter_num": 0,
        "best_val_loss": 1e9,
        "config": {},
    }
    torch.save(checkpoint, folder / FILE)
    copy_settings(exported, folder)


def verify_nanogpt(exported: Exported, folder: Path, dtype: str) -> Verification:
    """Read it back and compute with nanoGPT's GELU.

    Raises:
        UserError: if weights do not read back as they were written.
    """
    del dtype
    read = read_nanogpt(folder / FILE)
    found = model_from_state_dict(read.config, read.state)  # with the exact GELU
    exact = replace(exported, model=model_from_state_dict(read.config, exported.state))
    computed = ReadBack(found, "nanoGPT's arithmetic")
    verify(exact, computed, largest_difference=LARGEST_DIFFERENCE)
    return verify(exported, computed, largest_difference=float("inf"))


def _fresh_optimizer(state: dict[str, torch.Tensor]) -> dict[str, Any]:
    """What `train.py` wants to load: AdamW before its first step, decayed matrices and the rest."""
    learned = [torch.nn.Parameter(tensor) for name, tensor in state.items() if name != "lm_head.weight"]
    groups = [
        {"params": [parameter for parameter in learned if parameter.ndim >= 2], **ADAMW},
        {"params": [parameter for parameter in learned if parameter.ndim < 2], **ADAMW, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups).state_dict()
