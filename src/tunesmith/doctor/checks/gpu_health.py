"""The GPU and NVIDIA's driver: whether they are there, and what makes a GPU slow: heat, power limits, a narrow link."""

from collections.abc import Iterator

from tunesmith.doctor.facts import Facts, GPUFacts
from tunesmith.doctor.fixes import MIN_DRIVER, Check, Fix, major, update_driver
from tunesmith.i18n import say
from tunesmith.planning.hardware import GIB

MISMATCH = "version mismatch"
HOT_C = 84
"""Where consumer GPUs begin to lower their clock."""
LOW_POWER_RATIO = 0.75
MIN_PCIE_LANES = 8
"""With fewer, batches and offloading wait for the link."""


def check_driver(facts: Facts) -> Iterator[Check]:
    """Whether there is a GPU, and whether its driver answers."""
    driver = facts.driver
    if not facts.has_gpu and not driver.version:
        yield _no_gpu(facts)
        return
    if driver.gpus:
        yield Check("GPU", "ok", "; ".join(f"{gpu.name}, {gpu.total_bytes / GIB:.1f} GiB" for gpu in driver.gpus))
    elif driver.version:
        yield Check("GPU", "warn", say("the driver is installed, but sees no GPU"), _look_again(facts))
    else:
        yield Check("GPU", "ok", say("this machine has an NVIDIA GPU"))
    yield _driver(facts)


def _driver(facts: Facts) -> Check:
    driver = facts.driver
    if driver.version and major(driver.version) < MIN_DRIVER[12]:
        finding = say(
            "{version} is too old: every current build of torch needs {least} or newer",
            version=driver.version,
            least=MIN_DRIVER[12],
        )
        return Check("driver", "fail", finding, update_driver(facts))
    if driver.version:
        return Check("driver", "ok", driver.version)
    if MISMATCH in driver.error.lower():
        finding = say("it was updated while its old version still runs ({error})", error=driver.error)
        return Check("driver", "fail", finding, Fix(say("restart the machine")))
    return Check("driver", "fail", say("it does not answer: {error}", error=driver.error), update_driver(facts))


def _no_gpu(facts: Facts) -> Check:
    if facts.system.kind == "wsl":
        return Check("GPU", "warn", say("WSL shows no NVIDIA GPU: the CPU computes everything"), update_driver(facts))
    if facts.gpus_on_bus is None and facts.system.kind != "macos":
        return Check("GPU", "warn", say("no driver; whether there is a GPU is unknown"))
    return Check("GPU", "ok", say("no NVIDIA GPU: the CPU computes everything"))


def _look_again(facts: Facts) -> Fix:
    if facts.system.kind == "wsl":
        return Fix("wsl --shutdown")
    return Fix(say("check {command}; in a container, start it with --gpus all", command="nvidia-smi"))


def check_gpu_health(facts: Facts) -> Iterator[Check]:
    """The first GPU, the one that is used."""
    for gpu in facts.driver.gpus[:1]:
        if gpu.temperature_c is not None or gpu.power_limit_w is not None:
            yield _power(facts, gpu)
        if gpu.pcie_lanes is not None and gpu.max_pcie_lanes is not None:
            yield _link(gpu.pcie_lanes, gpu.max_pcie_lanes)


def _power(facts: Facts, gpu: GPUFacts) -> Check:
    parts = []
    if gpu.temperature_c is not None:
        parts.append(f"{gpu.temperature_c} °C")
    limit, default = gpu.power_limit_w, gpu.default_power_limit_w
    if limit is not None and default is not None:
        parts.append(say("{limit:.0f} W allowed, {default:.0f} W by default", limit=limit, default=default))
    values = ", ".join(parts)
    if gpu.temperature_c is not None and gpu.temperature_c >= HOT_C:
        fix = say("clean its fans, open the case, or lower the limit: {command}", command=_set_limit(facts, gpu, 0.8))
        return Check("power", "warn", say("{found}: it is hot and slows down", found=values), Fix(fix))
    if limit is not None and default is not None and limit < LOW_POWER_RATIO * default:
        finding = say("{found}: the limit makes it slow", found=values)
        return Check("power", "warn", finding, Fix(_set_limit(facts, gpu, 1.0)))
    return Check("power", "ok", values)


def _set_limit(facts: Facts, gpu: GPUFacts, ratio: float) -> str:
    watts = f"{(gpu.default_power_limit_w or 0) * ratio:.0f}"
    command = f"nvidia-smi -i {gpu.index} -pl {watts}"
    if facts.system.kind == "linux":
        return f"sudo {command}"
    return say("{command} in a PowerShell that was started as administrator", command=command)


def _link(lanes: int, max_lanes: int) -> Check:
    finding = say("{lanes} of {most} PCIe lanes", lanes=lanes, most=max_lanes)
    if lanes < min(MIN_PCIE_LANES, max_lanes):
        finding = say("{found}: batches and --memory-mode cpu-offload wait for them", found=finding)
        return Check("pcie", "warn", finding, Fix(say("put the GPU into the slot nearest to the CPU")))
    return Check("pcie", "ok", finding)
