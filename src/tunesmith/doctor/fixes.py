"""Fixes for what the checks find, as they are typed on each system; those that `doctor --fix --yes` runs itself."""

import re
import shlex
import subprocess
from dataclasses import dataclass
from typing import Literal

from tunesmith.doctor.facts import DriverFacts, Facts, SystemFacts
from tunesmith.errors import UserError
from tunesmith.i18n import say

Status = Literal["ok", "warn", "fail"]
WHEELS = "https://download.pytorch.org/whl"
BUILD_TOOLS = "https://visualstudio.microsoft.com/visual-cpp-build-tools"
DRIVERS = "https://www.nvidia.com/drivers"
TORCH_VERSIONS = "torch>=2.11,<2.14"
MIN_DRIVER = {11: 450, 12: 525, 13: 580}
"""Of a CUDA major release: the driver branch from which all its minor releases run."""
NEWEST_DRIVER = 580
"""The branch that all current builds run on."""
TURING, BLACKWELL = (7, 5), (10, 0)
OLD_GPUS_BUILD, NEW_GPUS_BUILD = "cu126", "cu130"
"""The first one has machine code up to Hopper and back to Maxwell, the second one from Turing to Blackwell."""
PLAIN_WORD = re.compile(r"[\w.:/\\+=-]+")
"""What PowerShell and cmd take literally; < and > would redirect."""
DRIVER_COMMANDS = {
    "ubuntu": "sudo ubuntu-drivers install",
    "debian": "sudo apt install nvidia-driver firmware-misc-nonfree",
    "fedora": "sudo dnf install akmod-nvidia xorg-x11-drv-nvidia-cuda",
    "rhel": "sudo dnf install akmod-nvidia xorg-x11-drv-nvidia-cuda",
    "arch": "sudo pacman -S nvidia-open",
    "suse": "sudo zypper install nvidia-open-driver-G06-signed-kmp-default",
    "opensuse": "sudo zypper install nvidia-open-driver-G06-signed-kmp-default",
}
"""By the first of these distributions that a system is, or is like."""
COMPILER_COMMANDS = {
    "ubuntu": "sudo apt install build-essential python3-dev",
    "debian": "sudo apt install build-essential python3-dev",
    "fedora": "sudo dnf install gcc python3-devel",
    "rhel": "sudo dnf install gcc python3-devel",
    "arch": "sudo pacman -S base-devel",
    "suse": "sudo zypper install gcc python3-devel",
    "opensuse": "sudo zypper install gcc python3-devel",
}


@dataclass(frozen=True)
class Fix:
    """What to do, in the person's language, and the command that `--fix --yes` runs; empty where a person has to."""

    text: str = ""
    command: tuple[str, ...] = ()


NO_FIX = Fix()


@dataclass(frozen=True)
class Check:
    """One line of `doctor`: warn where things work, but not well or not for long; fail where they do not."""

    name: str
    status: Status
    finding: str
    fix: Fix = NO_FIX


def run_fixes(commands: tuple[tuple[str, ...], ...]) -> None:
    """Run the commands one after the other, with their output visible.

    Raises:
        UserError: for the first one that fails; those after it are not run.
    """
    for command in commands:
        try:
            code = subprocess.run(command, check=False).returncode  # noqa: S603  made in this module, shown before
        except OSError as error:
            raise UserError(
                "{program} cannot be run: {error}",
                hint="run it by hand: {command}",
                program=command[0],
                error=error.strerror or error,
                command=shlex.join(command),
            ) from None
        if code:
            raise UserError(
                "this command failed: {command}",
                hint="its own output is above; tunesmith explain can read it",
                command=shlex.join(command),
            )


def install_packages(facts: Facts, *requirements: str) -> Fix:
    """Install into the Python that runs; `doctor` may do it itself where packages stay inside an environment."""
    system = facts.system
    python = system.executable
    pip = ("uv", "pip", "install", "--python", python) if system.installer == "uv" else (python, "-m", "pip", "install")
    command = (*pip, *requirements)
    return Fix(_typed(system, command), command if system.is_isolated else ())


def _typed(system: SystemFacts, command: tuple[str, ...]) -> str:
    """A command as one would type it there, in the environment that runs."""
    plain = ("python" if command[0] == system.executable else command[0], *command[1:])
    if system.kind != "windows":
        return shlex.join(plain)
    return " ".join(word if PLAIN_WORD.fullmatch(word) else f'"{word}"' for word in plain)


def install_torch(facts: Facts) -> Fix:
    """Install the build for this GPU and driver."""
    required = next((f"torch{package.required}" for package in facts.packages if package.name == "torch"), None)
    build = build_for(facts.driver) if facts.has_gpu else "cpu"
    if not build:
        return update_driver(facts)
    index = ("--index-url", f"{WHEELS}/{build}")
    return install_packages(facts, "--force-reinstall", required or TORCH_VERSIONS, *index)


def update_driver(facts: Facts) -> Fix:
    """A person installs a driver: it needs the administrator, and a restart."""
    system = facts.system
    if system.kind == "wsl":
        return Fix(
            say(
                "install the newest NVIDIA driver in Windows ({url}), never inside WSL; then in PowerShell: "
                "wsl --update; wsl --shutdown",
                url=DRIVERS,
            )
        )
    if system.kind == "windows":
        return Fix(say("install the newest NVIDIA driver ({url}), then restart Windows", url=DRIVERS))
    command = _for_distribution(DRIVER_COMMANDS, system)
    return Fix(
        say("{command}, then restart", command=command or say("install the newest NVIDIA driver ({url})", url=DRIVERS))
    )


def install_compiler(facts: Facts) -> Fix:
    """A C compiler and Python's headers, with which Triton builds its part in C."""
    if facts.system.kind == "windows":
        return Fix(say("install the C++ build tools of Visual Studio ({url})", url=BUILD_TOOLS))
    command = _for_distribution(COMPILER_COMMANDS, facts.system)
    return Fix(command or say("install a C compiler and Python's headers (build-essential and python3-dev)"))


def _for_distribution(commands: dict[str, str], system: SystemFacts) -> str:
    names = system.distribution.split()
    return next((command for name, command in commands.items() if name in names), "")


def end_process(facts: Facts, pid: int) -> Fix:
    """A process is ended by the person that started it."""
    kind = facts.system.kind
    command = f"taskkill /PID {pid} /F" if kind == "windows" else f"kill {pid}"
    if kind == "wsl":
        return Fix(
            say("close it, or end it: {command}; programs of Windows: in its Task Manager, Details", command=command)
        )
    return Fix(say("close it, or end it: {command}", command=command))


def set_variable(system: SystemFacts, name: str, value: str) -> str:
    """As it is typed in the system's usual shell."""
    if system.kind == "windows":
        return f'$env:{name} = "{value}"'
    return f"export {name}={shlex.quote(value)}"


def unset_variable(system: SystemFacts, name: str) -> str:
    """As it is typed in the system's usual shell."""
    return f"Remove-Item Env:{name}" if system.kind == "windows" else f"unset {name}"


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
