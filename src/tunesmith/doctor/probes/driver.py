"""Asks NVIDIA's driver about itself and its cards; run in a process of its own, because a sick driver hangs."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from tunesmith.doctor.children import found
from tunesmith.planning.gpu_processes import query_gpu


def main() -> None:
    """Write the fields of `DriverFacts`, cards as dictionaries."""
    try:
        import pynvml
    except ImportError as error:
        found(version="", error=f"{error} (nvidia-ml-py)", cards=[])
        return
    try:
        pynvml.nvmlInit()
    except (pynvml.NVMLError, OSError) as error:
        found(version="", error=str(error), cards=[])
        return
    version = pynvml.nvmlSystemGetDriverVersion()
    found(version=version if isinstance(version, str) else version.decode(), error="", cards=[])
    found(cards=[card for index in range(pynvml.nvmlDeviceGetCount()) if (card := _card(pynvml, index))])


def _card(nvml: Any, index: int) -> dict[str, Any] | None:  # noqa: ANN401  a module without types
    state = query_gpu(index)
    if state is None:
        return None
    handle = nvml.nvmlDeviceGetHandleByIndex(index)

    def asked(question: Callable[..., Any], *arguments: object) -> Any:  # noqa: ANN401
        try:
            return question(handle, *arguments)
        except nvml.NVMLError:
            return None

    limit, default = asked(nvml.nvmlDeviceGetEnforcedPowerLimit), asked(nvml.nvmlDeviceGetPowerManagementDefaultLimit)
    return {
        "index": index,
        **asdict(state),
        "capability": asked(nvml.nvmlDeviceGetCudaComputeCapability),
        "temperature_c": asked(nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU),
        "power_limit_w": limit and limit / 1000,
        "default_power_limit_w": default and default / 1000,
        "pcie_lanes": asked(nvml.nvmlDeviceGetCurrPcieLinkWidth),
        "most_pcie_lanes": asked(nvml.nvmlDeviceGetMaxPcieLinkWidth),
    }


if __name__ == "__main__":
    main()
