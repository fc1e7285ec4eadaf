"""Memory may run out anywhere: nothing is lost, and the update is the same."""

import gc
import json
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import tunesmith
from tunesmith.data.dataloader import TrainBatchSampler
from tunesmith.errors import UserError
from tunesmith.model.activation_checkpointing import CheckpointedForward
from tunesmith.model.attention import forward_packed
from tunesmith.model.loss import fused_linear_cross_entropy
from tunesmith.optim.low_bit_adamw import LowBitAdamW
from tunesmith.utils.oom import in_pieces, is_out_of_memory

NO_MEMORY = "CUDA out of memory. Tried to allocate 1.00 GiB."
LIMIT_TOKENS = 128


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Sixty lines of different lengths."""
    path = tmp_path / "text.txt"
    path.write_text(
        "".join(f"night {number} {'of wind ' * (number % 7)}and lamp\n" for number in range(60)), encoding="utf-8"
    )
    return path


@pytest.fixture
def train(text: Path, make_model_folder: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """A function that trains a few steps of several windows each in fp32 and returns the run's folder."""
    model = make_model_folder()

    def run(name: str, **options: Any) -> Path:
        out = tmp_path / name
        settings = {"epochs": 2.0, "tokens_per_step": 512, "device": "cpu", "precision": "fp32", "learning_rate": 1e-3}
        tunesmith.train(text, model=model, out=out, split_on="line", **{**settings, **options})
        return out

    return run


def fail_in_forward(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    """Too many tokens for the model."""

    def limited(model: Any, tokens_N: Any, *others: Any) -> torch.Tensor:
        if len(tokens_N) > limit and torch.is_grad_enabled():
            raise torch.OutOfMemoryError(NO_MEMORY)
        return forward_packed(model, tokens_N, *others)

    monkeypatch.setattr("tunesmith.training.train_step.forward_packed", limited)


def fail_in_loss(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    """Too many tokens for the loss, told by another library's error."""

    def limited(hidden_NC: torch.Tensor, *others: Any, **keywords: Any) -> torch.Tensor:
        if len(hidden_NC) > limit:
            raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
        return fused_linear_cross_entropy(hidden_NC, *others, **keywords)

    monkeypatch.setattr("tunesmith.training.train_step.fused_linear_cross_entropy", limited)


def fail_in_backward(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    """Too many tokens for the gradients: some parameters have theirs already."""

    def limited(model: Any, tokens_N: Any, *others: Any) -> torch.Tensor:
        hidden_NC = forward_packed(model, tokens_N, *others)

        def refuse(_gradient: torch.Tensor) -> None:
            if len(tokens_N) > limit:
                raise torch.OutOfMemoryError(NO_MEMORY)

        hidden_NC.register_hook(refuse)
        return hidden_NC

    monkeypatch.setattr("tunesmith.training.train_step.forward_packed", limited)


def fail_before_the_update(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    """All gradients are there, and clipping them asks for too much, twice."""
    del limit
    clip, failures = torch.nn.utils.clip_grad_norm_, iter([True, True])

    def limited(*arguments: Any) -> torch.Tensor:
        if next(failures, False):
            raise torch.OutOfMemoryError(NO_MEMORY)
        return clip(*arguments)

    monkeypatch.setattr("torch.nn.utils.clip_grad_norm_", limited)


FAILURES = [fail_in_forward, fail_in_loss, fail_in_backward, fail_before_the_update]


@pytest.mark.parametrize("fail", FAILURES)
@pytest.mark.parametrize("limit", [LIMIT_TOKENS, 64])
def test_the_weights_are_those_of_an_undisturbed_run(
    fail: Callable[..., None], limit: int, train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever memory runs out: the run ends with the same weights, up to the order of sums, and says it once."""
    expected = load_file(train("undisturbed") / "model.safetensors")
    fail(monkeypatch, limit)
    out = train("disturbed")
    for name, tensor in load_file(out / "model.safetensors").items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=2e-5)
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text("utf-8").splitlines()]
    (told,) = [line for line in metrics if line["kind"] == "out_of_memory"]
    assert told["step"] == 1
    assert told["tokens_per_micro_batch"] <= 256
    assert sum(line["kind"] == "step" for line in metrics) == metrics[-1]["step"]


@pytest.mark.parametrize("memory_mode", ["fp32", "split-8bit"])
def test_where_no_pieces_are_small_enough_more_is_recomputed(
    memory_mode: str, train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows alone do not fit until whole blocks are recomputed: the same weights, told once, kept for a resume."""
    expected = load_file(train("undisturbed", memory_mode=memory_mode, precision="bf16") / "model.safetensors")

    def limited(model: Any, tokens_N: Any, *others: Any) -> torch.Tensor:
        if not isinstance(model.blocks[0].forward, CheckpointedForward) and torch.is_grad_enabled():
            raise torch.OutOfMemoryError(NO_MEMORY)
        return forward_packed(model, tokens_N, *others)

    monkeypatch.setattr("tunesmith.training.train_step.forward_packed", limited)
    out = train("disturbed", memory_mode=memory_mode, precision="bf16")
    for name, tensor in load_file(out / "model.safetensors").items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=5e-3)
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text("utf-8").splitlines()]
    (told,) = [line for line in metrics if line["kind"] == "out_of_memory"]
    assert told["activation_checkpointing"] == "full"
    last = json.loads(max((out / "checkpoints").glob("step-*/state.json")).read_text("utf-8"))
    assert last["progress"]["activation_checkpointing"] == "full"


@pytest.mark.parametrize("fused_backward", ["no", "yes"])
def test_an_update_that_had_begun_is_not_made_twice(
    fused_backward: str, train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Weights that have changed cannot give the same gradients again: such a run ends, resumable."""
    update, calls = LowBitAdamW._update, iter(range(10**6))

    def limited(optimizer: LowBitAdamW, *arguments: Any) -> None:
        update(optimizer, *arguments)
        if next(calls) == 5:
            raise torch.OutOfMemoryError(NO_MEMORY)

    with monkeypatch.context() as broken:
        broken.setattr(LowBitAdamW, "_update", limited)
        with pytest.raises(UserError, match="in the middle of an update") as error:
            train("out", memory_mode="split-8bit", fused_backward=fused_backward, precision="bf16")
    assert "continue from the last checkpoint with resume" in error.value.hint
    assert tunesmith.train(out=tmp_path / "out", resume=True).steps > 0


def test_equal_pieces_are_bitwise_the_same(train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that had to halve its micro-batches is, bit for bit, one that dealt them into halves from the start."""
    with monkeypatch.context() as halves:
        whole = TrainBatchSampler.batches
        halves.setattr(TrainBatchSampler, "batches", lambda order, step, _pieces=1, _left_out=(): whole(order, step, 2))
        first = train("halves")
    plan = json.loads((first / "run.json").read_text("utf-8"))["plan"]
    fail_in_forward(monkeypatch, plan["tokens_per_micro_batch"] - 1)
    second = train("halved")
    assert '"kind": "out_of_memory"' in (second / "metrics.jsonl").read_text("utf-8")
    expected, found = (load_file(out / "model.safetensors") for out in (first, second))
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_evaluation_and_samples_shrink_too(train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured in smaller batches and written one by one, with the same result."""
    undisturbed = train("undisturbed")

    def limited(model: Any, tokens_N: Any, *others: Any) -> torch.Tensor:
        if len(tokens_N) > 64:
            raise torch.OutOfMemoryError(NO_MEMORY)
        return forward_packed(model, tokens_N, *others)

    monkeypatch.setattr("tunesmith.evaluation.perplexity.forward_packed", limited)
    from tunesmith.generation import generate

    engine = generate.Engine

    def one_at_a_time(*arguments: Any, batch_size: int, **settings: Any) -> Any:
        if batch_size > 1:
            raise torch.OutOfMemoryError(NO_MEMORY)
        return engine(*arguments, batch_size=batch_size, **settings)

    monkeypatch.setattr(generate, "Engine", one_at_a_time)
    disturbed = train("disturbed")
    first, second = (json.loads((out / "run.json").read_text("utf-8"))["result"] for out in (undisturbed, disturbed))
    assert second["perplexity"] == pytest.approx(first["perplexity"], rel=1e-5)
    texts = [
        [json.loads(line)["text"] for line in (out / "samples.jsonl").read_text("utf-8").splitlines()]
        for out in (undisturbed, disturbed)
    ]
    assert len(texts[0]) == 9  # before, at the evaluation in the middle, after
    assert texts[0] == texts[1]


def test_when_nothing_fits_the_run_can_be_resumed(
    train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One error with the smallest window, the way on, and a checkpoint; with memory again the run goes to its end."""
    with monkeypatch.context() as broken:
        fail_in_forward(broken, 0)
        with pytest.raises(UserError, match="memory ran out with a window of") as error:
            train("out")
    assert "--resume --out" in error.value.hint
    assert tunesmith.train(out=tmp_path / "out", resume=True).steps > 0


def test_other_errors_pass() -> None:
    """Only memory is retried."""

    def fail(_pieces: int) -> None:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        in_pieces(fail, pieces=1, most=8, what="", hint="")
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(ValueError("out of memory"))


def test_memory_is_free_before_the_next_attempt() -> None:
    """What a failed attempt made is gone when the next one starts, though its traceback held it."""
    made: list[weakref.ref[torch.Tensor]] = []
    alive: list[bool] = []

    def work(pieces: int) -> int:
        alive.extend(reference() is not None for reference in made)
        tensor = torch.zeros(1000)
        made.append(weakref.ref(tensor))
        if pieces < 4:
            raise torch.OutOfMemoryError(NO_MEMORY)
        return len(tensor)

    gc.disable()
    try:
        assert in_pieces(work, pieces=1, most=8, what="", hint="") == (1000, 4)
    finally:
        gc.enable()
    assert alive == [False, False, False]
