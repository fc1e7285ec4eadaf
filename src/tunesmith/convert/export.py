"""The command `export`: write a model in another format and verify it before the folder gets its name."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from tunesmith.config import ExportConfig
from tunesmith.convert.export_gguf import verify_gguf, write_gguf
from tunesmith.convert.export_onnx import verify_onnx, write_onnx
from tunesmith.convert.exported_model import Exported, copy_settings, read_exported
from tunesmith.convert.nanogpt import verify_nanogpt, write_nanogpt
from tunesmith.convert.verify import ReadBack, Verification, verify
from tunesmith.errors import UsageError, UserError
from tunesmith.model.hf_checkpoint import load_gpt2, save_gpt2
from tunesmith.utils.files import check_is_new, new_folder

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
LARGEST_DIFFERENCE = {"f32": 1e-3, "f16": 0.5, "bf16": 4.0}
"""Between logits, in nats: products in another order, 11 bits and 8 bits of a weight."""


def write_safetensors(exported: Exported, folder: Path, dtype: str) -> None:
    """Write `config.json`, `model.safetensors`, tokenizer and generation settings; adapters are merged.

    Raises:
        UserError: if a weight is too large for the dtype.
    """
    largest = torch.finfo(DTYPES[dtype]).max
    for name, tensor in exported.state.items():
        if not float(tensor.abs().max()) <= largest:
            raise UserError(
                "{name} contains {value:.3g}, which is more than {dtype} can represent",
                hint="take --dtype bf16 or f32",
                name=name,
                value=float(tensor.abs().max()),
                dtype=dtype,
            )
    save_gpt2(exported.model, folder, hf_config=exported.hf_config, dtype=DTYPES[dtype])
    copy_settings(exported, folder)


def verify_safetensors(exported: Exported, folder: Path, dtype: str) -> Verification:
    """Load the folder like any other and compute with it.

    Raises:
        UserError: if logits differ by more than rounding.
    """
    read = ReadBack(load_gpt2(folder).eval(), "tunesmith")
    return verify(exported, read, largest_difference=LARGEST_DIFFERENCE[dtype])


@dataclass(frozen=True)
class Form:
    """Format to export to: weight dtypes (the default first), and functions that write and verify a folder."""

    dtypes: tuple[str, ...]
    write: Callable[[Exported, Path, str], None]
    verify: Callable[[Exported, Path, str], Verification]


FORMS = {
    "safetensors": Form(("f32", "f16", "bf16"), write_safetensors, verify_safetensors),
    "gguf": Form(("f16", "f32", "q8_0"), write_gguf, verify_gguf),
    "onnx": Form(("f32",), write_onnx, verify_onnx),
    "nanogpt": Form(("f32",), write_nanogpt, verify_nanogpt),
}


def export_model(config: ExportConfig) -> dict[str, Any]:
    """Write, verify, and only then give the folder its name.

    Raises:
        UserError: if the model cannot be written in that format, or the written file computes something else.
    """
    if config.format is None and not config.merge:
        raise UsageError(
            "nothing to export was named",
            hint="write tunesmith export MODEL --format gguf --out DIR, or tunesmith export ADAPTER --merge --out DIR",
        )
    if config.base is not None and not config.merge:
        raise UsageError(
            "--base is the model of an adapter and has no effect without --merge",
            hint="add --merge to merge the adapter into {base}, or leave out --base",
            base=config.base,
        )
    form = FORMS[config.format or "safetensors"]
    dtype = form.dtypes[0] if config.dtype == "auto" else config.dtype
    if dtype not in form.dtypes:
        raise UserError(
            "--format {form} has no --dtype {dtype}",
            hint="it has {dtypes}",
            form=config.format,
            dtype=dtype,
            dtypes=", ".join(form.dtypes),
        )
    out = Path(config.out)
    check_is_new(out)
    exported = read_exported(config)
    with new_folder(out) as folder:
        form.write(exported, folder, dtype)
        found = form.verify(exported, folder, dtype)
    return {
        "out": str(out),
        "to": config.format or "safetensors",
        "dtype": dtype,
        "files": {path.name: path.stat().st_size for path in sorted(out.iterdir())},
        "base": str(exported.folder),
        "adapter": str(exported.adapter) if exported.adapter else None,
        "largest_logit_difference": found.largest_logit_difference,
        "verified": asdict(found),
    }
