"""A good machine, from which the tests make sick ones."""

from dataclasses import replace

from tunesmith.doctor.facts import (
    DeviceFacts,
    DiskFacts,
    DriverFacts,
    Facts,
    GPUFacts,
    HubFacts,
    PackageFacts,
    ProductFacts,
    StepFacts,
    SystemFacts,
    SystemKind,
    TorchFacts,
)

GIB = 1 << 30
GPU = GPUFacts(
    index=0,
    name="NVIDIA GeForce RTX 4070 Ti",
    capability=(8, 9),
    total_bytes=12 * GIB,
    free_bytes=int(11.4 * GIB),
    has_display=True,
    temperature_c=41,
    power_limit_w=285.0,
    default_power_limit_w=285.0,
    pcie_lanes=16,
    max_pcie_lanes=16,
)
TORCH = TorchFacts(
    version="2.13.0+cu130",
    cuda="13.0",
    was_tried=True,
    device=DeviceFacts(GPU.name, (8, 9), ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120")),
    cudnn=91002,
    products=(ProductFacts("float32", 1e-4), ProductFacts("bfloat16", 3e-3)),
    step=StepFacts(before=5.37, after=2.60, expected=5.36),
)
GOOD = Facts(
    system=SystemFacts(
        kind="linux",
        name="Linux-6.8",
        distribution="ubuntu debian",
        python="3.12.4",
        python_bits=64,
        executable="/home/me/.venv/bin/python",
        is_isolated=True,
        installer="pip",
    ),
    gpus_on_bus=1,
    visible_devices=None,
    driver=DriverFacts("580.65.06", "", (GPU,)),
    torch=TORCH,
    toolkit="",
    cuda_on_library_path=(),
    memory_bytes=32 * GIB,
    free_memory_bytes=24 * GIB,
    disks=(
        DiskFacts("runs", "/home/me/runs", 200 * GIB, is_writable=True),
        DiskFacts("text", "/home/me/.cache/tunesmith", 200 * GIB, is_writable=True),
        DiskFacts("hub", "/home/me/.cache/huggingface/hub", 200 * GIB, is_writable=True),
    ),
    compiler="/usr/bin/g++",
    triton="3.6.0",
    hub=HubFacts(was_tried=True, endpoint="https://huggingface.co"),
    packages=(PackageFacts("torch", "<2.14,>=2.11", "2.13.0+cu130", fits=True),),
    tokenizer_error="",
)


def on(kind: SystemKind, facts: Facts = GOOD) -> Facts:
    """The same machine under another system."""
    executable = r"C:\me\.venv\Scripts\python.exe" if kind == "windows" else facts.system.executable
    return replace(facts, system=replace(facts.system, kind=kind, executable=executable))
