"""The run folder: whose it is, and what stays in it."""

import json
from pathlib import Path

import pytest

from tunesmith.errors import UserError
from tunesmith.run_dir import RunDir
from tunesmith.training.checkpoint import drop_old_checkpoints

DESCRIPTION = {"config": {}, "plan": {}, "environment": {}, "data": {"fingerprint": "f"}}


def test_new_and_empty_folders_are_free(tmp_path: Path) -> None:
    """A run may begin where nothing is."""
    RunDir(tmp_path / "new").check_is_new()
    RunDir(tmp_path).check_is_new()
    with RunDir(tmp_path / "new").lock():
        RunDir(tmp_path / "new").write_metadata(DESCRIPTION)
    assert RunDir(tmp_path / "new").status() == "running"


@pytest.mark.parametrize(
    ("status", "named", "hint"),
    [("finished", "a finished run", "another --out"), ("interrupted", "an unfinished run", "--resume --out")],
)
def test_another_run_is_refused_with_the_ways_on(status: str, named: str, hint: str, tmp_path: Path) -> None:
    """What to do depends on how the run there ended."""
    run = RunDir(tmp_path)
    run.write_metadata(DESCRIPTION)
    run.finish({"status": status})
    with pytest.raises(UserError, match=named) as error:
        run.check_is_new()
    assert hint in error.value.hint


def test_foreign_files_are_named(tmp_path: Path) -> None:
    """A folder with somebody's files is refused, naming the first of them."""
    for name in "dbca":
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"already contains something else \(a, b, c, \.\.\.\)"):
        RunDir(tmp_path).check_is_new()


@pytest.mark.parametrize("content", ["{", "[]", '{"config": {}}'])
def test_damaged_run_files_are_named(content: str, tmp_path: Path) -> None:
    """A broken run.json is an error with a way out."""
    (tmp_path / "run.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"run.json is damaged"):
        RunDir(tmp_path).read_metadata()


def test_forgetting_what_came_after_a_step(tmp_path: Path) -> None:
    """Lines of later steps, and a last line that a crash cut off, go; the others stay as they are."""
    run = RunDir(tmp_path)
    for step in (0, 1, 2, 3):
        run.append("metrics.jsonl", {"step": step, "text": "é 日本"})
    with (tmp_path / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 1, "te')
    run.truncate_logs(2)
    lines = (tmp_path / "metrics.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [{"step": step, "text": "é 日本"} for step in (0, 1, 2)]


def make_checkpoint(run: RunDir, step: int, *, model_bytes: int = 100, optimizer_bytes: int = 200) -> None:
    """Files of a checkpoint's names and sizes."""
    folder = run.checkpoint(step)
    folder.mkdir(parents=True)
    for name, n_bytes in (("model", model_bytes), ("optimizer", optimizer_bytes), ("random", 0)):
        (folder / f"{name}.safetensors").write_bytes(bytes(n_bytes))
    for name in ("state.json", "checksums.json"):
        (folder / name).touch()


@pytest.mark.parametrize(
    ("keep_bytes", "resumable", "models"),
    [
        (None, [9, 10], []),
        (0, [10], []),
        (599, [10], [7, 9]),
        (600, [9, 10], []),
        (800, [9, 10], [5, 7]),
        (10_000, [9, 10], [2, 5, 7]),
    ],
)
def test_checkpoints_stay_within_the_budget(
    keep_bytes: float | None, resumable: list[int], models: list[int], tmp_path: Path
) -> None:
    """The newest always stays, the one before it if it fits, older ones as models; nothing else is touched."""
    run = RunDir(tmp_path)
    for step in (2, 5, 7, 9, 10):
        make_checkpoint(run, step)
    for name in ("mine", "step-x", "step-00000011.damaged"):
        (tmp_path / "checkpoints" / name).mkdir()
    drop_old_checkpoints(run, keep_bytes)
    steps = [run.checkpoint(step).name for step in sorted(resumable + models)]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["mine", *steps, "step-x"]
    assert run.checkpoints() == [run.checkpoint(step) for step in resumable]
    for step in models:
        assert [path.name for path in run.checkpoint(step).iterdir()] == ["model.safetensors"]
