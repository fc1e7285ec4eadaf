"""`--deterministic`: every sum in the same order each time, on a GPU; what of it can be shown without one."""

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import tunesmith
from tunesmith.config import TrainConfig
from tunesmith.data.dataloader import Batch
from tunesmith.errors import UserError
from tunesmith.model.hf_checkpoint import load_gpt2
from tunesmith.optim.state_format import STATE_FORMATS
from tunesmith.planning.hardware import GIB
from tunesmith.training.optimizer import make_optimizer
from tunesmith.training.train_step import train_step
from tunesmith.utils import device as device_module
from tunesmith.utils.device import deterministic

PACKAGE = Path(tunesmith.__file__).parent
GPU_1 = torch.device("cuda", 1)

RAISING = {
    *("cumsum", "put_", "histc", "bincount", "median", "kthvalue", "nll_loss2d_forward", "nll_loss2d_backward"),
    *("grid_sampler_2d_backward", "_ctc_loss_backward", "scatter_reduce", "resize_", "_cdist_backward"),
    *("upsample_linear1d_backward", "upsample_bilinear2d_backward", "avg_pool3d_backward", "_embedding_bag_backward"),
}
"""What torch refuses on a GPU under `use_deterministic_algorithms` (its documentation), as far as a language model
could use it. What it makes deterministic there, or is so in any case, may be used: products by cuBLAS with fixed
workspaces, sums, index_put by sorting, embedding_dense_backward by sorting, attention's backward pass in one split."""


class Operations(TorchDispatchMode):
    """The names of all operations."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


STATES = ["fp32", "8bit", "split-8bit", "bf16-8bit", "bf16-4bit+fused-backward", "cpu-offload"]


@pytest.mark.parametrize("memory_mode", STATES)
def test_a_step_has_only_operations_with_a_fixed_order(
    memory_mode: Any, make_model_folder: Callable[..., Path]
) -> None:
    """None that torch refuses on a GPU when every sum is to have one order, whatever state plan is used."""
    model = load_gpt2(make_model_folder(n_embd=128), dropout=0.1).train()
    optimizer = make_optimizer(model, weight_decay=0.1, plan=STATE_FORMATS[memory_mode], seed=1)
    tokens = np.arange(40) % 300
    positions = np.concatenate([np.arange(25), np.arange(15)])
    rows = np.arange(0, 40, 2)
    batch = Batch(tokens, positions, (0, 25, 40), rows, tokens[rows], 25)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    with Operations() as operations:
        for batches in ([batch, batch], [batch]):
            train_step(model, optimizer, batches, learning_rate=1e-3, max_grad_norm=1.0, scaler=scaler)
    assert {"mm", "embedding_dense_backward"} & operations.names, "operations were seen"
    assert not operations.names & RAISING


def test_no_kernel_of_ours_adds_in_any_order() -> None:
    """No Triton kernel uses atomics, whose order is nobody's."""
    kernels = [path.read_text("utf-8") for path in PACKAGE.rglob("*.py") if "@triton.jit" in path.read_text("utf-8")]
    assert len(kernels) >= 4
    assert all("@triton.jit" in kernel and "atomic" not in kernel for kernel in kernels)


@pytest.fixture
def unused_gpu(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """CUDA is started, and no GPU has been computed with; the number of bytes that were allocated in all."""
    allocated = [0]
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "memory_stats", lambda _device: {"allocation.all.allocated": allocated[0]})
    monkeypatch.setenv(device_module.CUBLAS_SETTING, "to be put back")
    monkeypatch.delenv(device_module.CUBLAS_SETTING)
    return allocated


@pytest.fixture
def torchs_switches() -> Iterator[Callable[[], list[Any]]]:
    """What torch is told about order now; afterwards as before."""
    from torch._inductor import config as compiler

    def switches() -> list[Any]:
        filling: Any = torch.utils.deterministic
        return [
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            filling.fill_uninitialized_memory,
            compiler.deterministic,
        ]

    before = switches()
    yield switches
    assert switches() == before


@pytest.mark.usefixtures("unused_gpu")
def test_order_is_fixed_for_a_run_only(torchs_switches: Callable[[], list[Any]]) -> None:
    """On a GPU, with cuBLAS's workspaces set before it starts; the switches are afterwards what they were."""
    before = torchs_switches()
    for device, is_on in ((GPU_1, False), (torch.device("cpu"), True)):
        with deterministic(device, is_on=is_on):
            assert torchs_switches() == before
    assert device_module.CUBLAS_SETTING not in os.environ
    with contextlib.suppress(KeyError), deterministic(GPU_1, is_on=True):
        assert torchs_switches() == [True, False, False, True]
        assert os.environ[device_module.CUBLAS_SETTING] == ":4096:8"
        with device_module.allow_nondeterminism():
            assert not torch.are_deterministic_algorithms_enabled()
        assert torchs_switches() == [True, False, False, True]
        raise KeyError
    assert torchs_switches() == before


def test_order_cannot_be_fixed_too_late(unused_gpu: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a GPU computed before in this process torch would fail at the first product: the way is said instead."""
    unused_gpu[0] = GIB
    with pytest.raises(UserError, match="used in this process before") as error, deterministic(GPU_1, is_on=True):
        pass
    assert "CUBLAS_WORKSPACE_CONFIG=:4096:8" in error.value.hint
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    with deterministic(GPU_1, is_on=True):
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Forty lines."""
    path = tmp_path / "text.txt"
    path.write_text("".join(f"night {number} of wind and lamp\n" for number in range(40)), encoding="utf-8")
    return path


def test_on_a_cpu_nothing_changes(text: Path, tmp_path: Path, make_model_folder: Callable[..., Path]) -> None:
    """`--deterministic` is taken, kept and shown, and the weights are bit for bit those without it."""
    model = make_model_folder()
    weights = []
    for asked in (False, True):
        out = tmp_path / f"out-{asked}"
        tunesmith.train(text, model=model, out=out, split_on="line", device="cpu", max_steps=3, deterministic=asked)
        weights.append((out / "model.safetensors").read_bytes())
        run = json.loads((out / "run.json").read_text("utf-8"))
        assert run["config"]["deterministic"] is run["plan"]["deterministic"] is asked
        assert run["plan"]["reasons"]["deterministic"] == "a CPU adds in the same order each time"
    assert weights[0] == weights[1]


def test_a_plan_shows_the_fixed_order(capsys: pytest.CaptureFixture[str]) -> None:
    """With its reason, and why nothing is compiled then unless that is asked for."""
    from tunesmith.cli import main

    plan = tunesmith.plan(model="gpt2", gpu="RTX 4070 Ti", epochs=1e5, deterministic=True)
    assert (plan["deterministic"], plan["compile"]) == (True, False)
    assert plan["reasons"]["compile"].startswith("--deterministic")
    assert tunesmith.plan(model="gpt2", gpu="RTX 4070 Ti", epochs=1e5)["compile"]
    assert tunesmith.plan(model="gpt2", gpu="RTX 4070 Ti", deterministic=True, compile="yes")["compile"]
    assert main(["plan", "--model", "gpt2", "--gpu", "RTX 4070 Ti", "--deterministic"]) == 0
    assert "every sum is added in the same order each time" in capsys.readouterr().out


class BegunError(Exception):
    """A run came so far."""


@pytest.mark.parametrize("verify", [False, True])
def test_verifying_a_resume_on_a_gpu_fixes_the_order(
    *,
    verify: bool,
    text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No two runs on a GPU are the same without, broken or not."""
    from tunesmith.training import train

    def begun(device: torch.device, *, is_on: bool) -> None:
        raise BegunError(device, is_on)

    monkeypatch.setattr(train, "check_config", lambda _config, _team: GPU_1)
    monkeypatch.setattr(train, "deterministic", begun)
    config = TrainConfig((str(text),), out=str(tmp_path / "out"), verify_resume=verify)
    with pytest.raises(BegunError) as error:
        next(train.train_events(config, lambda: False, has_integrations=False))
    assert error.value.args == (GPU_1, verify)


def test_the_broken_run_has_the_plan_of_the_unbroken_one(
    text: Path, tmp_path: Path, make_model_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is another one when it begins, and with other micro-batches sums would be added in another order."""
    from tunesmith.training import setup

    budgets = iter([32 * GIB, *[GIB] * 9])
    planned: list[int] = []
    hardware_of = setup.detect_hardware

    def shrinking(device: str, precision: str) -> Any:
        planned.append(next(budgets))
        hardware = hardware_of(device, precision)
        held_bytes = psutil.Process().memory_info().rss  # by other tests of this process; a plan on a CPU counts it
        return replace(hardware, budget=replace(hardware.budget, value=planned[-1] + held_bytes))

    monkeypatch.setattr(setup, "detect_hardware", shrinking)
    verified: list[Any] = []
    tunesmith.train(
        text,
        model=make_model_folder(),
        out=tmp_path / "out",
        split_on="line",
        device="cpu",
        max_steps=5,
        verify_resume=True,
        on_event=lambda event: verified.append(event) if type(event).__name__ == "ResumeVerified" else None,
    )
    assert len(planned) == 2, "once to verify, and once for the run itself"
    assert [event.differing for event in verified] == [{}]


def test_samples_are_written_in_any_order(
    make_model_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sampling sums in an operation that has no fixed order on a GPU; the run does not depend on it."""
    from tunesmith.training import trainer

    seen: list[bool] = []
    monkeypatch.setattr(
        trainer,
        "generate_batch",
        lambda *_arguments, **_settings: seen.append(torch.are_deterministic_algorithms_enabled()),
    )
    torch.use_deterministic_algorithms(True)
    try:
        trainer.generate_samples(load_gpt2(make_model_folder()), None, ["a"], 1)  # type: ignore[arg-type]
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    assert seen == [False]
