"""Checks of simulated machines: the right one, and the right command for Linux, Windows and WSL."""

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from tunesmith.config import TrainConfig
from tunesmith.doctor import preflight
from tunesmith.doctor.doctor import run_checks
from tunesmith.doctor.facts import (
    DeviceFacts,
    DriverFacts,
    Facts,
    ModelFacts,
    ProductFacts,
    StepFacts,
    TorchFacts,
    TritonFacts,
)
from tunesmith.doctor.fixes import Check, build_for, has_code_for
from tunesmith.doctor.preflight import check_device, check_gpu_is_usable
from tunesmith.errors import UserError
from tunesmith.planning.gpu_processes import GPUProcess


def _machines() -> ModuleType:
    spec = importlib.util.spec_from_file_location("machines", Path(__file__).with_name("machines.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["machines"] = module
    spec.loader.exec_module(module)
    return module


m = _machines()
GIB = 1 << 30
KINDS = ("linux", "windows", "wsl")


def line(facts: Facts, name: str) -> Check:
    """The check of that name."""
    return next(check for check in run_checks(facts).checks if check.name == name)


def test_a_good_machine_is_all_ok() -> None:
    """Nothing is found where nothing is wrong, and every line says what was found."""
    checks = run_checks(m.GOOD).checks
    assert {check.status for check in checks} == {"ok"}
    assert all(check.finding for check in checks)
    assert not run_checks(m.GOOD).has_failed


@pytest.mark.parametrize("kind", KINDS)
def test_torch_is_absent(kind: str) -> None:
    """The command installs the build for the driver that is here."""
    sick = m.on(kind, replace(m.GOOD, torch=TorchFacts("", "", was_tried=True)))
    check = line(sick, "torch")
    assert check.status == "fail"
    assert "--index-url https://download.pytorch.org/whl/cu130" in check.fix.text
    quoted = '"torch<2.14,>=2.11"' if kind == "windows" else "'torch<2.14,>=2.11'"
    assert quoted in check.fix.text
    assert check.fix.text.startswith("python -m pip install")
    assert check.fix.command[0] == sick.system.executable


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        ("OSError: libcudart.so.13: cannot open shared object file: No such file or directory", "LD_LIBRARY_PATH"),
        ('OSError: [WinError 126] Error loading "C:\\torch\\lib\\c10.dll"', "Visual C++"),
        ("ended by signal 11", "signal 11"),
        ("no answer within 60 s", "no answer"),
    ],
)
def test_torch_is_broken(error: str, shown: str) -> None:
    """A broken library, a crash and a hang are said with their cause, where one is known."""
    torch = TorchFacts("2.13.0+cu130", "13.0", was_tried=True, stage="import", error=error)
    check = line(replace(m.GOOD, torch=torch), "torch")
    assert check.status == "fail"
    assert shown in check.finding
    assert check.fix.text


@pytest.mark.parametrize("kind", KINDS)
def test_a_cpu_only_build_beside_a_card(kind: str) -> None:
    """The classic: named, with the command for the right build."""
    sick = m.on(kind, replace(m.GOOD, torch=TorchFacts("2.13.0+cpu", "")))
    check = line(sick, "torch build")
    assert (check.status, "CPU-only" in check.finding) == ("fail", True)
    assert "whl/cu130" in check.fix.text


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("linux", "sudo ubuntu-drivers install"),
        ("windows", "https://www.nvidia.com/drivers"),
        ("wsl", "wsl --update; wsl --shutdown"),
    ],
)
def test_an_old_driver(kind: str, said: str) -> None:
    """535 runs CUDA 12 and not 13: either has a fix; 470 runs neither."""
    old = replace(m.GOOD.driver, version="535.183.01")
    check = line(m.on(kind, replace(m.GOOD, driver=old)), "torch build")
    assert check.status == "fail"
    assert said in check.fix.text
    assert "whl/cu126" in check.fix.text
    older = replace(m.GOOD.driver, version="470.82")
    assert line(m.on(kind, replace(m.GOOD, driver=older)), "driver").status == "fail"
    assert said in line(m.on(kind, replace(m.GOOD, driver=older)), "driver").fix.text


def test_a_driver_that_does_not_answer() -> None:
    """Missing, updated without a restart: each with its own remedy."""
    missing = replace(m.GOOD, driver=DriverFacts("", "NVML Shared Library Not Found", ()))
    assert line(missing, "driver").status == "fail"
    mismatch = replace(m.GOOD, driver=DriverFacts("", "Driver/library version mismatch", ()))
    assert line(mismatch, "driver").fix.text == "restart the machine"


@pytest.mark.parametrize(
    ("kind", "command"), [("linux", "kill 4321"), ("windows", "taskkill /PID 4321 /F"), ("wsl", "kill 4321")]
)
def test_another_process_uses_nine_of_twelve(kind: str, command: str) -> None:
    """It is shown with the memory it uses, and how to end it; the rest is too little for a GPU with a screen."""
    held = replace(m.GPU, free_bytes=int(2.4 * GIB), processes=(GPUProcess(4321, "python3", 9 * GIB),))
    check = line(m.on(kind, replace(m.GOOD, driver=replace(m.GOOD.driver, gpus=(held,)))), "GPU memory")
    assert check.status == "fail"
    assert "python3 (PID 4321) 9.0 GiB" in check.finding
    assert command in check.fix.text
    roomier = replace(held, free_bytes=5 * GIB)
    assert (
        line(m.on(kind, replace(m.GOOD, driver=replace(m.GOOD.driver, gpus=(roomier,)))), "GPU memory").status == "warn"
    )


def test_a_full_disk() -> None:
    """Nearly full is a failure, as is one that may not be written; tight is a warning."""

    def with_disk(**changes: object) -> Check:
        first, *others = m.GOOD.disks
        return line(replace(m.GOOD, disks=(replace(first, **changes), *others)), "disk for runs")

    assert with_disk(free_bytes=GIB // 2).status == "fail"
    assert "--out" in with_disk(free_bytes=GIB // 2).fix.text
    assert with_disk(free_bytes=3 * GIB).status == "warn"
    assert with_disk(is_writable=False).status == "fail"
    assert with_disk(is_of_windows=True).status == "warn"


@pytest.mark.parametrize(
    ("kind", "command"),
    [
        ("linux", "export HTTPS_PROXY=http://HOST:PORT"),
        ("windows", '$env:HTTPS_PROXY = "http://HOST:PORT"'),
        ("wsl", "export HTTPS_PROXY=http://HOST:PORT"),
    ],
)
def test_no_network(kind: str, command: str) -> None:
    """A warning, because models on this machine work; a failure where the named model has to come from the hub."""
    hub = replace(m.GOOD.hub, error="ConnectError: [Errno -2] Name or service not known")
    sick = m.on(kind, replace(m.GOOD, hub=hub))
    assert line(sick, "hub").status == "warn"
    assert command in line(sick, "hub").fix.text
    needed = replace(sick, model=ModelFacts("gpt2", memory_bytes=GIB, budget_bytes=8 * GIB))
    assert line(needed, "hub").status == "fail"
    certificate = replace(hub, error="ConnectError: [SSL: CERTIFICATE_VERIFY_FAILED] self-signed certificate")
    assert "SSL_CERT_FILE" in line(replace(m.GOOD, hub=certificate), "hub").fix.text


def test_hidden_gpus() -> None:
    """An empty CUDA_VISIBLE_DEVICES is named rather than the driver blamed."""
    hidden = replace(m.GOOD, visible_devices="", torch=replace(m.TORCH, device=None))
    assert line(hidden, "cuda").fix.text == "unset CUDA_VISIBLE_DEVICES"
    assert line(m.on("windows", hidden), "cuda").fix.text == "Remove-Item Env:CUDA_VISIBLE_DEVICES"


@pytest.mark.parametrize(
    ("sick", "name"),
    [
        (lambda: replace(m.TORCH, products=(ProductFacts("bfloat16", 0.4),)), "matmul bfloat16"),
        (lambda: replace(m.TORCH, products=(ProductFacts("float32", float("inf")),)), "matmul float32"),
        (lambda: replace(m.TORCH, step=StepFacts(5.37, 5.90, 5.36)), "training step"),
        (lambda: replace(m.TORCH, step=StepFacts(7.10, 3.10, 5.36)), "training step"),
        (lambda: replace(m.TORCH, step=StepFacts(float("nan"), 2.6, 5.36)), "training step"),
        (lambda: replace(m.TORCH, cudnn_error="CUDNN_STATUS_NOT_INITIALIZED"), "cudnn"),
    ],
)
def test_wrong_results_are_failures(sick: Callable[[], TorchFacts], name: str) -> None:
    """What a device computes is judged, not only that it computes."""
    assert line(replace(m.GOOD, torch=sick()), name).status == "fail"


def test_a_model_that_does_not_fit() -> None:
    """More than the budget is a failure with a way on."""
    model = ModelFacts("gpt2-xl", memory_bytes=26 * GIB, budget_bytes=18 * GIB, where="this processor", is_here=True)
    assert line(replace(m.GOOD, model=model), "model").status == "fail"
    assert "--lora-r 8" in line(replace(m.GOOD, model=model), "model").fix.text


@pytest.mark.parametrize(
    ("version", "capability", "build"),
    [
        ("580.65.06", (8, 9), "cu130"),
        ("535.183.01", (8, 9), "cu126"),
        ("580.65.06", (6, 1), "cu126"),
        ("580.65.06", (12, 0), "cu130"),
        ("570.86.10", (12, 0), ""),
        ("470.82.01", (8, 6), ""),
    ],
)
def test_the_build_for_a_driver_and_card(version: str, capability: tuple[int, int], build: str) -> None:
    """As NVIDIA's table and PyTorch's wheels have it."""
    assert build_for(DriverFacts(version, "", (replace(m.GPU, capability=capability),))) == build


def test_machine_code_runs_within_its_major_number() -> None:
    """sm_86 runs on 8.9 and not on 8.0 or 9.0; compute_90 is translated for anything later."""
    assert has_code_for(("sm_86",), (8, 9))
    assert not has_code_for(("sm_86",), (8, 0))
    assert not has_code_for(("sm_86",), (9, 0))
    assert has_code_for(("sm_86", "compute_90"), (12, 0))
    assert has_code_for(("sm_90a",), (9, 0))


def test_a_gpu_that_cannot_be_used_is_an_error_before_a_run() -> None:
    """With what keeps torch from it and the two ways on; no error without a GPU."""
    with pytest.raises(UserError, match="CPU-only") as caught:
        check_gpu_is_usable(replace(m.GOOD, torch=TorchFacts("2.13.0+cpu", "")))
    assert "whl/cu130" in caught.value.hint
    assert "--device cpu" in caught.value.hint
    check_gpu_is_usable(replace(m.GOOD, gpus_on_bus=0, driver=DriverFacts("", "none", ())))


def test_who_says_device_cpu_means_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only `--device auto` with a large model is refused."""
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    sick = replace(m.GOOD, torch=TorchFacts("2.13.0+cpu", ""))
    monkeypatch.setattr(preflight, "collect", lambda **_: sick)
    check_device(TrainConfig(model="gpt2", out="x", device="cpu"))
    check_device(TrainConfig(model="tiny", out="x"))
    with pytest.raises(UserError, match="CPU-only"):
        check_device(TrainConfig(model="gpt2", out="x"))


def test_triton_that_cannot_build_is_said_with_its_cure() -> None:
    """Installed is not enough: what came of building a kernel is shown, and the command that brings a compiler."""
    broken = replace(m.TORCH, triton=TritonFacts(works=False, result="Failed to find C compiler"))
    for distribution, command in (
        ("ubuntu debian", "sudo apt install build-essential python3-dev"),
        ("fedora", "sudo dnf install gcc python3-devel"),
        ("slackware", "install a C compiler"),
    ):
        system = replace(m.GOOD.system, distribution=distribution)
        found = line(replace(m.GOOD, torch=broken, system=system), "compiled training")
        assert found.status == "warn"
        assert "Failed to find C compiler" in found.finding
        assert found.fix.text.startswith(command)
    works = replace(m.TORCH, triton=TritonFacts(works=True, result="Triton has built and launched a kernel"))
    assert line(replace(m.GOOD, torch=works), "compiled training").status == "ok"


def test_the_attention_kernel_is_shown() -> None:
    """As the machine's capability, build and system allow."""
    assert line(m.GOOD, "attention").finding.startswith("flash_varlen")
    old = replace(m.TORCH, device=DeviceFacts("RTX 2080", (7, 5), ("sm_75",)))
    assert line(replace(m.GOOD, torch=old), "attention").finding.startswith("efficient_varlen")
    windows = m.on("windows")
    assert windows.torch.device is not None
    built = replace(windows.torch, device=replace(windows.torch.device, has_flash_attention=False))
    assert "Windows" in line(replace(windows, torch=built), "attention").finding
