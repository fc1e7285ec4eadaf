"""GPUs by the names that people, drivers and shops give them: the right memory, the right speed, or none."""

import re
from typing import Any

import pytest

import tunesmith
from tunesmith.cli import main
from tunesmith.errors import UserError
from tunesmith.planning import hardware
from tunesmith.planning.gpu_processes import GPUState
from tunesmith.planning.gpus import GPUS, find_gpu, lookup_gpu
from tunesmith.planning.hardware import GIB, hardware_for_gpu, hardware_from_driver

AS_SOLD = [
    ("RTX 3060 8GB", 8, 240),
    ("RTX 3060", 12, 360),
    ("RTX3060-12G", 12, 360),
    ("A100-80G", 80, 2039),
    ("A100 80 GB", 80, 2039),
    ("NVIDIA A100-SXM4-40GB", 40, 1555),
    ("NVIDIA A100-SXM4-80GB", 80, 2039),
    ("NVIDIA A100-PCIE-40GB", 40, 1555),
    ("NVIDIA A100 80GB PCIe", 80, 1935),
    ("RTX 4060 Ti 16 GB", 16, 288),
    ("4060ti16gb", 16, 288),
    ("RTX 5060 Ti 8GB", 8, 448),
    ("RTX 5060 Ti", 16, 448),
    ("H100 NVL 94GB", 94, 3900),
    ("NVIDIA H100 NVL", 94, 3900),
    ("NVIDIA H100 PCIe", 80, 2000),
    ("NVIDIA H100 80GB HBM3", 80, 3350),
    ("NVIDIA GeForce RTX 4070 Ti SUPER", 16, 672),
    ("4070tisuper", 16, 672),
    ("NVIDIA GeForce RTX 3070 Laptop GPU", 8, 448),
    ("NVIDIA GeForce RTX 4090 Laptop GPU", 16, 576),
    ("NVIDIA GeForce RTX 3080 Laptop GPU 16GB", 16, 448),
    ("NVIDIA GeForce RTX 4090 D", 24, 1008),
    ("NVIDIA TITAN RTX", 24, 672),
    ("Tesla V100-PCIE-32GB", 32, 900),
    ("NVIDIA A10G", 24, 600),
    ("GTX 1060 3GB", 3, None),
    ("GTX 1060", 6, None),
]
"""Names, memory in GB and its bandwidth in GB/s by NVIDIA's data sheets; None where no speed can be said."""


@pytest.mark.parametrize(("name", "memory_gib", "gigabytes_per_s"), AS_SOLD)
def test_a_name_finds_its_own_memory_and_speed(name: str, memory_gib: int, gigabytes_per_s: float | None) -> None:
    """The row of the data sheet, and not that of a neighbor with another memory, form or suffix."""
    found = find_gpu(name)
    assert found.memory_gib == memory_gib
    assert (found.speed.gigabytes_per_s if found.speed else None) == gigabytes_per_s
    assert hardware_for_gpu(name, None).budget.reason.startswith(f"{memory_gib}.0 GiB less")


def test_a_laptop_is_another_gpu_than_its_desktop_namesake() -> None:
    """Wherever both are known, the laptop's memory is no faster; where only the desktop's is known, it is unknown."""
    laptops = [gpu for gpu in GPUS if "Laptop" in gpu.name]
    for laptop in laptops:
        desktop = lookup_gpu(laptop.name.replace(" Laptop", ""))
        if desktop and desktop.speed and laptop.speed:
            assert laptop.speed != desktop.speed
            assert laptop.speed.gigabytes_per_s <= desktop.speed.gigabytes_per_s
    assert len(laptops) >= 15
    assert lookup_gpu("NVIDIA GeForce RTX 2070 with Max-Q Design") is None
    assert lookup_gpu("NVIDIA RTX A5000 Laptop GPU") is None


@pytest.mark.parametrize(
    "name", ["FooBar 9000", "NVIDIA A100-SXM4-40GB MIG 1g.5gb", "RTX 4000", "AMD Radeon RX 7900", "NVIDIA GB10", "Ti"]
)
def test_what_is_not_in_the_list_is_nobodys_neighbor(name: str) -> None:
    """A part of a GPU, another family or maker is refused by name, with something to type instead."""
    assert lookup_gpu(name) is None
    with pytest.raises(UserError, match=re.escape(f"unknown GPU: --gpu {name}")) as error:
        find_gpu(name)
    assert "--vram 12GB" in error.value.hint


@pytest.mark.parametrize(("total_gib", "gigabytes_per_s"), [(11.99, 360), (7.99, 240)])
def test_a_driver_that_does_not_name_the_memory_is_understood_by_the_amount(
    total_gib: float, gigabytes_per_s: float
) -> None:
    """Both variants call themselves alike."""
    found = lookup_gpu("NVIDIA GeForce RTX 3060", total_gib)
    assert found is not None
    assert found.speed is not None
    assert found.speed.gigabytes_per_s == gigabytes_per_s


def test_every_row_is_found_by_its_own_name() -> None:
    """No two rows answer to one name, and every speed is a number."""
    assert [lookup_gpu(gpu.name) for gpu in GPUS] == list(GPUS)
    assert all(gpu.speed is None or min(gpu.speed.tflops, gpu.speed.gigabytes_per_s) > 0 for gpu in GPUS)


def test_memory_that_a_gpu_is_not_known_with_is_planned_as_asked_and_said() -> None:
    """The amount that was asked counts, and the reason tells what the list knows."""
    asked = hardware_for_gpu("RTX 3060 16GB", None)
    assert asked.budget.reason.startswith("16.0 GiB less")
    assert "16 GiB as asked: it is known with 8, 12 GiB" in asked.reasons["device"]
    assert hardware_for_gpu("RTX 3060", "8GB").bytes_per_s == 240e9


def drivers_card(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose first GPU has this name."""
    state = GPUState(name, 12 * GIB, 11 * GIB, has_display=False, neighbors=())
    monkeypatch.setattr(hardware, "query_cuda_gpu", lambda _index: state)


def test_a_gpu_of_unknown_speed_gets_no_times(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither on the screen nor in JSON stands a time, a speed or a name of another GPU; memory is planned as ever."""
    drivers_card("NVIDIA FooBar 9000", monkeypatch)
    found = hardware_from_driver("auto")
    assert found is not None
    assert found.speed_of == ""
    plan: dict[str, Any] = tunesmith.plan(model="gpt2")
    assert plan["fits"]
    absent = {plan[key] for key in ("step_s", "duration_s", "device_flops_per_s", "speed_of")}
    absent |= {method[key] for method in plan["methods"] for key in ("tokens_per_s", "duration_s")}
    assert absent == {None}
    assert main(["plan", "--model", "gpt2"]) == 0
    shown = capsys.readouterr().out
    assert "time             unknown" in shown
    assert "4070" not in shown
    assert "tokens/s (" not in shown


def test_where_a_speed_is_assumed_the_gpu_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """An amount of memory alone is planned with the speed of a GPU that stands beside every time."""
    assert tunesmith.plan(model="gpt2", vram="12GB")["speed_of"] == "RTX 4070 Ti"
    assert main(["plan", "--model", "gpt2", "--vram", "12GB"]) == 0
    assert "(estimated for RTX 4070 Ti" in " ".join(capsys.readouterr().out.split())


def test_a_known_gpu_is_timed_by_its_own_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the driver calls it is found in the list: twice the products take less time."""
    drivers_card("NVIDIA GeForce RTX 4090", monkeypatch)
    fast = tunesmith.plan(model="gpt2")
    drivers_card("NVIDIA GeForce RTX 3060", monkeypatch)
    slow = tunesmith.plan(model="gpt2")
    assert (fast["speed_of"], slow["speed_of"]) == ("RTX 4090", "RTX 3060")
    assert fast["step_s"] < slow["step_s"]
