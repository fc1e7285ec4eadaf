"""What the system tells at once: files and environment, no library that could fail."""

import ast
import os
import platform
import shutil
import struct
import sys
from importlib.metadata import PackageNotFoundError, distribution, requires, version
from pathlib import Path

import psutil

from tunesmith.data.cache import cache_folder
from tunesmith.doctor.facts import DiskFacts, Installer, PackageFacts, Purpose, SystemFacts, SystemKind, TorchFacts
from tunesmith.messages.catalogue import say
from tunesmith.planning.hardware import is_wsl

NVIDIA = "0x10de"
DISPLAY_CLASS = "0x03"
"""PCI: display controllers, 3D controllers among them."""
DISPLAY_ADAPTERS = r"SYSTEM\CurrentControlSet\Control\Class\{4d36e968-e325-11ce-bfc1-08002be10318}"
LIBRARY_PATHS = {"win32": "PATH", "darwin": "DYLD_LIBRARY_PATH"}
CUDA_LIBRARIES = ("libcudart.so*", "libcublas.so*", "libcudnn.so*", "cudart64_*.dll", "cudnn64_*.dll")


def system_facts() -> SystemFacts:
    """The operating system and the Python that runs."""
    return SystemFacts(
        kind=system_kind(),
        name=platform.platform(),
        distribution=_distribution(),
        python=platform.python_version(),
        python_bits=struct.calcsize("P") * 8,
        executable=sys.executable,
        is_isolated=sys.prefix != sys.base_prefix or "CONDA_PREFIX" in os.environ,
        installer=_installer(),
    )


def system_kind() -> SystemKind:
    """Which family of commands is typed here."""
    system = platform.system()
    if system in {"Windows", "Darwin"}:
        return "windows" if system == "Windows" else "macos"
    return "wsl" if is_wsl() else "linux"


def _distribution() -> str:
    try:
        known = platform.freedesktop_os_release()
    except OSError:
        return ""
    return f"{known.get('ID', '')} {known.get('ID_LIKE', '')}".strip()


def _installer() -> Installer:
    """An environment that uv made has no pip."""
    try:
        version("pip")
    except PackageNotFoundError:
        return "uv"
    return "pip"


def cards_on_bus() -> int | None:
    """How many NVIDIA cards the system sees, driver or not; None where it does not tell."""
    if system_kind() == "windows":
        return _cards_in_registry()
    if system_kind() == "wsl":
        return int(Path("/dev/dxg").exists() and Path("/usr/lib/wsl/lib/libcuda.so.1").exists())
    devices = Path("/sys/bus/pci/devices")
    if not devices.is_dir():
        return None
    return sum(
        _content(device / "vendor") == NVIDIA and _content(device / "class").startswith(DISPLAY_CLASS)
        for device in devices.iterdir()
    )


def _content(path: Path) -> str:
    try:
        return path.read_text("ascii").strip()
    except OSError:
        return ""


def _cards_in_registry() -> int | None:
    if sys.platform == "win32":
        import winreg

        try:
            with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, DISPLAY_ADAPTERS) as adapters:
                names = [winreg.EnumKey(adapters, index) for index in range(winreg.QueryInfoKey(adapters)[0])]
                return sum(_is_of_nvidia(adapters, name) for name in names)
        except OSError:
            return None
    return None


def _is_of_nvidia(adapters: object, name: str) -> bool:
    if sys.platform == "win32":
        import winreg

        try:
            with winreg.OpenKey(adapters, name) as adapter:
                return "VEN_10DE" in str(winreg.QueryValueEx(adapter, "MatchingDeviceId")[0]).upper()
        except OSError:
            return False
    return False


def torch_files() -> TorchFacts:
    """What is written down about the installed torch, without importing it."""
    try:
        installed = distribution("torch")
    except PackageNotFoundError:
        return TorchFacts(version="", cuda="")
    path = Path(str(installed.locate_file("torch/version.py")))
    known: dict[str, object] = {}
    try:
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Constant):
                target = node.targets[0] if isinstance(node, ast.Assign) else node.target
                known[ast.unparse(target)] = node.value.value
    except (OSError, SyntaxError, ValueError):
        return TorchFacts(
            version=installed.version, cuda="", stage="import", error=say("{path} cannot be read", path=path)
        )
    return TorchFacts(
        version=str(known.get("__version__") or installed.version),
        cuda=str(known.get("cuda") or ""),
        is_rocm=known.get("hip") is not None,
    )


def disks() -> tuple[DiskFacts, ...]:
    """Where runs, prepared text and downloaded models will be written."""
    hub = Path(os.environ.get("HF_HUB_CACHE") or Path(os.environ.get("HF_HOME") or "~/.cache/huggingface") / "hub")
    return (_disk("runs", Path.cwd()), _disk("text", cache_folder()), _disk("hub", hub.expanduser()))


def _disk(purpose: Purpose, folder: Path) -> DiskFacts:
    absolute = folder.absolute()
    place = next(parent for parent in (absolute, *absolute.parents) if parent.is_dir())
    parts = absolute.parts
    of_windows = system_kind() == "wsl" and len(parts) > 2 and parts[1] == "mnt" and len(parts[2]) == 1
    return DiskFacts(
        purpose,
        str(absolute),
        shutil.disk_usage(place).free,
        os.access(place, os.W_OK),
        of_windows,
    )


def toolkit() -> str:
    """Where a CUDA toolkit is; empty where there is none."""
    return shutil.which("nvcc") or os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or ""


def cuda_on_library_path() -> tuple[str, ...]:
    """Folders of the library path with another CUDA than the one torch brings; the system takes those first."""
    if sys.platform == "win32":
        return ()  # there torch's own folder comes first
    entries = os.environ.get(LIBRARY_PATHS.get(sys.platform, "LD_LIBRARY_PATH"), "").split(os.pathsep)
    return tuple(
        entry for entry in entries if entry and any(any(Path(entry).glob(pattern)) for pattern in CUDA_LIBRARIES)
    )


def compiler() -> str:
    """A C++ compiler; empty where there is none."""
    names = ("cl",) if sys.platform == "win32" else ("g++", "clang++", "c++")
    return next((path for name in names if (path := shutil.which(name))), "")


def installed_version(package: str) -> str:
    """Empty where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def memory() -> tuple[int, int]:
    """Bytes of the host, and how many of them are free; those of the container where there is a smaller limit."""
    now = psutil.virtual_memory()
    return now.total, now.available


def packages() -> tuple[PackageFacts, ...]:
    """What tunesmith asks for, extras left out; nothing where it is not installed but runs from a source tree."""
    from packaging.requirements import Requirement

    try:
        wanted_texts = requires("tunesmith") or []
    except PackageNotFoundError:
        return ()
    facts = []
    for text in wanted_texts:
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        here = installed_version(wanted.name)
        fits = bool(here) and wanted.specifier.contains(here, prereleases=True)
        facts.append(PackageFacts(wanted.name, str(wanted.specifier), here, fits))
    return tuple(facts)
