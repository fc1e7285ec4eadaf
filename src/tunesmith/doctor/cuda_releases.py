"""Which driver a build of torch needs, and which build fits a GPU and its driver.

Sources: NVIDIA, "CUDA Compatibility", minimum driver versions for minor version compatibility; PyTorch's release notes
    and wheel index for the builds of 2.11 to 2.13 and the architectures in them.
"""

from tunesmith.doctor.facts import DriverFacts

MIN_DRIVER = {11: 450, 12: 525, 13: 580}
"""Of a CUDA major release: the driver branch from which all its minor releases run."""
NEWEST_DRIVER = 580
"""The branch that all current builds run on."""
TURING, BLACKWELL = (7, 5), (10, 0)
OLD_GPUS_BUILD, NEW_GPUS_BUILD = "cu126", "cu130"
"""The first one has machine code up to Hopper and back to Maxwell, the second one from Turing to Blackwell."""


def major(version: str) -> int:
    """The first number of a version; 0 where there is none."""
    first = version.partition(".")[0]
    return int(first) if first.isdigit() else 0


def min_driver(cuda: str) -> int:
    """The driver branch that a CUDA version needs, for example 525 for "12.6"; 0 where it is unknown."""
    return MIN_DRIVER.get(major(cuda), 0)


def build_for(driver: DriverFacts) -> str:
    """The build of torch for this driver and its first GPU, for example "cu130"; empty where no build runs on it."""
    branch = major(driver.version) or NEWEST_DRIVER
    capability = driver.gpus[0].capability if driver.gpus else None
    if capability is not None and capability < TURING:
        return OLD_GPUS_BUILD if branch >= MIN_DRIVER[12] else ""
    if branch >= MIN_DRIVER[13]:
        return NEW_GPUS_BUILD
    is_new = capability is not None and capability >= BLACKWELL
    return OLD_GPUS_BUILD if branch >= MIN_DRIVER[12] and not is_new else ""


def has_code_for(architectures: tuple[str, ...], capability: tuple[int, int]) -> bool:
    """Whether a build has machine code for a GPU, or code that its driver can translate.

    Args:
        architectures: for example ("sm_80", "sm_90", "compute_90").
        capability: of the GPU. Machine code runs on GPUs of the same major number and the same or a later minor one.
    """
    for name in architectures:
        kind, _, digits = name.rstrip("af").partition("_")
        if not digits.isdigit():
            continue
        code = divmod(int(digits), 10)
        if kind == "sm" and code[0] == capability[0] and code[1] <= capability[1]:
            return True
        if kind == "compute" and code <= capability:
            return True
    return False
