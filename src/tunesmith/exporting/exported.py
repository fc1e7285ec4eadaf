"""What is exported: a model on the CPU in fp32 with its tokenizer, from a folder or from an adapter and its base."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tunesmith.config import ExportConfig
from tunesmith.data.tokenizer import TextTokenizer, load_tokenizer
from tunesmith.exporting.adapter import adapter_folder, adapter_lora, adapter_settings
from tunesmith.model.gpt2 import GPT2
from tunesmith.model.hf_checkpoint import load_gpt2, merged_state_dict
from tunesmith.model.hf_config import read_hf_config
from tunesmith.model.hub import local_folder
from tunesmith.model.lora import apply_lora, load_adapter

GENERATION_CONFIG = "generation_config.json"


@dataclass(frozen=True)
class Exported:
    """What is to be written in another form.

    Attributes:
        model: in evaluation mode; adapters stand beside their projections.
        hf_config: its `config.json`.
        tokenizer: its own.
        folder: it was read from; the base model's where there is an adapter.
        adapter: the adapter's folder.
        name: how files are to be called.
    """

    model: GPT2
    hf_config: dict[str, Any]
    tokenizer: TextTokenizer
    folder: Path
    adapter: Path | None
    name: str

    @property
    def state(self) -> dict[str, torch.Tensor]:
        """The model's own weights by name, [out, in], without padded rows, adapters merged."""
        return merged_state_dict(self.model)


def read_exported(config: ExportConfig) -> Exported:
    """Read what `config` names.

    Raises:
        UserError: if there is no model, or with `--merge` no adapter that can be merged.
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
    """Tokenizer and generation settings, as every folder of the Hugging Face family has them."""
    exported.tokenizer.save(folder)
    if (exported.folder / GENERATION_CONFIG).is_file():
        shutil.copyfile(exported.folder / GENERATION_CONFIG, folder / GENERATION_CONFIG)
