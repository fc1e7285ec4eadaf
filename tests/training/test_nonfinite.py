"""NaN anywhere is seen at its step, nothing is learned from it, and the run ends where it would have ended."""

import json
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

import tunesmith
from tunesmith.evaluation.perplexity import evaluate_split
from tunesmith.model.attention import forward_packed
from tunesmith.training.anomalies import detect_loss_spike
from tunesmith.training.checkpoint import verify_checksums
from tunesmith.training.checkpointer import BestModelWriter
from tunesmith.training.events import (
    CheckpointDamaged,
    CheckpointSaved,
    Evaluated,
    Event,
    LastModelPublished,
    LossSpiked,
    NonFiniteDetected,
    StepLogged,
    TrainResult,
)
from tunesmith.training.train_step import train_step
from tunesmith.ui import progress
from tunesmith.ui.progress import notices_of

POISON = "zzz qqq"


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Eighty different lines, one of them the poisoned one, and blank lines that count as lines."""
    path = tmp_path / "log.txt"
    lines = [f"night {number} the wind is in the north and lamp {number * 7} burns\n" for number in range(80)]
    lines[41] = f"{POISON} is the sample that does it\n"
    path.write_text("\n\n" + "".join(lines), encoding="utf-8")
    return path


@pytest.fixture
def train(
    text: Path, make_model_folder: Callable[..., Path], tmp_path: Path
) -> Callable[..., tuple[TrainResult, list[Event]]]:
    """A function that trains 24 steps and returns the result and the events."""
    model = make_model_folder()

    def run(name: str, **options: Any) -> tuple[TrainResult, list[Event]]:
        events: list[Event] = []
        settings = {"epochs": 3.0, "tokens_per_step": 256, "device": "cpu", "precision": "fp32", "split_on": "line"}
        settings |= {"learning_rate": 1e-3, "save_steps": 4, "val_fraction": 0.05, "on_event": events.append}
        result = tunesmith.train(text, model=model, out=tmp_path / name, **{**settings, **options})
        return result, events

    return run


def troubles(events: list[Event]) -> list[NonFiniteDetected]:
    """What was said about numbers gone bad."""
    return [event for event in events if isinstance(event, NonFiniteDetected)]


def weights(out: Path) -> bytes:
    """The best model's."""
    return (out / "model.safetensors").read_bytes()


def losses(out: Path) -> list[tuple[int, float]]:
    """Of every step that was logged."""
    lines = map(json.loads, (out / "metrics.jsonl").read_text("utf-8").splitlines())
    return [(line["step"], line["train_loss"]) for line in lines if line["kind"] == "step"]


def test_a_poisoned_sample_is_named_and_left_out(
    train: Callable[..., tuple[TrainResult, list[Event]]], text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file and line are said at the step it first comes in; the loss in the end is within 1 % of the usual one."""
    usual, _ = train("usual")
    encoded = tunesmith_tokenizer(tmp_path).encode([POISON])[0]
    poisoned_steps = []

    def poisoned(model: Any, tokens_N: Any, *others: Any) -> Tensor:
        hidden_NC = forward_packed(model, tokens_N, *others)
        tokens = tokens_N.tolist()
        if model.training and any(tokens[at : at + len(encoded)] == encoded for at in range(len(tokens))):
            poisoned_steps.append(len(tokens))
            return hidden_NC * float("nan")
        return hidden_NC

    monkeypatch.setattr("tunesmith.training.train_step.forward_packed", poisoned)
    result, events = train("poisoned")
    assert poisoned_steps
    (trouble,) = troubles(events)
    line = text.read_text("utf-8").splitlines().index(f"{POISON} is the sample that does it") + 1
    assert line == 44
    assert len(trouble.samples) == 1
    assert str(trouble.samples[0]).startswith(f"log.txt, line {line}: '{POISON}")
    before = [event.step for event in events[: events.index(trouble)] if isinstance(event, StepLogged)]
    assert trouble.step == max(before, default=0) + 1
    assert result.steps == usual.steps
    assert [step for step, _ in losses(tmp_path / "poisoned")] == list(range(1, usual.steps + 1))
    assert usual.perplexity is not None
    assert result.perplexity == pytest.approx(usual.perplexity, rel=0.01)
    kept = [json.loads(line) for line in (tmp_path / "poisoned" / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert [line["samples"] for line in kept if line["kind"] == "nonfinite"] == [[str(trouble.samples[0])]]


def tunesmith_tokenizer(tmp_path: Path) -> Any:
    """The small model's own."""
    from tunesmith.data.tokenizer import load_tokenizer
    from tunesmith.model.hf_config import read_hf_config

    return load_tokenizer(tmp_path / "model", read_hf_config(tmp_path / "model"))


def damaged_once(monkeypatch: pytest.MonkeyPatch, at_call: int, damage: Callable[[Any], None]) -> None:
    """Do something to the model before a certain step is made."""
    calls = 0

    def step(model: Any, *others: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at_call:
            damage(model)
        return train_step(model, *others, **options)

    monkeypatch.setattr("tunesmith.training.trainer.train_step", step)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("at_call", [2, 9, 13])
def test_weights_gone_bad_come_back_from_the_last_good_state(
    at_call: int,
    bad: float,
    train: Callable[..., tuple[TrainResult, list[Event]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Seen in the step they are used in; back to the checkpoint, or the beginning; the end is bitwise the usual one."""
    train("usual")
    damaged_once(monkeypatch, at_call, lambda model: model.transformer.h[0].mlp.c_fc.weight.data[3].fill_(bad))
    _, events = train("damaged")
    (trouble,) = troubles(events)
    assert (trouble.step, trouble.what) == (at_call, "weights")
    assert f"after step {(at_call - 1) // 4 * 4}" in str(trouble.action)
    assert weights(tmp_path / "damaged") == weights(tmp_path / "usual")
    assert losses(tmp_path / "damaged") == losses(tmp_path / "usual")


@pytest.mark.parametrize(
    ("memory_mode", "fused_backward"),
    [("split-8bit", "no"), ("split-8bit", "yes"), ("bf16-8bit", "no"), ("cpu-offload", "no")],
)
def test_every_way_of_keeping_weights_comes_back(
    memory_mode: str,
    fused_backward: str,
    train: Callable[..., tuple[TrainResult, list[Event]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Halved weights, compressed moments, masters on the host: the end is bitwise the usual one."""
    flags = {"memory_mode": memory_mode, "fused_backward": fused_backward, "precision": "bf16"}
    train("usual", **flags)
    damaged_once(monkeypatch, 9, lambda model: model.transformer.h[0].mlp.c_fc.weight.data[3].fill_(float("nan")))
    _, events = train("damaged", **flags)
    assert troubles(events)
    assert weights(tmp_path / "damaged") == weights(tmp_path / "usual")
    assert losses(tmp_path / "damaged") == losses(tmp_path / "usual")


def test_a_gradient_gone_bad_once_is_made_again(
    train: Callable[..., tuple[TrainResult, list[Event]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault that does not repeat changes nothing: the end is bitwise the usual one."""
    train("usual")

    def damage(model: Any) -> None:
        def once(gradient: Tensor) -> Tensor:
            hook.remove()
            return gradient * float("nan")

        hook = model.transformer.ln_f.bias.register_hook(once)

    damaged_once(monkeypatch, 6, damage)
    _, events = train("damaged")
    (trouble,) = troubles(events)
    assert (trouble.step, trouble.what, trouble.samples) == (6, "gradient", [])
    assert weights(tmp_path / "damaged") == weights(tmp_path / "usual")
    assert losses(tmp_path / "damaged") == losses(tmp_path / "usual")


def test_bad_weights_are_never_saved(
    train: Callable[..., tuple[TrainResult, list[Event]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights that go bad behind a step whose checkpoint is due do not replace a good checkpoint."""
    train("usual")
    calls = 0

    def step(model: Any, *others: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        result = train_step(model, *others, **options)
        if calls == 8:
            model.transformer.wpe.weight.data[0] = float("nan")
        return result

    monkeypatch.setattr("tunesmith.training.trainer.train_step", step)
    _, events = train("damaged")
    assert "after step 4" in str(troubles(events)[0].action)
    assert weights(tmp_path / "damaged") == weights(tmp_path / "usual")


def test_a_step_that_always_fails_is_passed_over(
    train: Callable[..., tuple[TrainResult, list[Event]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where going back leads to the same again, the samples that lead there are left out, and named."""
    seen: list[list[int]] = []

    def spoils_the_weights(model: Any, optimizer: Any, micro_batches: Any, **options: Any) -> Any:
        result = train_step(model, optimizer, micro_batches, **options)
        tokens = micro_batches[0].tokens.tolist()
        seen.append(tokens)
        if len(seen) >= 7 and tokens == seen[6]:
            model.transformer.wpe.weight.data[0] = float("nan")
        return result

    monkeypatch.setattr("tunesmith.training.trainer.train_step", spoils_the_weights)
    result, events = train("spoilt")
    first, second = troubles(events)
    assert (first.step, second.step) == (8, 8)
    assert str(first.action) == "back to the last good state, after step 4"
    assert str(second.action).startswith("back to the last good state, after step 4, and past the ")
    assert str(second.samples[0]).startswith("log.txt, line ")
    made = [event.step for event in events if isinstance(event, StepLogged)]
    assert made[-1] == result.steps
    assert not {7, 8} & set(made[made.index(9) :])


def test_what_is_published_after_a_rollback_is_what_was_measured(
    train: Callable[..., tuple[TrainResult, list[Event]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that is reached again with other weights is published with those, not with a copy of the first time."""
    measured: list[Tensor] = []
    published: list[tuple[int, Tensor]] = []
    calls = 0

    def better_each_time(model: Any, *others: Any, **options: Any) -> Any:
        measured.append(model.transformer.wpe.weight.detach().clone())
        found = evaluate_split(model, *others, **options)
        return replace(found, sample_nats=found.sample_nats / 2 ** len(measured))

    def publish(_self: BestModelWriter, model: Any, progress: Any) -> None:
        published.append((progress.step, model.weights["transformer.wpe.weight"].clone()))

    def step(model: Any, *others: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls in {3, 6}:  # the third step, twice: the second time its samples and those before are left out
            model.transformer.ln_f.weight.data.fill_(float("nan"))
        return train_step(model, *others, **options)

    monkeypatch.setattr("tunesmith.training.trainer.evaluate_split", better_each_time)
    monkeypatch.setattr(BestModelWriter, "publish", publish)
    monkeypatch.setattr("tunesmith.training.trainer.Trainer._restore_best", lambda _self: None)
    monkeypatch.setattr("tunesmith.training.trainer.train_step", step)
    _, events = train("again", eval_steps=2, save_steps=100, max_steps=3)
    assert len(troubles(events)) == 2
    assert [step for step, _ in published] == [2, 2, 2, 3]
    first, _, third, _ = (weights for _, weights in published)
    assert not first.equal(third)
    for before, (_, weights) in zip(measured[1:], published, strict=True):
        assert weights.equal(before)


def test_a_damaged_checkpoint_is_set_aside_when_the_run_goes_back(
    train: Callable[..., tuple[TrainResult, list[Event]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is named, an older one is taken, and its step is saved again, undamaged; the end is bitwise the usual one."""
    train("usual")
    newest = tmp_path / "damaged" / "checkpoints" / "step-00000008"

    def damage(model: Any) -> None:
        model.transformer.ln_f.weight.data.fill_(float("nan"))
        while not newest.is_dir():  # it is written beside training
            time.sleep(0.01)
        (newest / "optimizer.safetensors").write_bytes(b"no optimizer")

    damaged_once(monkeypatch, 10, damage)
    checked: list[int] = []

    def hear(event: Event) -> None:
        events.append(event)
        if isinstance(event, CheckpointDamaged):
            places.append((newest.exists(), newest.with_name(newest.name + ".damaged").exists()))
        if isinstance(event, CheckpointSaved) and any(isinstance(before, CheckpointDamaged) for before in events):
            verify_checksums(event.folder)
            checked.append(event.step)

    events: list[Event] = []
    places: list[tuple[bool, bool]] = []
    train("damaged", on_event=hear)
    assert places == [(False, True)]
    (named,) = (event for event in events if isinstance(event, CheckpointDamaged))
    assert (named.step, named.folder) == (8, newest)
    assert "optimizer.safetensors" in named.reason
    assert "after step 4" in str(troubles(events)[0].action)
    assert 8 in checked
    assert weights(tmp_path / "damaged") == weights(tmp_path / "usual")


@pytest.mark.parametrize("missing", ["state.json", "checksums.json", "model.safetensors"])
def test_a_checkpoint_that_lacks_a_file_is_made_again(
    missing: str, train: Callable[..., tuple[TrainResult, list[Event]]], tmp_path: Path
) -> None:
    """Where the same step is saved again, what is reported as saved is whole, whatever stood there before."""
    train("run", max_steps=8)
    newest = tmp_path / "run" / "checkpoints" / "step-00000008"
    (newest / missing).unlink()
    events: list[Event] = []
    tunesmith.train(resume=True, out=tmp_path / "run", max_steps=10, on_event=events.append)
    assert 8 in [event.step for event in events if isinstance(event, CheckpointSaved)]
    verify_checksums(newest)
    assert (newest / "state.json").is_file()


def test_a_spike_is_told_from_wobbling() -> None:
    """Ten losses are needed to know what is usual; then one far above it stands out, and is not averaged away."""
    recent: list[float] = []
    wobbling = [3.0, 3.1, 2.9, 3.05, 2.95, 3.0, 3.1, 2.9, 3.0, 3.0, 3.2, 2.8]
    assert [detect_loss_spike(loss, recent) for loss in wobbling] == [None] * len(wobbling)
    assert detect_loss_spike(9.0, recent) == pytest.approx(sum(wobbling) / len(wobbling))
    assert recent[-1] == 9.0
    for _ in range(100):
        detect_loss_spike(3.0, recent)
    assert len(recent) == 50


def test_a_spike_is_an_event(
    train: Callable[..., tuple[TrainResult, list[Event]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step whose loss jumps is named with the usual loss; the run goes on."""
    damaged_once(monkeypatch, 15, lambda model: model.transformer.ln_f.weight.data.mul_(60))
    result, events = train("spiked")
    spiked = [event for event in events if isinstance(event, LossSpiked)]
    assert spiked[0].step == 15
    assert spiked[0].train_loss > spiked[0].usual_loss + 0.5
    assert not result.interrupted


def test_without_a_finite_evaluation_the_last_model_is_published(
    train: Callable[..., tuple[TrainResult, list[Event]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model whose perplexity is too large for a float is still a model: it is saved, and a warning says so."""
    calls = 0

    def infinite(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        measured = evaluate_split(*arguments, **options)
        return measured if calls == 1 else replace(measured, sample_nats=measured.sample_nats * 1e4)

    monkeypatch.setattr("tunesmith.training.trainer.evaluate_split", infinite)
    result, events = train("infinite", max_steps=6, eval_steps=3, save_steps=3)
    out = tmp_path / "infinite"
    assert [event.is_best for event in events if isinstance(event, Evaluated)] == [False] * 3
    assert [event.step for event in events if isinstance(event, LastModelPublished)] == [6]
    assert (result.perplexity, result.best_step) == (math.inf, 6)
    checkpoint = out / "checkpoints" / "step-00000006"
    assert (checkpoint / "model.safetensors").read_bytes() == weights(out)
    assert json.loads((checkpoint / "state.json").read_text("utf-8"))["progress"]["best_step"] == 6
    (warning,) = notices_of(LastModelPublished(6))
    assert "the model of the last step is saved" in warning
    assert "inf after" in progress.summary(result, [])
    assert tunesmith.train(resume=True, out=out, max_steps=8).steps == 8
