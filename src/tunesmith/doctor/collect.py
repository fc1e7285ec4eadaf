"""Collect all facts about this machine.

What files and environment tell is read at once; everything that could fail runs in probes with time limits.
"""

import ast
import os
import platform
import shutil
import struct
import sys
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, distribution, requires, version
from pathlib import Path

import psutil

from tunesmith.data.cache import cache_folder
from tunesmith.doctor.facts import (
    DiskFacts,
    DriverFacts,
    Facts,
    HubFacts,
    Installer,
    ModelFacts,
    PackageFacts,
    Purpose,
    SystemFacts,
    SystemKind,
    TorchFacts,
    from_json,
)
from tunesmith.doctor.probe_process import ProbeProcess, ProbeResult
from tunesmith.i18n import say
from tunesmith.model.hub import PRESETS, TINY
from tunesmith.planning.hardware import is_wsl

PROBES = "tunesmith.doctor.probes"
DRIVER_LIMIT_S = 5.0
TORCH_LIMIT_S = 60.0
"""A cold disk and a first start of CUDA take long."""
TOKENIZER_LIMIT_S = 30.0
HUB_LIMIT_S = 10.0
MODEL_LIMIT_S = 60.0
NVIDIA = "0x10de"
DISPLAY_CLASS = "0x03"
"""PCI: display controllers, 3D controllers among them."""
DISPLAY_ADAPTERS = r"SYSTEM\CurrentControlSet\Control\Class\{4d36e968-e325-11ce-bfc1-08002be10318}"
LIBRARY_PATHS = {"win32": "PATH", "darwin": "DYLD_LIBRARY_PATH"}
CUDA_LIBRARIES = ("libcudart.so*", "libcublas.so*", "libcudnn.so*", "cudart64_*.dll", "cudnn64_*.dll")


def collect(*, model: str | None = None, quick: bool = False) -> Facts:
    """Examine the machine.

    Args:
        model: whose needs are to be compared with it.
        quick: leave out what takes seconds: torch, the tokenizer and the hub are not tried.
    """
    driver = ProbeProcess(PROBES, ("driver",), DRIVER_LIMIT_S)
    slow: dict[str, ProbeProcess] = {}
    if not quick:
        hub_model = PRESETS["gpt2"] if model is None or "/" not in model else model
        slow = {
            "torch": ProbeProcess(PROBES, ("torch",), TORCH_LIMIT_S),
            "tokenizer": ProbeProcess(PROBES, ("tokenizer",), TOKENIZER_LIMIT_S),
            "hub": ProbeProcess(PROBES, ("hub", hub_model), HUB_LIMIT_S),
        }
    needs_plan = model is not None and model != TINY
    plan = ProbeProcess(PROBES, ("model", str(model)), MODEL_LIMIT_S) if needs_plan else None
    memory = psutil.virtual_memory()
    torch = torch_files()
    facts = Facts(
        system=system_facts(),
        gpus_on_bus=gpus_on_bus(),
        visible_devices=os.environ.get("CUDA_VISIBLE_DEVICES"),
        driver=driver_facts(driver.result()),
        torch=torch,
        toolkit=shutil.which("nvcc") or os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "",
        cuda_on_library_path=cuda_on_library_path(),
        memory_bytes=memory.total,
        free_memory_bytes=memory.available,
        disks=disks(),
        compiler=compiler(),
        triton=installed_version("triton") or installed_version("triton-windows"),
        packages=packages(),
    )
    if slow:
        tokenizer = slow["tokenizer"].result()
        facts = replace(
            facts,
            torch=tried_torch(torch, slow["torch"].result()),
            tokenizer_error=tokenizer.values.get("tokenizer_error", tokenizer.failure),
            hub=hub_facts(slow["hub"].result()),
        )
    return replace(facts, model=model_facts(str(model), plan.result())) if plan else facts


def driver_facts(result: ProbeResult) -> DriverFacts:
    """From the driver's probe."""
    facts = from_json(DriverFacts, {"version": "", "error": say("no answer")} | result.values)
    if "version" not in result.values or (result.failure and not facts.gpus):
        return replace(facts, error=result.failure or say("no answer"), gpus=())
    return facts


def tried_torch(files: TorchFacts, result: ProbeResult) -> TorchFacts:
    """From torch's probe, with what files tell where it did not come so far."""
    if not files.version:
        return replace(files, was_tried=True)
    facts = from_json(TorchFacts, {**asdict(files), "stage": "import", **result.values})
    return replace(facts, was_tried=True, stage=facts.stage if result.failure else "", error=result.failure)


def hub_facts(result: ProbeResult) -> HubFacts:
    """From the hub's probe."""
    facts = from_json(HubFacts, result.values)
    return replace(facts, was_tried=True, error=facts.error or result.failure)


def model_facts(name: str, result: ProbeResult) -> ModelFacts:
    """From the plan's probe."""
    facts = from_json(ModelFacts, {"name": name, **result.values})
    return replace(facts, error=facts.error or result.failure)


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
        release = platform.freedesktop_os_release()
    except OSError:
        return ""
    return f"{release.get('ID', '')} {release.get('ID_LIKE', '')}".strip()


def _installer() -> Installer:
    """An environment that uv made has no pip."""
    return "pip" if installed_version("pip") else "uv"


def installed_version(package: str) -> str:
    """Empty where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def gpus_on_bus() -> int | None:
    """How many NVIDIA GPUs the system sees, with or without a driver; None where it does not tell."""
    if system_kind() == "windows":
        return _gpus_in_registry()
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


def _gpus_in_registry() -> int | None:
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
    """The version and build of the installed torch, without importing it."""
    try:
        installed = distribution("torch")
    except PackageNotFoundError:
        return TorchFacts(version="", cuda="")
    path = Path(str(installed.locate_file("torch/version.py")))
    values: dict[str, object] = {}
    try:
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Constant):
                target = node.targets[0] if isinstance(node, ast.Assign) else node.target
                values[ast.unparse(target)] = node.value.value
    except (OSError, SyntaxError, ValueError):
        error = say("{path} cannot be read", path=path)
        return TorchFacts(version=installed.version, cuda="", stage="import", error=error)
    return TorchFacts(
        version=str(values.get("__version__") or installed.version),
        cuda=str(values.get("cuda") or ""),
        is_rocm=values.get("hip") is not None,
    )


def disks() -> tuple[DiskFacts, ...]:
    """Where runs, prepared text and downloaded models will be written."""
    hub = Path(os.environ.get("HF_HUB_CACHE") or Path(os.environ.get("HF_HOME") or "~/.cache/huggingface") / "hub")
    return (_disk("runs", Path.cwd()), _disk("text", cache_folder()), _disk("hub", hub.expanduser()))


def _disk(purpose: Purpose, folder: Path) -> DiskFacts:
    absolute = folder.absolute()
    existing = next(parent for parent in (absolute, *absolute.parents) if parent.is_dir())
    parts = absolute.parts
    is_of_windows = system_kind() == "wsl" and len(parts) > 2 and parts[1] == "mnt" and len(parts[2]) == 1
    free_bytes = shutil.disk_usage(existing).free
    return DiskFacts(purpose, str(absolute), free_bytes, os.access(existing, os.W_OK), is_of_windows)


def cuda_on_library_path() -> tuple[str, ...]:
    """Folders of the library path with another CUDA than the one torch brings; the system takes those first."""
    if sys.platform == "win32":
        return ()  # there torch's own folder comes first
    entries = os.environ.get(LIBRARY_PATHS.get(sys.platform, "LD_LIBRARY_PATH"), "").split(os.pathsep)
    return tuple(
        entry for entry in entries if entry and any(any(Path(entry).glob(pattern)) for pattern in CUDA_LIBRARIES)
    )


def compiler() -> str:
    """Path of a C++ compiler; empty where there is none."""
    names = ("cl",) if sys.platform == "win32" else ("g++", "clang++", "c++")
    return next((path for name in names if (path := shutil.which(name))), "")


def packages() -> tuple[PackageFacts, ...]:
    """What tunesmith requires, without extras; nothing where it is not installed but runs from a source tree."""
    from packaging.requirements import Requirement

    try:
        requirements = [Requirement(text) for text in requires("tunesmith") or []]
    except PackageNotFoundError:
        return ()
    facts = []
    for requirement in requirements:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        installed = installed_version(requirement.name)
        fits = bool(installed) and requirement.specifier.contains(installed, prereleases=True)
        facts.append(PackageFacts(requirement.name, str(requirement.specifier), installed, fits))
    return tuple(facts)
