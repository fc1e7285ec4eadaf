"""What mends what, as it is typed on each system."""

import re
import shlex

from tunesmith.doctor.check import Remedy
from tunesmith.doctor.cuda_releases import build_for
from tunesmith.doctor.facts import Facts, SystemFacts
from tunesmith.messages.catalogue import say

WHEELS = "https://download.pytorch.org/whl"
BUILD_TOOLS = "https://visualstudio.microsoft.com/visual-cpp-build-tools"
DRIVERS = "https://www.nvidia.com/drivers"
TORCH_VERSIONS = "torch>=2.11,<2.14"
PLAIN_WORD = re.compile(r"[\w.:/\\+=-]+")
"""What PowerShell and cmd take as it is; < and > would redirect."""


def install(system: SystemFacts, *what: str) -> tuple[str, ...]:
    """The command that installs packages into the Python that runs."""
    if system.installer == "uv":
        return ("uv", "pip", "install", "--python", system.executable, *what)
    return (system.executable, "-m", "pip", "install", *what)


def typed(system: SystemFacts, command: tuple[str, ...]) -> str:
    """A command as one would type it there, in the environment that runs."""
    plain = ("python" if command[0] == system.executable else command[0], *command[1:])
    if system.kind != "windows":
        return shlex.join(plain)
    return " ".join(word if PLAIN_WORD.fullmatch(word) else f'"{word}"' for word in plain)


def install_packages(facts: Facts, *what: str) -> Remedy:
    """Install from the usual index; `doctor` may do it itself where it stays inside an environment."""
    command = install(facts.system, *what)
    return Remedy(typed(facts.system, command), command if facts.system.is_isolated else ())


def install_torch(facts: Facts) -> Remedy:
    """The build for the card and driver that are here."""
    wanted = next((f"torch{package.wanted}" for package in facts.packages if package.name == "torch"), TORCH_VERSIONS)
    build = build_for(facts.driver) if facts.has_card else "cpu"
    if not build:
        return update_driver(facts)
    command = install(facts.system, "--force-reinstall", wanted, "--index-url", f"{WHEELS}/{build}")
    return Remedy(typed(facts.system, command), command if facts.system.is_isolated else ())


def update_driver(facts: Facts) -> Remedy:
    """A driver is for a person to install: it needs the administrator, and a restart."""
    system = facts.system
    if system.kind == "wsl":
        return Remedy(
            say(
                "install the newest NVIDIA driver in Windows ({url}), never inside WSL; then in PowerShell: "
                "wsl --update; wsl --shutdown",
                url=DRIVERS,
            )
        )
    if system.kind == "windows":
        return Remedy(say("install the newest NVIDIA driver ({url}), then restart Windows", url=DRIVERS))
    return Remedy(say("{command}, then restart", command=_driver_command(system.distribution)))


def install_compiler(facts: Facts) -> Remedy:
    """A C compiler and Python's headers, with which Triton builds its part in C."""
    system = facts.system
    if system.kind == "windows":
        return Remedy(say("install the C++ build tools of Visual Studio ({url})", url=BUILD_TOOLS))
    known = system.distribution.split()
    if {"ubuntu", "debian"} & set(known):
        return Remedy("sudo apt install build-essential python3-dev")
    if {"fedora", "rhel"} & set(known):
        return Remedy("sudo dnf install gcc python3-devel")
    if "arch" in known:
        return Remedy("sudo pacman -S base-devel")
    if {"suse", "opensuse"} & set(known):
        return Remedy("sudo zypper install gcc python3-devel")
    return Remedy(say("install a C compiler and Python's headers (build-essential and python3-dev)"))


def _driver_command(distribution: str) -> str:
    known = distribution.split()
    if "ubuntu" in known:
        return "sudo ubuntu-drivers install"
    if "debian" in known:
        return "sudo apt install nvidia-driver firmware-misc-nonfree"
    if "fedora" in known or "rhel" in known:
        return "sudo dnf install akmod-nvidia xorg-x11-drv-nvidia-cuda"
    if "arch" in known:
        return "sudo pacman -S nvidia-open"
    if "suse" in known or "opensuse" in known:
        return "sudo zypper install nvidia-open-driver-G06-signed-kmp-default"
    return say("install the newest NVIDIA driver ({url})", url=DRIVERS)


def end_process(facts: Facts, pid: int) -> Remedy:
    """A process is ended by the person whose it is."""
    if facts.system.kind == "windows":
        return Remedy(say("close it, or end it: {command}", command=f"taskkill /PID {pid} /F"))
    if facts.system.kind == "wsl":
        return Remedy(
            say(
                "close it, or end it: {command}; programs of Windows: in its Task Manager, Details",
                command=f"kill {pid}",
            )
        )
    return Remedy(say("close it, or end it: {command}", command=f"kill {pid}"))


def set_variable(system: SystemFacts, name: str, value: str) -> str:
    """As it is typed in the system's usual shell."""
    if system.kind == "windows":
        return f'$env:{name} = "{value}"'
    return f"export {name}={shlex.quote(value)}"


def unset_variable(system: SystemFacts, name: str) -> str:
    """As it is typed in the system's usual shell."""
    return f"Remove-Item Env:{name}" if system.kind == "windows" else f"unset {name}"
