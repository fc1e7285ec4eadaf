"""An adapter and the model it belongs to as one ordinary model folder, checked after it was written.

Adapters come from tunesmith's own runs or from the `peft` library, whose format both write.
"""

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from tunesmith.config import ExportConfig
from tunesmith.data.tokenizer import load_tokenizer
from tunesmith.errors import UsageError, UserError
from tunesmith.files import new_folder, parse_json, refuse_existing
from tunesmith.model.adapters import attach, load_adapter
from tunesmith.model.attention import DocumentLayout, RunAttention
from tunesmith.model.config_file import read_hf_config
from tunesmith.model.gpt2 import GPT2
from tunesmith.model.hub import local_folder
from tunesmith.model.lora import PROJECTIONS, LoRA
from tunesmith.model.weights import load_gpt2, save_gpt2

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
CHECKED_TOKENS = 64
LARGEST_DIFFERENCE = 1e-3
"""Between logits before and after merging, in nats: fp32 products in another order."""


def merge_adapter(config: ExportConfig) -> dict[str, Any]:
    """Merge, write, read again and compare.

    Raises:
        UserError: if there is no adapter, it does something else than LoRA, or its model is not to be had.
    """
    if not config.merge:
        raise UsageError("nothing to export was named", hint="write tunesmith export ADAPTER --merge --out DIR")
    out = Path(config.out)
    refuse_existing(out)
    folder = _adapter_folder(config.model)
    settings = _settings(folder)
    base = local_folder(config.base or str(settings.get("base_model_name_or_path", "")))
    hf_config = read_hf_config(base)
    tokenizer = load_tokenizer(base, hf_config)
    model = load_gpt2(base).eval()
    attach(model, _lora(folder, settings), seed=0)
    load_adapter(model, folder)
    with new_folder(out) as writing:
        save_gpt2(model, writing, hf_config=hf_config)
        tokenizer.save(writing)
        if (base / "generation_config.json").is_file():
            shutil.copyfile(base / "generation_config.json", writing / "generation_config.json")
        difference = _difference(model, load_gpt2(writing).eval())
        if not difference <= LARGEST_DIFFERENCE:
            raise UserError(
                f"the merged model's logits differ by {difference:.2g} from those of model and adapter",
                hint="nothing was kept; the adapter's numbers are extreme, or the disk is damaged",
            )
    return {"out": str(out), "base": str(base), "adapter": str(folder), "largest_logit_difference": difference}


def _adapter_folder(model: str) -> Path:
    for folder in (Path(model), Path(model) / "adapter"):
        if (folder / ADAPTER_CONFIG).is_file():
            return folder
    raise UserError(
        f"there is no adapter in {model}: no {ADAPTER_CONFIG}",
        hint="name the folder that peft saved, or a run that was trained with --lora-rank",
    )


def _settings(folder: Path) -> dict[str, Any]:
    path = folder / ADAPTER_CONFIG
    try:
        settings = parse_json(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}", hint="get the adapter again") from None
    if not isinstance(settings, dict) or settings.get("peft_type") != "LORA":
        raise UserError(f"{path} describes no LoRA adapter", hint="merge it with the tool that made it")
    for name, neutral in NEUTRAL.items():
        if name in settings and settings[name] not in neutral:
            raise UserError(
                f"{path} sets {name}={str(settings[name])[:80]}, which tunesmith does not implement",
                hint="merge it with peft: model.merge_and_unload()",
            )
    return settings


def _lora(folder: Path, settings: dict[str, Any]) -> LoRA:
    """What the adapter consists of: the projections are read from the names of its tensors."""
    try:
        with safe_open(folder / ADAPTER_WEIGHTS, framework="pt") as file:
            names = list(file.keys())
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder / ADAPTER_WEIGHTS} cannot be read: {error}", hint="get the adapter again") from None
    targets = tuple(target for target in PROJECTIONS if any(f".{target}.lora_A." in name for name in names))
    rank, alpha = settings.get("r"), settings.get("lora_alpha")
    if not targets or not isinstance(rank, int) or rank < 1 or not isinstance(alpha, int | float):
        raise UserError(
            f"{folder} holds no adapter for GPT-2's projections", hint=f"known are {', '.join(PROJECTIONS)}"
        )
    return LoRA(rank, float(alpha), 0.0, targets)


@torch.no_grad()
def _difference(first: GPT2, second: GPT2) -> float:
    """The largest between the logits of two models on a few tokens."""
    count = min(CHECKED_TOKENS, first.config.n_positions)
    tokens_N = torch.randint(first.config.vocab_size, (count,), generator=torch.Generator().manual_seed(0))
    attend = RunAttention(DocumentLayout.of((0, count)))
    logits = [model.logits(model(tokens_N, torch.arange(count), lambda _layer: attend)) for model in (first, second)]
    return float((logits[0] - logits[1]).abs().max())
