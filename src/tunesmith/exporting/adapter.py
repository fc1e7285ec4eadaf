"""An adapter's folder: from tunesmith's own runs or from the `peft` library, whose format both write."""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from tunesmith.errors import UserError
from tunesmith.messages.system_errors import said_by_system
from tunesmith.model.gpt2_config import PROJECTIONS, LoRA
from tunesmith.utils.files import parse_json

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
    """Where the adapter is: the folder itself, or `adapter` in a run's.

    Raises:
        UserError: if there is none.
    """
    for folder in (Path(model), Path(model) / "adapter"):
        if (folder / ADAPTER_CONFIG).is_file():
            return folder
    raise UserError(
        "there is no adapter in {model}: no {file}",
        hint="name the folder that peft saved, or a run that was trained with --lora-rank",
        model=model,
        file=ADAPTER_CONFIG,
    )


def adapter_settings(folder: Path) -> dict[str, Any]:
    """Its `adapter_config.json`.

    Raises:
        UserError: if it cannot be read, or describes something else than LoRA.
    """
    path = folder / ADAPTER_CONFIG
    try:
        settings = parse_json(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            "{path} cannot be read: {error}", hint="get the adapter again", path=path, error=said_by_system(error)
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
    """What the adapter consists of: the projections are read from the names of its tensors."""
    try:
        with safe_open(folder / ADAPTER_WEIGHTS, framework="pt") as file:
            names = list(file.keys())
    except (OSError, SafetensorError) as error:
        raise UserError(
            "{path} cannot be read: {error}",
            hint="get the adapter again",
            path=folder / ADAPTER_WEIGHTS,
            error=said_by_system(error),
        ) from None
    targets = tuple(target for target in PROJECTIONS if any(f".{target}.lora_A." in name for name in names))
    rank, alpha = settings.get("r"), settings.get("lora_alpha")
    if not targets or not isinstance(rank, int) or rank < 1 or not isinstance(alpha, int | float):
        raise UserError(
            "{folder} holds no adapter for GPT-2's projections",
            hint="known are {known}",
            folder=folder,
            known=", ".join(PROJECTIONS),
        )
    return LoRA(rank, float(alpha), 0.0, targets)
