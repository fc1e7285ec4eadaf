"""Compiled blocks with the attention that GPUs have: the same numbers, few graphs, and a compiler that may fail.

On CPU tensors, with CPU kernels for the GPU's attention operators, and torch's compiler without its code generation.
"""

import importlib.util
import json
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from tunesmith.backends import Device
from tunesmith.config import ACTIVATION_CHECKPOINTING_LEVELS, ActivationCheckpointing, TrainConfig
from tunesmith.data.corpus import Split
from tunesmith.data.dataloader import Batch, TrainBatchSampler
from tunesmith.data.packing import EpochLayout, round_up_tokens
from tunesmith.data.spans import TokenSpans
from tunesmith.model import attention
from tunesmith.model import compile as compile_module
from tunesmith.model.activation_checkpointing import CheckpointedForward, apply_activation_checkpointing
from tunesmith.model.compile import (
    CompiledForward,
    apply_compile,
    compilation_failure,
    eager_mode,
    is_compiled,
    set_compute_dtype,
)
from tunesmith.model.gpt2 import GPT2, Block
from tunesmith.model.gpt2_config import GPT2Config
from tunesmith.optim.state_format import STATE_FORMATS
from tunesmith.planning.memory_model import StepSpec
from tunesmith.training.events import CompilationFailed, RunEnded
from tunesmith.training.memory_calibration import calibrate
from tunesmith.training.nonfinite import find_nonfinite_windows
from tunesmith.training.optimizer import make_optimizer
from tunesmith.training.train import train_events
from tunesmith.training.train_step import batch_loss_sum
from tunesmith.ui.progress import notices_of

SHAPE = GPT2Config(vocab_size=300, n_positions=64, n_embd=32, n_layer=12, n_head=4, n_inner=64)
AMPERE = Device("cuda", "linux", (8, 6), has_flash_attention=True)
TURING = Device("cuda", "linux", (7, 5), has_flash_attention=True)
LENGTHS = (24, 20, 20, 9, 9, 9, 4, 1)


@pytest.fixture(autouse=True)
def _on_cpu() -> Iterator[None]:
    """A fresh compiler, with the GPU's operators."""
    spec = importlib.util.spec_from_file_location("attention_on_cpu", Path(__file__).with_name("attention_on_cpu.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.compiler.reset()
    counters.clear()
    with module.gpu_attention_on_cpu(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler warns of what it does itself
        yield
    torch.compiler.reset()


def graphs() -> int:
    """How many were compiled."""
    return counters["stats"].get("unique_graphs", 0)


def new_model(shape: GPT2Config = SHAPE, dtype: torch.dtype = torch.bfloat16, dropout: float = 0.0) -> GPT2:
    """Random weights, in training mode."""
    model = GPT2(shape, dropout=dropout)
    model.initialize(torch.Generator().manual_seed(0))
    model.compute_dtype = dtype
    return model.train()


def pair(
    shape: GPT2Config = SHAPE, dtype: torch.dtype = torch.bfloat16, *, fullgraph: bool = False
) -> tuple[GPT2, GPT2]:
    """The same model as it is written and compiled."""
    eager, other = new_model(shape, dtype), new_model(shape, dtype)
    apply_compile(other, fullgraph=fullgraph, backend="aot_eager")
    return eager, other


def batch_of(lengths: tuple[int, ...] = LENGTHS, longest: int = 64) -> Batch:
    """Random tokens of documents of these lengths, each predicting."""
    offsets = (0, *np.cumsum(lengths).tolist())
    tokens = np.random.default_rng(sum(lengths)).integers(0, 300, offsets[-1] + 1)
    positions = np.concatenate([np.arange(length) for length in lengths])
    return Batch(tokens[:-1], positions, offsets, np.arange(offsets[-1]), tokens[1:], longest)


def gradients(model: GPT2, batch: Batch | None = None) -> list[Tensor]:
    """Of all parameters and the loss itself."""
    nats = batch_loss_sum(model, batch or batch_of())
    return [nats.detach(), *torch.autograd.grad(nats, list(model.parameters()))]


def assert_same(model: GPT2, expected: list[Tensor], batch: Batch | None = None) -> None:
    """Loss and every gradient, to the last bit: nothing of the arithmetic is another."""
    for found, right in zip(gradients(model, batch), expected, strict=True):
        assert torch.equal(found, right)


def offload(model: GPT2) -> None:
    """As on a GPU; here nothing is pinned."""
    for block in model.blocks:
        assert isinstance(block.forward, CheckpointedForward)
        block.forward.to_host = True


def on(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """CPU tensors are taken for that device's when attention is chosen."""
    monkeypatch.setattr(attention, "detect_device", lambda _device: device)


@pytest.mark.parametrize("what", ACTIVATION_CHECKPOINTING_LEVELS)
def test_flash_attention_in_one_graph(what: ActivationCheckpointing, monkeypatch: pytest.MonkeyPatch) -> None:
    """With every recomputation twelve layers are one graph, attention included, and equal the model as written."""
    on(AMPERE, monkeypatch)
    eager, other = pair(fullgraph=True)
    expected = gradients(eager)
    assert graphs() == 0
    apply_activation_checkpointing(other, what)
    if what == "offload":
        offload(other)
    assert_same(other, expected)
    assert graphs() == 1


@pytest.mark.parametrize(
    ("device", "dtype", "upcast", "what"),
    [
        (AMPERE, torch.float32, False, "none"),
        (AMPERE, torch.bfloat16, True, "selective"),
        (AMPERE, torch.bfloat16, True, "full"),
        (TURING, torch.float16, False, "offload"),
        (Device("cpu", "linux"), torch.float32, False, "selective"),
    ],
    ids=["Ampere fp32", "Ampere upcast light", "Ampere upcast blocks", "Turing fp16 offload", "CPU light"],
)
def test_other_attention_is_left_out(
    device: Device, dtype: torch.dtype, *, upcast: bool, what: ActivationCheckpointing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where attention depends on lengths, layouts change and nothing is compiled again; the numbers are the same."""
    on(device, monkeypatch)
    eager, other = pair(replace(SHAPE, n_layer=3, reorder_and_upcast_attn=upcast), dtype)
    apply_activation_checkpointing(other, what)
    if what == "offload":
        offload(other)
    assert_same(other, gradients(eager))
    after_one = graphs()
    assert 0 < after_one <= 4
    for lengths in ((30, 30, 30, 6), (96 - 64, 32, 8, 8, 8, 8), (2,) * 48, (64, 31, 1)):
        assert_same(other, gradients(eager, batch_of(lengths)), batch_of(lengths))
    assert graphs() == after_one


@pytest.mark.parametrize("upcast", [True, False])
def test_layers_with_their_own_scale_share_their_code(*, upcast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve inverse-layer scales take no more graphs than one scale."""
    on(AMPERE, monkeypatch)
    scaled = replace(SHAPE, scale_attn_by_inverse_layer_idx=True, reorder_and_upcast_attn=upcast)
    eager, other = pair(scaled)
    assert_same(other, gradients(eager))
    assert 0 < graphs() <= 4


def split_of(lengths: np.ndarray[Any, Any]) -> Split:
    """Random samples of these lengths."""
    starts = 1 + np.cumsum(lengths) - lengths
    tokens = np.random.default_rng(3).integers(0, 300, size=lengths.sum() + 1).astype(np.uint16)
    none = np.zeros_like(starts)
    return Split(tokens, TokenSpans(starts, lengths, none, none), text_bytes=1)


@pytest.mark.parametrize("kind", ["full windows", "short", "mixed"])
def test_pieces_take_few_graphs(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In whole, half and quarter micro-batches of several steps: at most four graphs."""
    on(AMPERE, monkeypatch)
    model = new_model(replace(SHAPE, n_layer=2))
    apply_compile(model, fullgraph=True, backend="eager")
    random = np.random.default_rng(5)
    lengths = {
        "full windows": np.full(60, 64),
        "short": random.integers(2, 20, 400),
        "mixed": np.minimum(random.geometric(1 / 20, 200) + 1, 64),
    }[kind]
    tokens, split = 512, split_of(lengths)
    steps = -(-int(lengths.sum()) // round_up_tokens(tokens)) + 1
    shape = EpochLayout(steps_per_epoch=steps, per_step=1, tokens=tokens)
    order = TrainBatchSampler(split, context_length=64, layout=shape, constant_size=True, seed=1)
    for pieces in (1, 2, 4):
        for step in range(3):
            for batch in order.batches(step, pieces):
                gradients(model, batch)
    assert 3 <= graphs() <= 4


def test_recomputing_more_compiles_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """After memory ran out whole blocks are computed again, then offloaded: with the code that is there."""
    on(AMPERE, monkeypatch)
    eager, other = pair(replace(SHAPE, n_layer=3), fullgraph=True)
    expected = gradients(eager)
    apply_activation_checkpointing(other, "selective")
    assert_same(other, expected)
    before = graphs()
    for what in ("full", "offload"):
        apply_activation_checkpointing(other, what)
        if what == "offload":
            offload(other)
        assert_same(other, expected)
    assert graphs() == before


def test_the_search_for_bad_samples_compiles_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Halves of halves have other sizes each; the sample is found by the model as it is written."""
    on(AMPERE, monkeypatch)
    model = new_model(replace(SHAPE, n_layer=2))
    apply_compile(model, fullgraph=True, backend="aot_eager")
    apply_activation_checkpointing(model, "full")
    gradients(model)
    before = graphs()
    with torch.no_grad():
        model.transformer.wpe.weight[40] = float("inf")  # which one document only is long enough to have

    def some(windows: Any) -> Batch:
        return batch_of(tuple(41 if window == 5 else 5 + int(window) for window in windows))

    assert list(find_nonfinite_windows(model, np.arange(12), some)) == [5]
    assert graphs() == before


def test_calibration_compiles_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its short steps have sizes that no step of training has."""
    on(AMPERE, monkeypatch)
    model = new_model(replace(SHAPE, n_layer=2))
    apply_compile(model, backend="aot_eager")
    plan = STATE_FORMATS["fp32"]
    optimizer = make_optimizer(model, weight_decay=0.0, plan=plan)
    demand = StepSpec(model.config, plan, "none", tokens=64, micro_batches=1, number_bytes=2, device="cpu")
    calibrate(model, optimizer, demand)
    assert graphs() == 0


def test_more_sizes_than_torch_allows_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve numbers of tokens are twelve graphs, beyond torch's own limit of eight; the limit is what it was after."""
    on(AMPERE, monkeypatch)
    model = new_model(replace(SHAPE, n_layer=1))
    apply_compile(model, backend="eager")
    before = torch._dynamo.config.recompile_limit
    for n_documents in range(1, 13):
        gradients(model, batch_of((8,) * n_documents))
    assert graphs() == 12
    assert torch._dynamo.config.recompile_limit == before
    assert not compilation_failure(model)


def broken(_graph: Any, _inputs: Any) -> Callable[..., Any]:
    """A compiler that does not work."""
    raise RuntimeError("Failed to find C compiler")


def test_a_compiler_that_fails_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The step is made as the model is written, and it is known why; in a test, with fullgraph, it is an error."""
    on(AMPERE, monkeypatch)
    shape = replace(SHAPE, n_layer=2)
    eager, other = new_model(shape), new_model(shape)
    apply_compile(other, backend=broken)
    assert compilation_failure(other) == ""
    apply_activation_checkpointing(other, "full")
    assert_same(other, gradients(eager))
    assert "Failed to find C compiler" in compilation_failure(other)
    assert_same(other, gradients(eager))
    strict = new_model(shape)
    apply_compile(strict, fullgraph=True, backend=broken)
    with pytest.raises(Exception, match="Failed to find C compiler"):
        gradients(strict)


def test_memory_that_runs_out_while_compiling_is_no_failure_of_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is for those who know what to do about memory."""
    on(AMPERE, monkeypatch)

    def full(_graph: Any, _inputs: Any) -> Callable[..., Any]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    model = new_model(replace(SHAPE, n_layer=1))
    apply_compile(model, backend=full)
    with pytest.raises(Exception, match="out of memory"):
        gradients(model)
    assert not compilation_failure(model)


def test_uncompiled_is_of_one_model_and_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """While one thread runs a model as written, another thread and another model run compiled; it may be nested."""
    on(AMPERE, monkeypatch)
    shape = replace(SHAPE, n_layer=1)
    one, other = new_model(shape), new_model(shape)
    for model in (one, other):
        apply_compile(model, backend="aot_eager")
    used: dict[str, bool] = {}

    def sees_compiled(model: GPT2) -> bool:
        forward = model.blocks[0].forward
        assert isinstance(forward, CompiledForward)
        return forward.bind().func is not Block.forward  # type: ignore[attr-defined]

    with eager_mode(one):
        with eager_mode(one):
            assert not sees_compiled(one)
        assert not sees_compiled(one)
        assert sees_compiled(other)
        thread = threading.Thread(target=lambda: used.update(there=sees_compiled(one)))
        thread.start()
        thread.join()
        gradients(one)
        assert graphs() == 0
    assert used == {"there": True}
    assert sees_compiled(one)
    with pytest.raises(ZeroDivisionError), eager_mode(one):
        _ = 1 / 0
    assert sees_compiled(one)
    gradients(one)
    assert graphs() == 1


def test_what_is_computed_again_is_what_was_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backward pass in another thread (as a GPU's is), or after the pause, uses the code of the forward pass."""
    on(AMPERE, monkeypatch)
    eager, other = pair(replace(SHAPE, n_layer=2), fullgraph=True)
    apply_activation_checkpointing(other, "full")
    with eager_mode(other):
        nats = batch_loss_sum(other, batch_of())
    found: list[Tensor] = []
    thread = threading.Thread(target=lambda: found.extend(torch.autograd.grad(nats, list(other.parameters()))))
    thread.start()
    thread.join()
    assert graphs() == 0
    for mine, right in zip(found, gradients(eager)[1:], strict=True):
        assert torch.equal(mine, right)


def test_another_dtype_means_another_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """From fp16 to fp32, when fp16 overflows: attention leaves the compiled code, which FlashAttention was part of."""
    on(AMPERE, monkeypatch)
    eager, other = pair(replace(SHAPE, n_layer=2), torch.float16)
    assert attention.attention_backend(other).value == "flash_varlen"
    assert_same(other, gradients(eager))
    for model in (eager, other):
        set_compute_dtype(model, torch.float32)
    assert is_compiled(other)
    assert not is_compiled(eager)
    assert attention.attention_backend(other).value == "efficient_varlen"
    assert_same(other, gradients(eager))
    before = graphs()
    for lengths in ((30, 30, 30, 6), (2,) * 48, (64, 31, 1)):
        assert_same(other, gradients(eager, batch_of(lengths)), batch_of(lengths))
    assert graphs() == before


def test_a_copy_of_a_compiled_model_is_compiled_by_itself() -> None:
    """It shares neither pauses nor failures with what it was copied from."""
    import copy

    model = new_model(replace(SHAPE, n_layer=1))
    apply_compile(model, backend="aot_eager")
    other = copy.deepcopy(model)
    assert is_compiled(other)
    assert compile_module._compiled(other) is not compile_module._compiled(model)


def test_a_run_whose_compiler_fails_goes_on_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said once, in the step where it happened; the run folder keeps it, and the run comes to its end."""
    text = tmp_path / "log.txt"
    text.write_text("".join(f"Night {number}. Wind {number % 7}.\n" for number in range(60)), encoding="utf-8")
    monkeypatch.setattr("tunesmith.training.setup.apply_compile", partial(apply_compile, backend=broken))
    config = TrainConfig(
        model="tiny", sources=[str(text)], out=str(tmp_path / "out"), max_steps=2, compile="yes", precision="fp32"
    )
    events = list(train_events(config, stop=lambda: False, has_integrations=False))
    (failed,) = [event for event in events if isinstance(event, CompilationFailed)]
    assert (failed.step, "Failed to find C compiler" in failed.reason) == (1, True)
    assert "continues uncompiled" in notices_of(failed)[0]
    assert isinstance(events[-1], RunEnded)
    assert events[-1].result.steps == 2
    kept = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert [line["kind"] for line in kept].count("compilation_failed") == 1
