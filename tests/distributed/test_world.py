"""Several real processes learn what a single one does, in whatever way they hold the model, and whoever continues."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from tunesmith.config import TrainConfig
from tunesmith.training.events import Event, RunEnded, StepLogged
from tunesmith.training.train import train_events

pytestmark = pytest.mark.slow

WORKER = Path(__file__).with_name("worker.py")
PROCESSES = 4
RELATIVE = 1e-5
STEPS = 6
RUN_TIMEOUT_S = 300


def config_of(model: Path, text: Path, out: Path) -> dict[str, Any]:
    """Questions and answers of very different lengths; some steps have fewer windows than there are processes."""
    return {
        "sources": [str(text)],
        "model": str(model),
        "out": str(out),
        "prompt_field": "prompt",
        "completion_field": "completion",
        "max_steps": STEPS,
        "tokens_per_step": 90,
        "eval_steps": 3,
        "learning_rate": 1e-3,
        "device": "cpu",
        "precision": "fp32",
        "val_fraction": 0.06,
    }


def alone(config: dict[str, Any], *, stop_after: int = STEPS) -> None:
    """Train with a single process, in this one."""
    seen = 0
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in config.items()}
    events: Iterator[Event] = train_events(
        TrainConfig(**values), stop=lambda: seen >= stop_after, has_integrations=False
    )
    for event in events:
        seen = event.step if isinstance(event, StepLogged) else seen
        if isinstance(event, RunEnded):
            return


def curve(out: Path) -> dict[tuple[str, int], float]:
    """Losses of steps and of evaluations."""
    lines = map(json.loads, (out / "metrics.jsonl").read_text("utf-8").splitlines())
    known = {"step": "train_loss", "eval": "val_loss"}
    return {(line["kind"], line["step"]): line[known[line["kind"]]] for line in lines if line["kind"] in known}


def assert_same_run(out: Path, reference: Path) -> None:
    """The same losses at the same steps, and the same model in the end."""
    ours, theirs = curve(out), curve(reference)
    assert ours.keys() == theirs.keys()
    assert len(ours) == STEPS + 3
    np.testing.assert_allclose(list(ours.values()), list(theirs.values()), rtol=RELATIVE)
    ours_weights, their_weights = load_file(out / "model.safetensors"), load_file(reference / "model.safetensors")
    assert ours_weights.keys() == their_weights.keys()
    for name, weight in their_weights.items():
        np.testing.assert_allclose(ours_weights[name], weight, atol=1e-4, err_msg=name)


@dataclass
class Ran:
    """The folder of all runs, and what each process said of each."""

    folder: Path
    said: list[list[dict[str, Any]]]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, module_model_folder: Path, own_caches: None) -> Ran:  # noqa: ARG001
    """Every scenario of four processes after one start, and what a single process makes of the same."""
    folder = tmp_path_factory.mktemp("runs")
    text = folder / "answers.jsonl"
    random = np.random.default_rng(0)
    lines = [
        {
            "prompt": "Which night? " * int(random.integers(1, 4)),
            "completion": f"Night {n}." * int(random.integers(1, 9)),
        }
        for n in range(30)
    ]
    text.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")

    def config(name: str, **others: Any) -> dict[str, Any]:
        return {**config_of(module_model_folder, text, folder / name), **others}

    alone(config("one"))
    alone(config("one then four"), stop_after=2)
    shutil.copytree(folder / "one then four", folder / "one then parts")
    resumed = {"resume": True, "sources": []}
    scenarios = [
        {"config": config("four")},
        {"config": config("parts", shard="yes")},
        {"config": {**config("one then four"), **resumed}},
        {"config": {**config("one then parts", shard="yes"), **resumed}},
        {"config": config("four then one"), "options": {"stop_rank": 2, "stop_after": 2}},
        {"config": config("parts then one", shard="yes"), "options": {"stop_rank": 0, "stop_after": 4}},
        {"config": config("bad"), "options": {"bad_step": 3}},
        {"config": config("full forward"), "options": {"full_rank": 1, "full_in": "forward"}},
        {"config": config("full backward"), "options": {"full_rank": 3, "full_in": "backward"}},
        {"config": config("full clip"), "options": {"full_rank": 0, "full_in": "clip", "times": 2}},
        {"config": config("never fits"), "options": {"full_rank": 2, "full_in": "backward", "times": 10**6}},
    ]
    (folder / "scenarios.json").write_text(json.dumps(scenarios), "utf-8")
    launcher = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={PROCESSES}"]
    done = subprocess.run(
        [*launcher, "--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", WORKER, folder / "scenarios.json", folder],
        capture_output=True,
        text=True,
        check=False,
        timeout=RUN_TIMEOUT_S,
    )
    assert done.returncode == 0, done.stderr
    for name in ("four then one", "parts then one", "never fits"):
        alone({**config(name), **resumed})
    return Ran(folder, [json.loads((folder / f"rank{rank}.json").read_text("utf-8")) for rank in range(PROCESSES)])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["four", "parts"])
def test_the_number_of_processes_changes_nothing(ran: Ran, name: str) -> None:
    """Four processes, each with the whole model or a part of it, have the loss curve and the result of one."""
    assert_same_run(ran.folder / name, ran.folder / "one")


@pytest.mark.parametrize("name", ["one then four", "one then parts", "four then one", "parts then one"])
def test_a_run_continues_with_another_number_of_processes(ran: Ran, name: str) -> None:
    """Saved by one and continued by four, or the other way round, it equals the unbroken run of one."""
    assert_same_run(ran.folder / name, ran.folder / "one")


def test_a_stop_is_agreed_upon(ran: Ran) -> None:
    """One process is asked to end, and all of them end behind the same step."""
    assert [said[4]["steps"] for said in ran.said] == [2] * PROCESSES


def test_a_bad_gradient_of_one_is_seen_by_all(ran: Ran) -> None:
    """All skip the step that one process spoils, and make it once more."""
    assert [said[6]["bad"] for said in ran.said] == [["gradient"]] * PROCESSES
    assert_same_run(ran.folder / "bad", ran.folder / "one")


@pytest.mark.parametrize("where", ["forward", "backward", "clip"])
def test_memory_that_runs_out_in_one_makes_all_take_smaller_pieces(ran: Ran, where: str) -> None:
    """Wherever in the step it does: all make it again, the curve is that of one process, and it is told once."""
    number = 7 + ["forward", "backward", "clip"].index(where)
    assert [said[number]["shrunk"] for said in ran.said] == [[3]] * PROCESSES
    assert_same_run(ran.folder / f"full {where}", ran.folder / "one")
    lines = [
        json.loads(line) for line in (ran.folder / f"full {where}" / "metrics.jsonl").read_text("utf-8").splitlines()
    ]
    assert [line["step"] for line in lines if line["kind"] == "out_of_memory"] == [3]


def test_when_nothing_fits_all_end_and_it_can_be_resumed(ran: Ran) -> None:
    """The same error everywhere behind a last save; with memory again the run equals the unbroken one."""
    (error,) = {said[10]["error"] for said in ran.said}
    assert error.startswith("memory ran out with a window of ")
    assert_same_run(ran.folder / "never fits", ran.folder / "one")


def test_a_different_text_is_named(ran: Ran) -> None:
    """The process that read something else, and what, is said by every process alike."""
    errors = {said[-1]["error"] for said in ran.said}
    assert errors == {"rank 2 differs from rank 0 in the text: other there, same here"}


def test_only_the_first_writes(ran: Ran) -> None:
    """There is one line for each step and evaluation, one checkpoint for each save, and one plan that says how many."""
    lines = [json.loads(line) for line in (ran.folder / "four" / "metrics.jsonl").read_text("utf-8").splitlines()]
    steps = [line["step"] for line in lines if line["kind"] == "step"]
    assert steps == list(range(1, STEPS + 1))
    plans = {
        name: json.loads((ran.folder / name / "run.json").read_text("utf-8"))["plan"] for name in ("four", "parts")
    }
    assert [(plan["devices"], plan["shard"]) for plan in plans.values()] == [(4, False), (4, True)]
