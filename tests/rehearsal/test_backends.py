"""What is decided for machines that are not here: attention, kernels, compiling, and what goes together."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

import tunesmith
from tunesmith.backends import (
    Device,
    assume_triton,
    is_traceable,
    resolve_attention,
    resolve_compilation,
    resolve_kernels,
    why_incompatible,
)
from tunesmith.optim.state_format import STATE_FORMATS
from tunesmith.planning.gpus import GPUS
from tunesmith.utils.device import Decision, native_dtype

WORKS, FAILS = Decision(True, "it works"), Decision(False, "there is no C compiler")
PASCAL, VOLTA, TURING, AMPERE, ADA, BLACKWELL = (6, 1), (7, 0), (7, 5), (8, 6), (8, 9), (12, 0)
CAPABILITIES = ((5, 0), PASCAL, VOLTA, TURING, (8, 0), AMPERE, ADA, (9, 0), BLACKWELL)


def gpu(capability: tuple[int, int], system: str = "linux") -> Device:
    """With the build of torch that its system gets: FlashAttention is not in those for Windows."""
    return Device("cuda", system, capability, has_flash_attention=system != "win32")


@pytest.mark.parametrize(
    ("capability", "system", "dtype", "head_dim", "expected", "reason"),
    [
        (ADA, "linux", "bfloat16", 64, "flash_varlen", "FlashAttention-2: one kernel"),
        (AMPERE, "linux", "float16", 64, "flash_varlen", "FlashAttention-2: one kernel"),
        (BLACKWELL, "linux", "bfloat16", 256, "flash_varlen", "FlashAttention-2: one kernel"),
        (ADA, "win32", "bfloat16", 64, "efficient_varlen", "Windows builds do not contain"),
        (BLACKWELL, "win32", "bfloat16", 64, "efficient_varlen", "Windows builds do not contain"),
        (TURING, "linux", "float16", 64, "efficient_varlen", "needs compute capability 8.0, and this is 7.5"),
        (TURING, "win32", "float16", 64, "efficient_varlen", "needs compute capability 8.0, and this is 7.5"),
        (VOLTA, "linux", "float16", 64, "efficient_varlen", "needs compute capability 8.0, and this is 7.0"),
        (PASCAL, "linux", "float32", 64, "efficient_varlen", "needs compute capability 8.0, and this is 6.1"),
        (ADA, "linux", "float32", 64, "efficient_varlen", "does not compute in float32"),
        (ADA, "linux", "bfloat16", 20, "efficient_varlen", "multiple of 8 channels up to 256, not 20"),
        (ADA, "linux", "bfloat16", 264, "efficient_varlen", "multiple of 8 channels up to 256, not 264"),
        (TURING, "linux", "bfloat16", 64, "sdpa", "in bfloat16 needs compute capability 8.0"),
    ],
)
def test_attention_by_machine(
    capability: tuple[int, int], system: str, dtype: str, head_dim: int, expected: str, reason: str
) -> None:
    """Each machine gets the fastest kernel that it has, with the reason why not a faster one."""
    chosen = resolve_attention(gpu(capability, system), dtype, head_dim)
    assert chosen.value == expected
    assert reason in chosen.reason


def test_no_machine_gets_flash_attention_that_it_cannot_run() -> None:
    """Over all machines, by the checks that FlashAttention-2 itself makes, and its absence on Windows."""
    for capability, system, dtype, head_dim in product(
        CAPABILITIES, ("linux", "win32"), ("float16", "bfloat16", "float32"), (8, 20, 64, 80, 256, 320)
    ):
        runs = capability[0] * 10 >= 80 and system != "win32" and dtype != "float32"  # flash_api.cpp
        runs = runs and head_dim % 8 == 0 and head_dim <= 256
        chosen = resolve_attention(gpu(capability, system), dtype, head_dim).value
        assert (chosen == "flash_varlen") == runs
        assert (chosen == "sdpa") == (dtype == "bfloat16" and capability < (8, 0))
    assert resolve_attention(Device("cpu", "linux"), "bfloat16", 64).value == "sdpa"
    without = replace(gpu(ADA), has_flash_attention=False)
    assert "this build of torch" in resolve_attention(without, "bfloat16", 64).reason


def test_what_a_gpu_multiplies_is_what_its_attention_takes() -> None:
    """In the dtype that is chosen for it no GPU is left with the last resort, on no system."""
    for card, system in product(GPUS, ("linux", "win32")):
        native = native_dtype(card.capability).value
        assert resolve_attention(gpu(card.capability, system), native, 64).value != "sdpa", card.name
    dtypes = [native_dtype(capability).value for capability in (PASCAL, VOLTA, TURING, AMPERE, BLACKWELL)]
    assert dtypes == ["float32", "float16", "float16", "bfloat16", "bfloat16"]


def test_attention_is_compiled_only_where_it_is_the_same_for_all_batches_and_layers() -> None:
    """Of three backends one, and not where each layer has its own scale."""
    assert is_traceable("flash_varlen", one_scale=True)
    assert not is_traceable("flash_varlen", one_scale=False)
    assert not is_traceable("efficient_varlen", one_scale=True)
    assert not is_traceable("sdpa", one_scale=True)


def test_triton_has_to_work_and_the_gpu_to_be_new_enough() -> None:
    """Kernels and compiling fall back together, with the reason; a CPU needs a C++ compiler and no Triton."""
    for capability in CAPABILITIES:
        is_new = capability >= (7, 0)
        assert resolve_kernels(gpu(capability), WORKS).value == ("triton" if is_new else "torch")
        assert resolve_compilation(gpu(capability), WORKS, "").value == is_new
        assert resolve_kernels(gpu(capability), FAILS).value == "torch"
        assert not resolve_compilation(gpu(capability), FAILS, "g++").value
    assert resolve_kernels(gpu(ADA), FAILS).reason == "there is no C compiler"
    assert "this is 6.1" in resolve_kernels(gpu(PASCAL), WORKS).reason
    cpu = Device("cpu", "linux")
    assert resolve_kernels(cpu, WORKS).value == "torch"
    assert resolve_compilation(cpu, FAILS, "g++") == Decision(True, "g++ is here")
    assert resolve_compilation(cpu, WORKS, "") == Decision(False, "g++ is missing")
    assert resolve_compilation(Device("cpu", "win32"), WORKS, "") == Decision(False, "cl is missing")


def test_windows_builds_bring_no_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere it is assumed for a GPU that is not here; there only where somebody installed it."""
    monkeypatch.setattr("tunesmith.backends.find_spec", lambda _name: None)
    assert assume_triton("linux").value
    assert "pip install triton-windows" in assume_triton("win32").reason
    monkeypatch.setattr("tunesmith.backends.find_spec", lambda _name: object())
    assert assume_triton("win32").value


def test_fp16_goes_with_fp32_weights_only() -> None:
    """Torch's scaler unscales fp32 and fp16 gradients on a GPU and no others; bf16 weights mean bf16 gradients."""
    for plan in STATE_FORMATS.values():
        gradient_dtype = "float32" if plan.weights == "fp32" else "bfloat16"
        for dtype in ("float32", "float16", "bfloat16"):
            refused = why_incompatible(dtype, has_bf16_weights=plan.is_half, holds_gradients=plan.gradients == "held")
            assert bool(refused) == (gradient_dtype == "bfloat16" and dtype != "bfloat16")


def planned(name: str, monkeypatch: pytest.MonkeyPatch, system: str) -> dict[str, Any]:
    """What `plan --gpu NAME --json` says on such a system."""
    monkeypatch.setattr(sys, "platform", system)
    plan = tunesmith.plan(model="gpt2", gpu=name)
    monkeypatch.undo()
    return plan


@pytest.mark.parametrize(
    ("name", "system", "dtype", "attention", "kernels"),
    [
        ("GTX 1060 6GB", "linux", "float32", "efficient_varlen", "torch"),
        ("RTX 2080", "linux", "float16", "efficient_varlen", "triton"),
        ("RTX 3060", "linux", "bfloat16", "flash_varlen", "triton"),
        ("RTX 4070 Ti", "linux", "bfloat16", "flash_varlen", "triton"),
        ("RTX 5090", "linux", "bfloat16", "flash_varlen", "triton"),
        ("RTX 4070 Ti", "win32", "bfloat16", "efficient_varlen", "torch"),
        ("RTX 2080", "win32", "float16", "efficient_varlen", "torch"),
    ],
)
def test_a_plan_is_one_that_the_gpu_can_run(
    name: str, system: str, dtype: str, attention: str, kernels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`plan --gpu` shows dtype, attention and kernels with their reasons; no method that it lists is refused there."""
    monkeypatch.setattr("tunesmith.backends.find_spec", lambda _name: None)
    plan = planned(name, monkeypatch, system)
    assert (plan["precision"], plan["attention"], plan["kernels"]) == (dtype, attention, kernels)
    assert all(plan["reasons"][what] for what in ("attention", "kernels", "compile", "precision"))
    assert not (plan["compile"] and kernels == "torch")
    listed = {method["method"] for method in plan["methods"]} & set(STATE_FORMATS)
    assert listed
    if dtype != "bfloat16":
        assert not any(STATE_FORMATS[method].is_half for method in listed)
    else:
        assert any(STATE_FORMATS[method].is_half for method in listed)


def test_upcast_attention_is_planned_in_fp32(tmp_path: Path) -> None:
    """A model whose attention is computed in fp32 has no FlashAttention, whatever the rest is computed in."""
    config = {"model_type": "gpt2", "vocab_size": 300, "n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": 64}
    (tmp_path / "config.json").write_text(json.dumps({**config, "reorder_and_upcast_attn": True}))
    plan = tunesmith.plan(model=str(tmp_path), gpu="RTX 4070 Ti")
    assert (plan["precision"], plan["attention"]) == ("bfloat16", "efficient_varlen")


def test_what_writes_says_what_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    """`generate` and `serve` show a GPU's attention and why; of a CPU there is nothing to say."""
    import torch

    from tunesmith.generation.loading import LoadedModel

    def says(kind: str) -> str:
        head = SimpleNamespace(is_cuda=kind == "cuda", device=torch.device(kind))
        config = SimpleNamespace(head_dim=64)
        model: Any = SimpleNamespace(head_VC=head, attention_dtype=torch.float16, config=config)
        return LoadedModel(model, cast("Any", None), cast("Any", None)).attention_notice

    monkeypatch.setattr("tunesmith.model.attention.detect_device", lambda _device: gpu(TURING))
    monkeypatch.setattr("tunesmith.generation.loading.device_name", lambda _device: "RTX 2080")
    assert says("cpu") == ""
    assert says("cuda").startswith("attention of RTX 2080 in float16: efficient_varlen (")
    assert "this is 7.5" in says("cuda")


CHILD = """
import torch
torch.cuda.is_available = lambda: True  # so that Triton takes its driver for the active one
torch.cuda.current_device = lambda: 0
torch.cuda.get_device_capability = lambda _device: (8, 9)
from tunesmith.backends import probe_triton
from tunesmith.model.compile import can_compile
from tunesmith.model.loss import has_triton
print(has_triton(), can_compile(torch.device("cuda", 0)).value, probe_triton(0).reason)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Triton for Windows brings a compiler")
def test_without_a_c_compiler_everything_is_plain_and_uncompiled(tmp_path: Path) -> None:
    """Triton is installed and fails on first use: no kernel of ours is launched, nothing is compiled, nobody dies."""
    pytest.importorskip("triton")
    environment = {name: value for name, value in os.environ.items() if name not in {"PATH", "CC"}}
    environment |= {"PATH": "", "TRITON_CACHE_DIR": str(tmp_path), "TRITON_LIBCUDA_PATH": str(tmp_path)}
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CHILD], env=environment, capture_output=True, text=True, check=True
    )
    kernels, compiles, reason = found.stdout.strip().split(" ", 2)
    assert (kernels, compiles) == ("False", "False")
    assert "Failed to find C compiler" in reason
