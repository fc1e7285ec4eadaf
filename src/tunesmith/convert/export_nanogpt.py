"""nanoGPT's `ckpt.pt`: `sample.py --out_dir=DIR` reads it, and `train.py --init_from=resume` continues it.

nanoGPT computes the exact GELU, and a GPT-2 was trained with its tanh approximation; nanoGPT's own import of GPT-2
does the same, and how much it changes is measured and said.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tunesmith.convert.exported_model import Exported, copy_settings
from tunesmith.convert.import_nanogpt import read_nanogpt
from tunesmith.convert.verify import ReadBack, Verification, verify
from tunesmith.errors import UserError
from tunesmith.model.hf_checkpoint import model_from_state_dict

FILE = "ckpt.pt"
TANH_GELU = ("gelu_new", "gelu_pytorch_tanh", "gelu_fast")
LARGEST_DIFFERENCE = 1e-3
ADAMW = {"lr": 6e-4, "betas": (0.9, 0.95), "weight_decay": 0.1}
"""nanoGPT's defaults; its `train.py` sets the rate at every step."""


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
