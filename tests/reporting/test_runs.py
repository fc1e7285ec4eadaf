"""Runs side by side, and the command that repeats one."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

import tunesmith
from tunesmith.cli import app, main
from tunesmith.config import TrainConfig
from tunesmith.errors import UserError
from tunesmith.reporting.tables import repeating_command
from tunesmith.run_dir import as_json

from .conftest import evaluation_line, step_line

Make = Callable[..., Path]


def lines_to(nats: float) -> list[dict[str, Any]]:
    """A short run that ends at a validation loss."""
    return [evaluation_line(0, 6.0), *(step_line(step, 4.0) for step in range(1, 11)), evaluation_line(10, nats)]


@pytest.fixture
def three(make_run: Make, tmp_path: Path) -> Path:
    """Runs in a folder: a good one, a better one a floor below, and one that was broken off."""
    sample = {"step": 10, "is_final": True, "prompt": "The", "seed": 42, "finish_reason": "stop"}
    make_run("good", lines_to(3.0), samples=[{**sample, "text": "The good"}])
    (tmp_path / "inner").mkdir()
    make_run(
        "inner/better",
        lines_to(2.0),
        samples=[{**sample, "text": "The better"}],
        asked={"learning_rate": 5e-3},
        plan={"learning_rate": 5e-3},
    )
    make_run("lost", [evaluation_line(0, 6.0)], status="running")
    (tmp_path / "no-run").mkdir()
    return tmp_path


def test_list(three: Path) -> None:
    """All of them, in the order that is asked for, with the figures of their files."""
    by_name = tunesmith.runs(three, sort="name")
    assert [run["name"] for run in by_name] == ["good", "inner/better", "lost"]
    best_first = tunesmith.runs(three, sort="perplexity")
    assert [run["name"] for run in best_first] == ["inner/better", "good", "lost"]
    assert best_first[0]["perplexity"] == pytest.approx(2.718281828**2)
    assert best_first[0]["base_perplexity"] == pytest.approx(2.718281828**6)
    assert (best_first[0]["steps"], best_first[0]["tokens_per_s"]) == (10, 2000.0)
    assert best_first[2]["perplexity"] is None


def test_a_run_that_goes_on_is_told_from_one_that_was_broken_off(three: Path) -> None:
    """By its lock."""
    assert {run["name"]: run["status"] for run in tunesmith.runs(three)}["lost"] == "broken off"
    (three / "lost" / "checkpoints").mkdir()
    with FileLock(three / "lost" / "checkpoints" / ".lock"):
        assert {run["name"]: run["status"] for run in tunesmith.runs(three)}["lost"] == "running"


def test_list_on_the_command_line(
    three: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line each, aligned; JSON; a folder without runs says how to make one; no folder is an error."""
    assert main(["runs", str(three), "--sort", "name"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows] == ["good", "inner/better", "lost"]
    column = head.index("model")
    assert {row[column : column + 4] for row in rows} == {"tiny"}
    assert main(["runs", str(three), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 3
    monkeypatch.chdir(three / "no-run")
    assert main(["runs"]) == 0
    assert "tunesmith train" in capsys.readouterr().out
    assert main(["runs", "nowhere"]) == 1
    assert "nowhere is not a folder" in capsys.readouterr().err


def test_compare(three: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What was set differently and nothing else, who was best, and a page with both curves and both texts."""
    page = three / "compared.html"
    assert main(["runs", "--compare", str(three / "good"), str(three / "inner/better"), "--out", str(page)]) == 0
    shown = capsys.readouterr().out
    assert "better came out best: validation perplexity 7.39, against 20.09 of good." in shown
    html = page.read_text("utf-8")
    for text in ("The", " good", " better", "chart-validation", "7.39", "20.09"):
        assert text in html
    result = tunesmith.compare_runs(three / "good", three / "inner/better")
    assert result["settings"] == {"learning_rate": [1e-3, 5e-3]}
    assert [figures["best_step"] for figures in result["figures"]] == [10, 10]


def test_different_texts_are_not_compared(make_run: Make) -> None:
    """Perplexities of different texts say nothing about each other."""
    one, other = make_run("one", lines_to(3.0)), make_run("other", lines_to(2.0), data={"fingerprint": "0" * 64})
    assert not tunesmith.compare_runs(one, other)["same_text"]


def test_compare_refuses(three: Path, tmp_path: Path) -> None:
    """One run, five runs, no run, a folder as the page."""
    good = three / "good"
    for runs in ([good], [good] * 5):
        with pytest.raises(UserError, match="takes from 2 to 4 runs"):
            tunesmith.compare_runs(*runs)
    with pytest.raises(UserError, match="is not a run"):
        tunesmith.compare_runs(good, three / "no-run")
    with pytest.raises(UserError, match="is a folder"):
        tunesmith.compare_runs(good, three / "lost", out=tmp_path)


def test_flags_without_effect(three: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--sort with --compare and --out without it are usage errors with a hint, and nothing is written."""
    pair, page = [str(three / "good"), str(three / "inner/better")], three / "compared.html"
    assert main(["runs", "--sort", "name", "--out", str(page), "--compare", *pair]) == 2
    assert "--sort orders the list of runs and has no effect with --compare" in (said := capsys.readouterr().err)
    assert "hint: leave out --sort or --compare" in said
    assert main(["runs", str(three), "--out", str(page)]) == 2
    assert "--out is the page of a comparison and has no effect without --compare" in (said := capsys.readouterr().err)
    assert f"tunesmith runs --compare RUN RUN --out {page}" in said
    assert not page.exists()


@pytest.mark.parametrize(
    "config",
    [
        TrainConfig(
            ("a b.txt", "c.txt"), out="x", epochs=2.5, learning_rate=1e-4, lora_target_modules=("mlp.c_fc",), lora_r=4
        ),
        TrainConfig(
            ("a.txt",), out="x", model="tiny", from_scratch=True, split_on="\\n--\\n", report_to=("wandb",), freeze=2
        ),
        TrainConfig(("a.txt",), out="x", source_weights=(1.0, 0.5), max_hours=0.5, dedupe="near"),
    ],
)
def test_the_command_asks_for_the_same(config: TrainConfig) -> None:
    """The command line's own parser makes of it what was asked."""
    command, *words = shlex.split(repeating_command(as_json(config), "x"))[1:]
    _, bound, _ = app.parse_args([command, *words], exit_on_error=False, print_error=False)
    assert bound.arguments["config"] == config
