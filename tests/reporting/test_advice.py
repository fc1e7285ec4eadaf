"""Advice: each rule on runs that have what it is about, silence on others, and evidence that was measured."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tunesmith
from tunesmith.reporting.advice import advice_for
from tunesmith.reporting.run_reader import read_run

from .conftest import evaluation_line, step_line

Make = Callable[..., Path]


def rules(folder: Path) -> dict[str, str]:
    """What the rules find, with their evidence."""
    return {one.rule: one.evidence for one in advice_for(read_run(folder))}


def falling(steps: int = 400, **more: Any) -> list[dict[str, Any]]:
    """Steps that learn well."""
    return [step_line(step, 3.0 + 3.0 * 0.98**step, **more) for step in range(1, steps + 1)]


def evaluations(*nats: float, every: int = 100) -> list[dict[str, Any]]:
    """The first one before training."""
    return [evaluation_line(number * every, value) for number, value in enumerate(nats)]


GOOD = evaluations(6.0, 3.6, 3.2, 3.05, 3.04)


def test_a_healthy_run_gets_no_warning(healthy: Path) -> None:
    """One piece of good news, with its figures, and nothing else."""
    found = rules(healthy)
    assert list(found) == ["healthy"]
    assert {"6.000", "3.040", "4"} <= set(re.findall(r"[\d.]+\d|\d", found["healthy"]))


def test_overfitting(make_run: Make) -> None:
    """Validation rises while training falls: named with the step and all four losses."""
    lines = [step_line(step, 4.0 - step / 200) for step in range(1, 401)]
    folder = make_run(lines=[*lines, *evaluations(6.0, 3.5, 3.3, 3.4, 3.6)])
    evidence = rules(folder)["overfitting"]
    assert {"200", "3.300", "3.600"} <= set(re.findall(r"[\d.]+\d", evidence))
    then, now = map(float, re.findall(r"from ([\d.]+) to ([\d.]+)\.$", evidence)[0])
    assert then == pytest.approx(4.0 - 200 / 200, abs=0.05)
    assert now == pytest.approx(4.0 - 390 / 200, abs=0.06)


def test_a_rise_alone_is_no_overfitting(make_run: Make) -> None:
    """Where training rises too, something else is wrong; where validation hardly rises, nothing is."""
    rising = [step_line(step, 3.0 + step / 200) for step in range(1, 401)]
    assert "overfitting" not in rules(make_run("both", [*rising, *evaluations(6.0, 3.5, 3.3, 3.4, 3.6)]))
    assert "overfitting" not in rules(make_run("noise", [*falling(), *evaluations(6.0, 3.5, 3.3, 3.2, 3.21)]))


def test_not_better(make_run: Make) -> None:
    """A tuned model worse than its base is a problem, with both losses."""
    found = rules(make_run(lines=[*falling(), *evaluations(3.0, 3.1, 3.2)]))
    assert {"3.000", "3.100"} <= set(re.findall(r"\d\.\d+", found["not-better"]))
    assert "healthy" not in found


@pytest.mark.parametrize("cause", ["spikes", "bad numbers", "gradient", "diverged"])
def test_learning_rate_too_high(make_run: Make, cause: str) -> None:
    """Each sign by itself is enough, and each is counted."""
    lines = falling()
    if cause == "spikes":
        usual = {"kind": "loss_spike", "train_loss": 9.0, "usual_loss": 3.0}
        lines += [{**usual, "step": step} for step in (50, 60, 70)]
    elif cause == "bad numbers":
        lines += [{"kind": "nonfinite", "step": 77, "what": "loss", "samples": [], "action": "skipped"}]
    elif cause == "gradient":
        lines = falling(grad_norm=25.0)
    else:
        lines = [step_line(step, 3.0 + abs(step - 200) / 100) for step in range(1, 401)]
    found = rules(make_run(lines=[*lines, *GOOD]))
    expected = {"spikes": "3", "bad numbers": "77", "gradient": "100%", "diverged": "4."}
    assert expected[cause] in found["learning-rate-too-high"]


def test_samples_that_were_to_blame_are_named(make_run: Make) -> None:
    """They are no sign of a high rate."""
    bad = {"kind": "nonfinite", "step": 77, "what": "loss", "samples": ["a.txt:12: odd"], "action": "left out"}
    found = rules(make_run(lines=[*falling(), *GOOD, bad]))
    assert "a.txt:12: odd" in found["samples-left-out"]
    assert "learning-rate-too-high" not in found


def test_still_falling(make_run: Make) -> None:
    """The last evaluation is much better than the one before, in a finished run only."""
    lines = [*falling(), *evaluations(6.0, 4.0, 3.8, 3.6, 3.4)]
    assert {"3.600", "3.400"} <= set(re.findall(r"\d\.\d+", rules(make_run("done", lines))["still-falling"]))
    assert "still-falling" not in rules(make_run("stopped", lines, status="interrupted"))


def test_few_updates_and_small_validation(make_run: Make) -> None:
    """What the plan says of the run's size."""
    small = {"steps": 12, "val_samples": 4, "val_tokens": 300}
    found = rules(make_run(lines=[*falling(12), *evaluations(6.0, 5.0, every=12)], plan=small))
    assert "12" in found["too-few-updates"]
    assert {"4", "300"} <= set(re.findall(r"\d+", found["validation-too-small"]))


def test_starving_steps(make_run: Make) -> None:
    """A third of the effective batch."""
    lines = [step_line(step, 3.0, tokens=333 * step) for step in range(1, 401)]
    assert {"333", "33%"} <= set(re.findall(r"[\d,]+%?", rules(make_run(lines=[*lines, *GOOD]))["batch-starving"]))


def test_waiting_for_data(make_run: Make) -> None:
    """A third of the time."""
    found = rules(make_run(lines=[*falling(), *GOOD, step_line(401, 3.0, data_wait_s=100.0)]))
    assert {"100", "33%"} <= set(re.findall(r"[\d]+%?", found["waiting-for-data"]))


def test_what_the_card_says(make_run: Make) -> None:
    """Idle and hot, by what was read; nothing of either on a machine without a GPU."""
    reading = {"kind": "system", "cpu_percent": 50.0, "gpu_utilization_percent": 30.0, "gpu_temperature_celsius": 88.0}
    found = rules(make_run(lines=[*falling(), *GOOD, *({**reading, "step": step} for step in range(1, 11))]))
    assert "30" in found["gpu-idle"]
    assert "88" in found["hot"]


def test_more_memory_than_planned(make_run: Make) -> None:
    """Both amounts."""
    found = rules(make_run(lines=[*falling(peak_memory_bytes=3 << 30), *GOOD]))
    assert {"1.0 GiB", "3.0 GiB"} <= set(re.findall(r"[\d.]+ GiB", found["more-memory"]))


@pytest.mark.parametrize("lines", [[], [step_line(1, 4.0)], [evaluation_line(0, 5.0)], [step_line(1, float("nan"))]])
def test_no_advice_without_evidence(make_run: Make, lines: list[dict[str, Any]]) -> None:
    """A run that has hardly begun has shown nothing."""
    assert rules(make_run(lines=lines)) == {}


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, str]]:
    """Trains the small model for real, and asks the rules."""
    folder = tmp_path_factory.mktemp("real")
    text = folder / "text.txt"
    random = np.random.default_rng(0)
    words = ["lamp", "wind", "oil", "rope", "gull", "ship", "rain", "night", "steady", "north", "quiet", "tide"]
    text.write_text("".join(" ".join(random.choice(words, 12)) + "\n" for _ in range(60)), "utf-8")

    def train(name: str, **options: Any) -> dict[str, str]:
        settings = {"model": "tiny", "context_length": 64, "tokens_per_step": 256, "val_fraction": 0.3, **options}
        tunesmith.train(text, out=folder / name, **settings)
        return rules(folder / name)

    return train


def test_a_real_run_that_overfits(real: Callable[..., dict[str, str]]) -> None:
    """Random words cannot be foretold, only learned by heart."""
    found = real("overfit", epochs=12, learning_rate=4e-3, eval_steps=20)
    assert "overfitting" in found
    assert "healthy" not in found


def test_a_real_run_whose_rate_is_too_high(real: Callable[..., dict[str, str]]) -> None:
    """The loss goes up and stays there."""
    found = real("high", epochs=4, learning_rate=0.9, warmup_ratio=0.0)
    assert {"learning-rate-too-high", "not-better"} & set(found)


def test_a_real_run_that_is_too_short(real: Callable[..., dict[str, str]]) -> None:
    """Five updates."""
    found = real("short", max_steps=5)
    assert "5" in found["too-few-updates"]
    assert "overfitting" not in found
