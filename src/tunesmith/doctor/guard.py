"""Nothing trains on the processor by surprise: a card that is here and cannot be used is said before a run begins."""

from tunesmith.config import TrainConfig
from tunesmith.doctor.checks.driver import check_driver
from tunesmith.doctor.checks.torch_build import check_torch
from tunesmith.doctor.cuda_releases import has_code_for
from tunesmith.doctor.facts import DeviceFacts, Facts
from tunesmith.doctor.gather import quick_facts
from tunesmith.errors import UserError
from tunesmith.model.hf_config import parse_hf_config, read_hf_config
from tunesmith.model.hub import folder_here, preset_shape
from tunesmith.utils.device import resolve_device

LARGE_PARAMETERS = 50_000_000
"""Smaller models are trained on a processor in minutes."""


def refuse_processor_by_surprise(config: TrainConfig) -> None:
    """Say what keeps a run from the card, where that is not what was meant.

    Raises:
        UserError: if `--device auto` would train a large model on the processor while an NVIDIA card is here, or if
            torch sees the card and has no code for it.
    """
    if config.device == "cpu" or config.resume:  # a run that is resumed stays where its plan says
        return
    import torch

    if torch.cuda.is_available():
        device = resolve_device(config.device).value
        _refuse_card_without_code(
            DeviceFacts(
                torch.cuda.get_device_name(device),
                torch.cuda.get_device_capability(device),
                tuple(torch.cuda.get_arch_list()),
            )
        )
        return
    if config.device == "auto" and is_large(config.model):
        refuse_unusable_card(quick_facts())


def refuse_unusable_card(facts: Facts) -> None:
    """Name what keeps torch from the card.

    Raises:
        UserError: if a card is here.
    """
    if not facts.has_card:
        return
    failed = [check for check in (*check_driver(facts), *check_torch(facts)) if check.status == "fail"]
    why = failed[0] if failed else None
    raise UserError(
        "an NVIDIA card is here, but torch {version} cannot use it: {why}",
        hint="{fix}; tunesmith doctor tells more, --device cpu trains on the processor all the same",
        version=facts.torch.version,
        why=why.found if why else "torch.cuda.is_available() is False",
        fix=why.remedy.text if why else "tunesmith doctor",
    )


def _refuse_card_without_code(device: DeviceFacts) -> None:
    if has_code_for(device.architectures, device.capability):
        return
    raise UserError(
        "torch has no code for {name} (compute capability {capability}), only for {architectures}",
        hint="tunesmith doctor names the build that has; --device cpu trains on the processor all the same",
        name=device.name,
        capability=".".join(map(str, device.capability)),
        architectures=", ".join(device.architectures),
    )


def is_large(model: str) -> bool:
    """Whether a run of it takes hours on a processor; what is not known here is taken to be."""
    shape = preset_shape(model)
    if shape is None:
        try:
            folder = folder_here(model)
            shape = parse_hf_config(read_hf_config(folder), origin=model) if folder else None
        except UserError:
            return False  # the run itself will say what is wrong with it
    return shape is None or shape.matrix_parameters >= LARGE_PARAMETERS
