"""An ordinary model folder with weights of 32 or 16 bits; adapters are merged into it."""

from pathlib import Path

import torch

from tunesmith.errors import UserError
from tunesmith.exporting.exported import Exported, copy_settings
from tunesmith.exporting.verification import ReadBack, Verification, verify
from tunesmith.model.hf_checkpoint import load_gpt2, save_gpt2

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
LARGEST_DIFFERENCE = {"f32": 1e-3, "f16": 0.5, "bf16": 4.0}
"""Between logits, in nats: products in another order, 11 bits and 8 bits of a weight."""


def write_safetensors(exported: Exported, folder: Path, dtype: str) -> None:
    """Write `config.json`, `model.safetensors`, tokenizer and generation settings.

    Raises:
        UserError: if a weight is too large for the type.
    """
    largest = torch.finfo(DTYPES[dtype]).max
    for name, tensor in exported.state.items():
        if not float(tensor.abs().max()) <= largest:
            raise UserError(
                "{name} holds {value:.3g}, which is more than {dtype} can",
                hint="take --dtype bf16 or f32",
                name=name,
                value=float(tensor.abs().max()),
                dtype=dtype,
            )
    save_gpt2(exported.model, folder, hf_config=exported.hf_config, dtype=DTYPES[dtype])
    copy_settings(exported, folder)


def verify_safetensors(exported: Exported, folder: Path, dtype: str) -> Verification:
    """Load the folder as any other and compute with it.

    Raises:
        UserError: if logits differ by more than rounding.
    """
    read = ReadBack(load_gpt2(folder).eval(), "tunesmith")
    return verify(exported, read, largest_difference=LARGEST_DIFFERENCE[dtype])
