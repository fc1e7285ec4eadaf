"""The verb `export`: a model in another form, which is run or read back before the folder takes its name."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tunesmith.config import ExportConfig
from tunesmith.errors import UsageError, UserError
from tunesmith.exporting.exported import Exported, read_exported
from tunesmith.exporting.gguf_file import verify_gguf, write_gguf
from tunesmith.exporting.nanogpt_file import verify_nanogpt, write_nanogpt
from tunesmith.exporting.onnx_file import verify_onnx, write_onnx
from tunesmith.exporting.safetensors_folder import verify_safetensors, write_safetensors
from tunesmith.exporting.verification import Verification
from tunesmith.utils.files import check_is_new, new_folder


@dataclass(frozen=True)
class Form:
    """What a model can be exported to.

    Attributes:
        dtypes: of weights, the default first.
        write: fills a folder.
        verify: runs or reads what was written, and raises where it is something else.
    """

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
        UserError: if the model cannot be written in that form, or what was written computes something else.
    """
    if config.to is None and not config.merge:
        raise UsageError(
            "nothing to export was named",
            hint="write tunesmith export MODEL --to gguf --out DIR, or tunesmith export ADAPTER --merge --out DIR",
        )
    form = FORMS[config.to or "safetensors"]
    dtype = form.dtypes[0] if config.dtype == "auto" else config.dtype
    if dtype not in form.dtypes:
        raise UserError(
            "--to {form} has no --dtype {dtype}",
            hint="it has {dtypes}",
            form=config.to,
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
        "to": config.to or "safetensors",
        "dtype": dtype,
        "files": {path.name: path.stat().st_size for path in sorted(out.iterdir())},
        "base": str(exported.folder),
        "adapter": str(exported.adapter) if exported.adapter else None,
        "largest_logit_difference": found.largest_logit_difference,
        "verified": asdict(found),
    }
