"""What a run may use: GPUs by name, amounts, other programs on the GPU."""

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from tunesmith.errors import UserError
from tunesmith.planning.gpu_processes import GPUProcess, GPUState, query_gpu
from tunesmith.planning.gpus import GPUS, find_gpu, lookup_gpu
from tunesmith.planning.hardware import GIB, hardware_for_gpu, memory_budget, parse_memory_size, with_precision


@pytest.mark.parametrize("written", ["RTX 4070 Ti", "4070ti", "nvidia geforce rtx 4070 ti", "GeForce RTX 4070 Ti"])
def test_a_card_by_any_name(written: str) -> None:
    """However it is written."""
    assert find_gpu(written).name == "RTX 4070 Ti"


def test_drivers_names_are_known() -> None:
    """What drivers call them, and no GPU for another."""
    for said, name in (
        ("NVIDIA GeForce RTX 4070 Ti SUPER", "RTX 4070 Ti SUPER"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA A100-SXM4-40GB", "A100"),
        ("Tesla T4", "T4"),
        ("NVIDIA H200", "H200"),
    ):
        found = lookup_gpu(said)
        assert found is not None
        assert found.name == name
    assert lookup_gpu("NVIDIA GeForce GTX 980") is None
    assert len({gpu.name for gpu in GPUS}) == len(GPUS)


def test_an_unknown_card_is_refused_with_its_neighbors() -> None:
    """The hint names the nearest."""
    with pytest.raises(UserError, match="unknown GPU: --gpu 4071") as error:
        find_gpu("4071")
    assert "RTX 4070" in error.value.hint


@pytest.mark.parametrize(
    ("written", "amount"), [("12GB", 12 * GIB), ("11.2 GiB", int(11.2 * GIB)), ("8192MB", 8 * GIB), ("24g", 24 * GIB)]
)
def test_amounts(written: str, amount: int) -> None:
    """Cards are sold in GiB, whatever the box says."""
    assert parse_memory_size(written) == amount


@pytest.mark.parametrize("written", ["12", "zero", "-3GB", "0GB", "12TB", ""])
def test_no_amounts(written: str) -> None:
    """Refused with an example."""
    with pytest.raises(UserError, match="--vram"):
        parse_memory_size(written)


@pytest.mark.parametrize(("asked", "named"), [("fp32", "float32"), ("fp16", "float16"), ("bf16", "bfloat16")])
def test_a_card_that_is_not_here_computes_as_asked(asked: str, named: str) -> None:
    """Precision and its reason change; the GPU stays."""
    gpu = hardware_for_gpu("RTX 2080 Ti", None)
    assert with_precision(gpu, "auto") == gpu
    chosen = with_precision(gpu, asked)
    assert (chosen.precision, chosen.reasons["precision"]) == (named, "asked for")
    assert (chosen.budget, chosen.name, chosen.reasons["device"]) == (gpu.budget, gpu.name, gpu.reasons["device"])


def test_room_is_left() -> None:
    """For the driver, for fragments, and for a screen; other programs are named."""
    named = hardware_for_gpu("RTX 4070 Ti", None)
    assert 10.8 * GIB < named.budget.value < 11.2 * GIB
    assert named.precision == "bfloat16"
    assert hardware_for_gpu("RTX 2080 Ti", None).precision == "float16"
    others = (GPUProcess(7, "game.exe", 3 * GIB), GPUProcess(8, "firefox", None))
    without = memory_budget(GPUState("a GPU", 12 * GIB, 8 * GIB, has_display=False, neighbors=()))
    with_screen = memory_budget(GPUState("a GPU", 12 * GIB, 8 * GIB, has_display=True, neighbors=others))
    assert without.value < 8 * GIB
    assert without.value - with_screen.value == GIB // 2
    assert "game.exe (PID 7) 3.0 GiB, firefox (PID 8)" in with_screen.reason


class Driver:
    """A driver with one GPU on which a browser and a game run."""

    class NVMLError(Exception):
        """What it raises."""

    def __init__(self, *, says_memory: bool) -> None:
        used = 2 * GIB if says_memory else None
        self.processes = [SimpleNamespace(pid=1, usedGpuMemory=used)]

    def __getattr__(self, name: str) -> Any:
        answers = {
            "nvmlInit": None,
            "nvmlShutdown": None,
            "nvmlDeviceGetHandleByIndex": "gpu",
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=12 * GIB, free=9 * GIB),
            "nvmlDeviceGetName": b"NVIDIA GeForce RTX 4070 Ti",
            "nvmlDeviceGetDisplayActive": 1,
            "nvmlDeviceGetComputeRunningProcesses": self.processes,
        }

        def answer(*_arguments: Any) -> Any:
            if name not in answers:
                raise Driver.NVMLError(name)
            return answers[name]

        return answer


@pytest.mark.parametrize("says_memory", [True, False])
def test_the_driver_is_asked(*, says_memory: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Name, memory, screen, and who else is there, even where the driver keeps amounts to itself."""
    monkeypatch.setitem(sys.modules, "pynvml", Driver(says_memory=says_memory))
    state = query_gpu(0)
    assert state is not None
    assert (state.name, state.free_bytes, state.has_display) == ("NVIDIA GeForce RTX 4070 Ti", 9 * GIB, True)
    (other,) = state.neighbors
    assert other.pid == 1
    assert other.name
    assert other.bytes == (2 * GIB if says_memory else None)


def test_without_a_driver_there_is_no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """No library, or a GPU that is not there."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert query_gpu(0) is None
    monkeypatch.setitem(sys.modules, "pynvml", Driver(says_memory=True))
    assert query_gpu("GPU-of-somebody-else") is None


def test_a_plan_for_a_named_card_needs_no_torch() -> None:
    """Nor a network, nor weights: the modules are not even imported."""
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import tunesmith; plan = tunesmith.plan(model='gpt2-xl', vram='12GB')\n"
        "mode = plan['memory_mode'];"
        "print(plan['fits'], mode, plan['peak_memory_bytes'] < 11.2 * 2**30, 'transformers' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.split()[0] == "True"
    assert answer.stdout.split()[2:] == ["True", "False"]
