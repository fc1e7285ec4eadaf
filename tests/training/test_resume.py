"""A run that was stopped continues as if it had not been."""

import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tunesmith.config import TrainConfig
from tunesmith.errors import UserError
from tunesmith.run_dir import RunDir
from tunesmith.training.checkpoint import find_checkpoint
from tunesmith.training.events import Event, ResumeVerified, RunEnded, RunStarted, StepLogged, TrainResult
from tunesmith.training.train import train_events


@pytest.fixture(params=[0, 4], ids=["all weights", "adapters"])
def config(request: pytest.FixtureRequest, make_model_folder: Callable[..., Path], tmp_path: Path) -> TrainConfig:
    """Twelve steps over three epochs, with dropout so that random states matter."""
    text = tmp_path / "log.txt"
    text.write_text("".join(f"Night {number}. Wind {number % 7}, lamp steady.\n" for number in range(40)), "utf-8")
    return TrainConfig(
        sources=(str(text),),
        model=str(make_model_folder()),
        out=str(tmp_path / "run"),
        epochs=3.0,
        max_steps=12,
        tokens_per_step=200,
        dropout=0.1,
        lora_r=request.param,
        device="cpu",
        precision="bf16",
    )


def run(config: TrainConfig, *, stop_after: int | None = None) -> TrainResult:
    """Run until the end or until a step; stopping means asking after that step."""
    steps_seen = 0
    events: Iterator[Event] = train_events(config, stop=lambda: steps_seen == stop_after, has_integrations=False)
    for event in events:
        if isinstance(event, StepLogged):
            steps_seen = event.step
        if isinstance(event, RunEnded):
            return event.result
    raise AssertionError("no end")


def metrics(out: str) -> list[dict[str, Any]]:
    """What was logged, without what depends on the clock."""
    timed = ("tokens_per_s", "eta_s", "peak_memory_bytes", "training_s", "data_wait_s", "elapsed_s")
    lines = map(json.loads, (Path(out) / "metrics.jsonl").read_text("utf-8").splitlines())
    untimed = [line for line in lines if line["kind"] != "system"]
    return [{key: value for key, value in line.items() if key not in timed} for line in untimed]


def assert_same_run(one: str, other: str) -> None:
    """Weights, moments, random states and metrics are bitwise the same."""
    for name in ("model", "optimizer", "random"):
        first, second = (
            load_file(Path(out) / "checkpoints" / "step-00000012" / f"{name}.safetensors") for out in (one, other)
        )
        assert first.keys() == second.keys()
        assert all((first[key] == second[key]).all() for key in first), name
    assert metrics(one) == metrics(other)
    best = [(Path(out) / "model.safetensors").read_bytes() for out in (one, other)]
    assert best[0] == best[1]


@pytest.mark.parametrize("stop_after", [1, 3, 5, 11])
def test_stopped_and_resumed_equals_unbroken(stop_after: int, config: TrainConfig) -> None:
    """Stopped in the middle of an epoch or at its end, a run finishes bitwise like the unbroken one."""
    unbroken = run(replace(config, out=f"{config.out}-unbroken"))
    stopped = run(config, stop_after=stop_after)
    assert stopped.interrupted
    assert stopped.steps == stop_after
    resumed = run(TrainConfig(out=config.out, resume=True))
    assert not resumed.interrupted
    assert (resumed.perplexity, resumed.best_step, resumed.tokens, resumed.base_perplexity) == (
        unbroken.perplexity,
        unbroken.best_step,
        unbroken.tokens,
        unbroken.base_perplexity,
    )
    assert_same_run(config.out, f"{config.out}-unbroken")


def test_a_crash_behind_a_checkpoint_is_forgotten(config: TrainConfig) -> None:
    """Steps after the last checkpoint are made again, and their metrics are not there twice."""
    run(replace(config, out=f"{config.out}-unbroken"))
    events = train_events(replace(config, save_steps=4), stop=lambda: False, has_integrations=False)
    for event in events:
        if isinstance(event, StepLogged) and event.step == 7:
            break  # the generator is dropped here, as a crash would drop it
    events.close()  # type: ignore[attr-defined]
    assert [line["step"] for line in metrics(config.out)][-1] == 7
    run(TrainConfig(out=config.out, resume=True))
    assert_same_run(config.out, f"{config.out}-unbroken")


@pytest.mark.parametrize("source", ["log.txt", "*.txt"])
def test_resume_from_another_folder(
    source: str, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sources that were named relative to the first folder are found again, and are the same text."""
    monkeypatch.chdir(tmp_path)
    run(replace(config, sources=(source,)), stop_after=2)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert run(TrainConfig(out=config.out, resume=True)).steps == 12


def test_what_may_not_change_is_refused_by_name(config: TrainConfig) -> None:
    """Other settings, another text and a finished run are refused; the same flags again are fine."""
    run(config, stop_after=3)
    with pytest.raises(UserError, match=r"--learning-rate was auto and is now 0.1; --seed was 42 and is now 7"):
        run(replace(config, resume=True, learning_rate=0.1, seed=7))
    source = Path(config.sources[0])
    text = source.read_text("utf-8")
    source.write_text(text + "one more line\n", "utf-8")
    with pytest.raises(UserError, match="the text has changed"):
        run(TrainConfig(out=config.out, resume=True))
    source.write_text(text, "utf-8")
    assert run(replace(config, resume=True)).steps == 12
    with pytest.raises(UserError, match="is finished: there is nothing to resume"):
        run(replace(config, resume=True))


def cut_off(path: Path) -> None:
    """Lose the end."""
    path.write_bytes(path.read_bytes()[:-20])


def flip_a_bit(path: Path) -> None:
    """Change one bit in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


FILES = [
    "state.json",
    "optimizer.safetensors",
    "random.safetensors",
    "model.safetensors",
    "config.json",
    "checksums.json",
]
FILES += ["tokenizer.json", "tokenizer_config.json"]


DAMAGES = (cut_off, flip_a_bit, Path.unlink)


def test_damage_of_any_kind_in_any_file_is_recognized_and_named(config: TrainConfig, tmp_path: Path) -> None:
    """Whatever happened to whichever file, the checkpoint before it is taken."""
    run(replace(config, save_steps=3), stop_after=7)
    saved = Path(config.out) / "checkpoints"
    files = [path.relative_to(saved) for path in sorted((saved / "step-00000007").rglob("*")) if path.is_file()]
    assert {*FILES} <= {path.name for path in files}
    for number, (file, damage) in enumerate(itertools.product(files, DAMAGES)):
        copied = tmp_path / f"copy-{number}" / "checkpoints"
        shutil.copytree(saved, copied)
        damage(copied / file)
        found = find_checkpoint(RunDir(copied.parent).checkpoints())
        assert found.folder == copied / "step-00000006"
        if (damage, file.name) != (Path.unlink, "state.json"):  # without it the folder is a plain model
            assert file.name in found.damaged[copied / "step-00000007"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_after_damage_the_run_ends_as_if_unbroken(damage: Callable[[Path], None], config: TrainConfig) -> None:
    """The steps since the checkpoint before are made again, and saved in place of the damaged one."""
    run(replace(config, out=f"{config.out}-unbroken"))
    run(replace(config, save_steps=3), stop_after=7)
    damaged = Path(config.out) / "checkpoints" / "step-00000007"
    damage(damaged / "optimizer.safetensors")
    events = train_events(TrainConfig(out=config.out, resume=True), stop=lambda: False, has_integrations=False)
    planned = next(events)
    assert isinstance(planned, RunStarted)
    assert planned.resumed_at_step == 6
    assert str(damaged) in planned.notices[0]
    assert [event.result.steps for event in events if isinstance(event, RunEnded)] == [12]
    assert_same_run(config.out, f"{config.out}-unbroken")
    assert len(list((Path(config.out) / "checkpoints").glob("[!.]*"))) == 2


def test_only_damaged_checkpoints_are_an_error_that_names_them(config: TrainConfig) -> None:
    """Nothing is learned from damaged bytes, and nothing is deleted."""
    run(config, stop_after=3)
    for step in ("step-00000000", "step-00000003"):
        flip_a_bit(Path(config.out) / "checkpoints" / step / "model.safetensors")
    for _ in range(2):
        with pytest.raises(UserError, match=r"step-00000003 cannot be read: model.safetensors is not what was written"):
            run(TrainConfig(out=config.out, resume=True))
    shutil.rmtree(Path(config.out) / "checkpoints")
    assert run(TrainConfig(out=config.out, resume=True)).steps == 12


@pytest.mark.parametrize("stop_after", [5, None])
def test_more_epochs_and_other_intervals_are_accepted(stop_after: int | None, config: TrainConfig) -> None:
    """An unfinished run and a finished one go on to a new end, and keep it when they are resumed once more."""
    run(config, stop_after=stop_after)
    longer = TrainConfig(out=config.out, resume=True, epochs=3.5, eval_steps=2, save_steps=7)
    assert run(longer, stop_after=13).steps == 13
    assert run(TrainConfig(out=config.out, resume=True)).steps == 14
    steps = [line["step"] for line in metrics(config.out) if line["kind"] == "step"]
    assert steps == list(range(1, 15))
    evaluated = [line["step"] for line in metrics(config.out) if line["kind"] == "eval"]
    assert evaluated[-2:] == [12, 14]
    rates = [line["learning_rate"] for line in metrics(config.out) if line["kind"] == "step"]
    assert rates[13] == pytest.approx(rates[12] / 2)  # falls to 0 behind step 14


def test_fewer_steps_than_made_are_refused(config: TrainConfig) -> None:
    """A run cannot end before the step it is at."""
    run(config, stop_after=5)
    with pytest.raises(UserError, match="has made 5 steps already, and 4 are asked for"):
        run(TrainConfig(out=config.out, resume=True, max_steps=4))


def test_a_changed_base_model_is_refused(config: TrainConfig) -> None:
    """Adapters belong to the weights they were learned on; where those are in the checkpoint, nobody needs the base."""
    run(config, stop_after=3)
    flip_a_bit(Path(config.model) / "model.safetensors")
    if config.lora_r:
        with pytest.raises(UserError, match=r"the model in .* has changed since"):
            run(TrainConfig(out=config.out, resume=True))
    else:
        assert run(TrainConfig(out=config.out, resume=True)).steps == 12


def test_resuming_is_verified_on_the_run_itself(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal on this device; where a checkpoint brings back something else, it is said what and by how much."""

    def verified(out: str) -> ResumeVerified:
        events = list(
            train_events(
                replace(config, out=out, verify_resume=True, max_steps=2), stop=lambda: False, has_integrations=False
            )
        )
        return next(event for event in events if isinstance(event, ResumeVerified))

    assert verified(config.out) == ResumeVerified(4, 2, {})
    assert not list(Path(config.out).parent.glob(".*verify*"))
    monkeypatch.setattr("tunesmith.training.rng.RNGState.restore", lambda _chance, _states: None)
    differing = verified(f"{config.out}-2").differing
    assert differing["random.safetensors"] > 0
    assert differing["optimizer.safetensors"] > 0  # dropout draws other numbers


def test_two_runs_cannot_write_one_folder(config: TrainConfig) -> None:
    """While a run goes on, another one is refused, with the process that holds the folder; afterwards it may go on."""
    first = train_events(replace(config, save_steps=1), stop=lambda: False, has_integrations=False)
    next(event for event in first if isinstance(event, StepLogged) and event.step == 5)
    with pytest.raises(UserError, match=rf"another process \(number {os.getpid()}\) is training in"):
        run(TrainConfig(out=config.out, resume=True))
    with pytest.raises(UserError, match="already contains an unfinished run"):
        run(config)
    first.close()  # type: ignore[attr-defined]
    assert run(TrainConfig(out=config.out, resume=True)).steps == 12


def test_a_run_stopped_before_its_first_checkpoint_starts_again(config: TrainConfig) -> None:
    """Without a checkpoint a resumed run begins at the beginning, in the same folder."""
    events = train_events(config, stop=lambda: False, has_integrations=False)
    next(events)
    events.close()  # type: ignore[attr-defined]
    assert json.loads((Path(config.out) / "run.json").read_text("utf-8"))["result"] == {"status": "running"}
    assert run(TrainConfig(out=config.out, resume=True)).steps == 12
