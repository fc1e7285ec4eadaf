"""Check before a run that it does not train on the CPU by accident: a GPU that cannot be used is an error."""

from tunesmith.config import TrainConfig
from tunesmith.doctor.checks.gpu_health import check_driver
from tunesmith.doctor.checks.torch_build import check_torch
from tunesmith.doctor.collect import collect
from tunesmith.doctor.facts import Facts
from tunesmith.doctor.fixes import has_code_for
from tunesmith.errors import UserError
from tunesmith.model.hf_config import parse_hf_config, read_hf_config
from tunesmith.model.hub import folder_here, preset_shape
from tunesmith.utils.device import resolve_device

LARGE_PARAMETERS = 50_000_000
"""Smaller models are trained on a CPU in minutes."""


def check_device(config: TrainConfig) -> None:
    """Check that the run uses the GPU where one is meant.

    Raises:
        UserError: if `--device auto` would train a large model on the CPU of a machine with an NVIDIA GPU, or if torch
            sees the GPU and has no code for it.
    """
    if config.device == "cpu" or config.resume:  # a resumed run stays on the device of its plan
        return
    import torch

    if torch.cuda.is_available():
        _check_architecture(config.device)
    elif config.device == "auto" and is_large(config.model):
        check_gpu_is_usable(collect(quick=True))


def _check_architecture(device_option: str) -> None:
    import torch

    device = resolve_device(device_option).value
    capability, architectures = torch.cuda.get_device_capability(device), tuple(torch.cuda.get_arch_list())
    if not has_code_for(architectures, capability):
        raise UserError(
            "torch has no code for {name} (compute capability {capability}), only for {architectures}",
            hint="tunesmith doctor shows the right build; --device cpu trains on the CPU",
            name=torch.cuda.get_device_name(device),
            capability=".".join(map(str, capability)),
            architectures=", ".join(architectures),
        )


def check_gpu_is_usable(facts: Facts) -> None:
    """Report why torch cannot use the GPU.

    Raises:
        UserError: if the machine has one.
    """
    if not facts.has_gpu:
        return
    failed = next((check for check in (*check_driver(facts), *check_torch(facts)) if check.status == "fail"), None)
    raise UserError(
        "this machine has an NVIDIA GPU, but torch {version} cannot use it: {why}",
        hint="{fix}; details: tunesmith doctor; --device cpu trains on the CPU",
        version=facts.torch.version,
        why=failed.finding if failed else "torch.cuda.is_available() is False",
        fix=failed.fix.text if failed else "tunesmith doctor",
    )


def is_large(model: str) -> bool:
    """Whether a run of it takes hours on a CPU; a model that is not on this machine counts as large."""
    shape = preset_shape(model)
    if shape is None:
        try:
            folder = folder_here(model)
            shape = parse_hf_config(read_hf_config(folder), origin=model) if folder else None
        except UserError:
            return False  # the run itself reports what is wrong with it
    return shape is None or shape.matrix_parameters >= LARGE_PARAMETERS
