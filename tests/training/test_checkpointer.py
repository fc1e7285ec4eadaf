"""Copies of a run's state on the host: pinned and used again on a GPU, and none where there is no room for them."""

import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

import tunesmith
from tunesmith.model.hf_checkpoint import load_gpt2, write_safetensors
from tunesmith.optim.cpu_offload_adamw import CPUOffloadAdamW
from tunesmith.optim.state_format import HOST_STAGING_BYTES, STATE_FORMATS
from tunesmith.planning.memory_model import Calibration, StepSpec, estimate_memory, snapshot_bytes
from tunesmith.training import checkpointer
from tunesmith.training.checkpointer import HostBuffers, LazyTensors
from tunesmith.training.optimizer import WholeWeights, make_optimizer
from tunesmith.utils.device import pinned_bytes, pinned_empty


class OnGpu(torch.Tensor):
    """A tensor that says it is on a GPU."""

    is_cuda = property(lambda _self: True)  # type: ignore[assignment]


TENSORS = {
    "b": torch.arange(7, dtype=torch.uint8),
    "a": torch.randn(3, 5).t(),
    "half": torch.randn(3).bfloat16(),
    "step": torch.tensor(4.0),
    "ids": torch.arange(3),
    "remainder": torch.arange(5, dtype=torch.int16),
}


class Made(Mapping[str, Tensor]):
    """Tensors that are made one by one."""

    def __getitem__(self, name: str) -> Tensor:
        return TENSORS[name].clone()

    def __iter__(self) -> Iterator[str]:
        return iter(TENSORS)

    def __len__(self) -> int:
        return len(TENSORS)


def test_a_file_written_tensor_by_tensor_is_read_by_the_library(tmp_path: Path) -> None:
    """All dtypes of a checkpoint, odd sizes and a transposed matrix, with the metadata that transformers asks for."""
    path = tmp_path / "model.safetensors"
    write_safetensors(Made(), path, metadata={"format": "pt"})
    found = load_file(path)
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())
    assert all(found[name].dtype == tensor.dtype for name, tensor in TENSORS.items())
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt"}


@pytest.mark.parametrize("memory_mode", ["fp32", "split-8bit"])
def test_without_room_a_checkpoint_is_written_from_the_model(
    memory_mode: str, tmp_path: Path, make_model_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is copied, and all files are those of the run that had room; it is asked before, not afterwards."""
    text = tmp_path / "text.txt"
    text.write_text("".join(f"night {number} of wind and lamp\n" for number in range(40)), encoding="utf-8")
    model = make_model_folder(n_embd=128)
    precision = "fp32" if memory_mode == "fp32" else "bf16"
    copied: list[int] = []
    copies = HostBuffers.copies

    def counted(buffers: HostBuffers, tensors: Any, live: set[int]) -> dict[str, Tensor]:
        made = copies(buffers, tensors, live)
        copied.append(len(made))
        return made

    monkeypatch.setattr(HostBuffers, "copies", counted)
    files = []
    for has_disk_space in (True, False):
        copied.clear()
        monkeypatch.setattr("tunesmith.training.checkpointer.fits_memory", lambda _n_bytes, room=has_disk_space: room)
        out = tmp_path / f"out-{has_disk_space}"
        tunesmith.train(
            text, model=model, out=out, split_on="line", device="cpu", max_steps=4, save_steps=2,
            precision=precision, memory_mode=memory_mode, keep_gb=1.0,
        )  # fmt: skip
        assert any(copied) is has_disk_space
        paths = [out / "model.safetensors", *sorted((out / "checkpoints").rglob("*.safetensors"))]
        files.append({path.relative_to(out): load_file(path) for path in paths})
    assert len(files[0]) >= 7
    assert files[0].keys() == files[1].keys()
    for path, expected in files[0].items():
        found = files[1][path]
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items()), path


def test_a_gpus_copies_use_the_same_memory_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copied into host memory that is kept, waited for once; what is on the host and changes is copied, too."""
    waited: list[torch.device] = []
    monkeypatch.setattr(
        torch.cuda, "current_stream", lambda device: SimpleNamespace(synchronize=lambda: waited.append(device))
    )
    buffers, on_host, still = HostBuffers(), torch.ones(2), torch.zeros(1)
    live = {on_host.untyped_storage().data_ptr()}
    weight = torch.randn(3, 4)
    on_gpu = weight.t().as_subclass(OnGpu)
    first = buffers.copies([("weight", on_gpu), ("master", on_host), ("still", still)], live)
    assert torch.equal(first["weight"], weight.t())
    assert first["weight"].is_contiguous()
    assert first["still"] is still
    assert len(waited) == 1
    on_host.add_(1)
    assert first["master"].tolist() == [1.0, 1.0]
    assert buffers.nbytes == weight.nbytes
    again = buffers.copies([("weight", (weight + 1).t().as_subclass(OnGpu))], live)
    assert again["weight"].data_ptr() == first["weight"].data_ptr()
    assert torch.equal(again["weight"], (weight + 1).t())
    assert buffers.nbytes == weight.nbytes


def test_memory_that_cannot_be_pinned_is_ordinary_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """WSL pins only so much: then transfers take longer, and nothing fails."""
    empty, asked = torch.empty, []

    def refusing(*shape: Any, pin_memory: bool = False, **options: Any) -> Tensor:
        asked.append(pin_memory)
        if pin_memory:
            raise RuntimeError("CUDA error: out of memory")
        return empty(*shape, **options)

    monkeypatch.setattr(torch, "empty", refusing)
    tensor = pinned_empty((2, 3), torch.bfloat16)
    assert (tensor.shape, tensor.dtype, asked) == ((2, 3), torch.bfloat16, [True, False])


@pytest.mark.parametrize(("is_wsl", "limit_gib", "n_notices"), [(True, 1, 1), (True, 2, 0), (False, 1, 0)])
def test_a_system_that_pins_too_little_is_named(
    *, is_wsl: bool, limit_gib: int, n_notices: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a run that offloads begins; where enough can be pinned, or elsewhere than on WSL, nothing is said."""
    from tunesmith.model.hub import preset_shape
    from tunesmith.training import setup

    asked: list[int] = []

    def pin(shape: tuple[int], _dtype: torch.dtype) -> Any:
        asked.append(shape[0])
        return SimpleNamespace(is_pinned=lambda: shape[0] < limit_gib << 30)

    monkeypatch.setattr(setup, "is_wsl", lambda: is_wsl)
    monkeypatch.setattr(setup, "pinned_empty", pin)
    monkeypatch.setattr(torch._C, "_host_emptyCache", lambda: None, raising=False)
    plan: Any = SimpleNamespace(
        state_format=STATE_FORMATS["bf16-8bit"],
        activation_checkpointing="offload",
        tokens_per_micro_batch=8192,
        dtype=torch.bfloat16,
        device="cuda:1",
    )
    shape = preset_shape("gpt2-xl")
    assert shape is not None
    notices = setup._pinning_notices(plan, shape)
    assert len(notices) == n_notices
    assert all("1.2 GiB" in notice for notice in notices)
    assert asked == ([48 * 8192 * 1600 * 2] if is_wsl else [])


def test_whole_weights_are_made_one_by_one(
    make_model_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All fp32 weights at once would not fit the GPU that split ones were chosen for."""
    joined: list[int] = []
    from tunesmith.training import optimizer as module

    merge = module.merge_fp32
    monkeypatch.setattr(module, "merge_fp32", lambda half, rest: joined.append(1) or merge(half, rest))
    model = load_gpt2(make_model_folder(n_embd=128))
    exact = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    whole = WholeWeights(model, make_optimizer(model, weight_decay=0.1, plan=STATE_FORMATS["split-8bit"]))
    assert len(whole) == 8
    assert joined == []
    for number, (name, tensor) in enumerate(whole.items(), 1):
        assert torch.equal(tensor, exact[name])
        assert len(joined) == number
    assert "transformer.wte.weight" not in whole


def test_uncopied_tensors_are_those_of_the_moment() -> None:
    """In fp32 where that is wanted; by name, too."""
    live = torch.ones(2, dtype=torch.bfloat16)
    uncopied = LazyTensors(lambda: iter([("a", live)]), dtype=torch.float32)
    live.add_(1)
    assert {name: (tensor.tolist(), tensor.dtype) for name, tensor in uncopied.items()} == {
        "a": ([2, 2], torch.float32)
    }
    assert (uncopied["a"].tolist(), list(uncopied), len(uncopied)) == ([2.0, 2.0], ["a"], 1)
    with pytest.raises(KeyError):
        uncopied["b"]


def test_gradients_on_their_way_are_bounded() -> None:
    """The GPU waits until earlier ones are added, instead of filling the host with what is pinned."""
    parameter = torch.nn.Parameter(torch.zeros(4))
    optimizer = CPUOffloadAdamW([{"params": [parameter], "weight_decay": 0.0}], [], betas=(0.9, 0.999), epsilon=1e-8)
    going_on, total = threading.Event(), torch.zeros(4)

    def add(total: Tensor, arrived: Tensor) -> None:
        going_on.wait()
        total.add_(arrived)

    for _ in range(5):
        optimizer._add(add, total, torch.ones(4))
    assert optimizer._staged_bytes == 5 * 16
    threading.Timer(0.05, going_on.set).start()
    optimizer._wait(most_bytes=32)
    assert optimizer._staged_bytes == 32
    assert total[0] >= 3
    optimizer._wait()
    assert (optimizer._staged_bytes, total.tolist()) == (0, [5.0] * 4)


def test_the_plan_knows_the_hosts_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU: staged gradients, what is offloaded as torch pins it, and a checkpoint's copy where it fits."""
    from tunesmith.model.hub import preset_shape

    xl = preset_shape("gpt2-xl")
    assert xl is not None
    stream = 10_944 * xl.n_embd * 2
    host = StepSpec(xl, STATE_FORMATS["cpu-offload"], "offload", 10_944, 3, 2, "cuda")
    parameters = 1_557_611_200 + (xl.padded_vocab_size - xl.vocab_size) * xl.n_embd
    for version, block in (("2.13.0", stream), ("2.12.1", 1 << 26)):
        monkeypatch.setattr("tunesmith.utils.device.version", lambda _name, now=version: now)
        from tunesmith.utils.device import _torch_pins_exactly

        _torch_pins_exactly.cache_clear()
        assert pinned_bytes(stream) == block
        assert estimate_memory(host, Calibration()).host == 16 * parameters + HOST_STAGING_BYTES + xl.n_layer * block
    _torch_pins_exactly.cache_clear()
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "backend:native")
    assert pinned_bytes(stream) == 1 << 26
    monkeypatch.delenv("PYTORCH_ALLOC_CONF")
    copied = snapshot_bytes(StepSpec(xl, STATE_FORMATS["bf16-8bit"], "none", 4096, 1, 2, "cuda"))
    plans = []
    for total in (64 << 30, 6 << 30):
        monkeypatch.setattr("psutil.virtual_memory", lambda total=total: SimpleNamespace(total=total, available=total))
        plans.append(
            tunesmith.plan(model="gpt2-xl", gpu="RTX 4090", memory_mode="bf16-8bit", activation_checkpointing="full")
        )
    assert plans[0]["host_memory_bytes"] == copied
    assert plans[1]["host_memory_bytes"] == 0
    assert "training waits" in plans[1]["reasons"]["host_memory_bytes"]
    assert checkpointer.HostBuffers().nbytes == 0
