"""What is exported: a model on the CPU in fp32 with its tokenizer, from a folder or from an adapter and its base."""

import shutil
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from tunesmith.config import ExportConfig
from tunesmith.data.tokenizer import TextTokenizer, load_tokenizer
from tunesmith.errors import UserError
from tunesmith.model.gpt2 import GPT2
from tunesmith.model.gpt2_config import PROJECTIONS, LoRA
from tunesmith.model.hf_checkpoint import load_gpt2, merged_state_dict
from tunesmith.model.hf_config import read_hf_config
from tunesmith.model.hub import local_folder
from tunesmith.model.lora import apply_lora, load_adapter
from tunesmith.utils.files import describe_os_error, parse_json

GENERATION_CONFIG = "generation_config.json"


@dataclass(frozen=True)
class Exported:
    """Model to write in another format: in evaluation mode, adapters attached but not merged.

    `folder` is where it was read from; the base model's where there is an adapter.
    """

    model: GPT2
    hf_config: dict[str, Any]
    tokenizer: TextTokenizer
    folder: Path
    adapter: Path | None
    name: str

    @property
    def state(self) -> dict[str, torch.Tensor]:
        """Weights keyed by our names, [out, in], without padded rows, adapters merged."""
        return merged_state_dict(self.model)


def read_exported(config: ExportConfig) -> Exported:
    """Read the model that `config` names.

    Raises:
        UserError: if the model does not exist, or with `--merge` has no adapter that can be merged.
    """
    adapter = adapter_folder(config.model) if config.merge else None
    settings = adapter_settings(adapter) if adapter else {}
    base = config.base or str(settings.get("base_model_name_or_path", "")) if adapter else config.model
    folder = local_folder(base)
    hf_config = read_hf_config(folder)
    tokenizer = load_tokenizer(folder, hf_config)
    model = load_gpt2(folder).eval()
    if adapter:
        apply_lora(model, adapter_lora(adapter, settings), seed=0)
        load_adapter(model, adapter)
    name = Path(config.model).resolve().name if Path(config.model).exists() else config.model.rsplit("/", 1)[-1]
    return Exported(model, hf_config, tokenizer, folder, adapter, name)


def copy_settings(exported: Exported, folder: Path) -> None:
    """Copy tokenizer and generation settings, as in every Hugging Face folder."""
    exported.tokenizer.save(folder)
    if (exported.folder / GENERATION_CONFIG).is_file():
        shutil.copyfile(exported.folder / GENERATION_CONFIG, folder / GENERATION_CONFIG)


ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
NEUTRAL: dict[str, tuple[object, ...]] = {
    "bias": ("none", None),
    "modules_to_save": (None, []),
    "use_dora": (False, None),
    "use_rslora": (False, None),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
}
"""Switches of `peft` that change the arithmetic, with the values that do not."""


def adapter_folder(model: str) -> Path:
    """Find the adapter: the folder itself, or `adapter` in a run's.

    Raises:
        UserError: if it does not exist.
    """
    for folder in (Path(model), Path(model) / "adapter"):
        if (folder / ADAPTER_CONFIG).is_file():
            return folder
    raise UserError(
        "there is no adapter in {model}: no {file}",
        hint="name the folder that peft saved, or a run that was trained with --lora-r",
        model=model,
        file=ADAPTER_CONFIG,
    )


def adapter_settings(folder: Path) -> dict[str, Any]:
    """Read `adapter_config.json`.

    Raises:
        UserError: if it cannot be read, or describes something other than LoRA.
    """
    path = folder / ADAPTER_CONFIG
    try:
        settings = parse_json(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            "{path} cannot be read: {error}", hint="get the adapter again", path=path, error=describe_os_error(error)
        ) from None
    if not isinstance(settings, dict) or settings.get("peft_type") != "LORA":
        raise UserError("{path} describes no LoRA adapter", hint="merge it with the tool that made it", path=path)
    for name, neutral in NEUTRAL.items():
        if name in settings and settings[name] not in neutral:
            raise UserError(
                "{path} sets {name}={value}, which tunesmith does not implement",
                hint="merge it with peft: model.merge_and_unload()",
                path=path,
                name=name,
                value=str(settings[name])[:80],
            )
    return settings


def adapter_lora(folder: Path, settings: dict[str, Any]) -> LoRA:
    """Return the LoRA settings; the projections are read from the names of the tensors."""
    try:
        with safe_open(folder / ADAPTER_WEIGHTS, framework="pt") as file:
            names = list(file.keys())
    except (OSError, SafetensorError) as error:
        raise UserError(
            "{path} cannot be read: {error}",
            hint="get the adapter again",
            path=folder / ADAPTER_WEIGHTS,
            error=describe_os_error(error),
        ) from None
    targets = tuple(target for target in PROJECTIONS if any(f".{target}.lora_A." in name for name in names))
    rank, alpha = settings.get("r"), settings.get("lora_alpha")
    if not targets or not isinstance(rank, int) or rank < 1 or not isinstance(alpha, int | float):
        raise UserError(
            "{folder} contains no adapter for GPT-2's projections",
            hint="known are {known}",
            folder=folder,
            known=", ".join(PROJECTIONS),
        )
    return LoRA(rank, float(alpha), 0.0, targets)


def needs(library: str) -> Any:  # noqa: ANN401  a module
    """Import a library of the extra `tunesmith[export]`.

    Raises:
        UserError: if it is not installed.
    """
    try:
        return import_module(library)
    except ImportError:
        raise UserError(
            "this export needs the library {library}, which is not installed",
            hint="pip install 'tunesmith[export]'",
            library=library.partition(".")[0],
        ) from None
