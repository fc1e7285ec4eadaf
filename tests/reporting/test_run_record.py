"""What is read from a run folder, whatever became of the run."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tunesmith.errors import UserError
from tunesmith.reporting.run_reader import read_run

from .conftest import evaluation_line, step_line


def test_every_line_is_read(make_run: Callable[..., Path]) -> None:
    """Steps as columns, evaluations in order, the best one by its loss."""
    lines = [evaluation_line(0, 5.0), *(step_line(n, 4.0 / n) for n in (1, 2, 3)), evaluation_line(3, 4.5)]
    run = read_run(make_run(lines=lines))
    assert run.steps["train_loss"].tolist() == [4.0, 2.0, 4.0 / 3]
    assert run.last_step == 3
    assert run.before is not None
    assert run.best is not None
    assert (run.before.loss, run.best.loss) == (5.0, 4.5)
    assert run.novelty is None


def test_damaged_and_unknown_lines_are_passed_over(make_run: Callable[..., Path]) -> None:
    """A line cut off by a kill, no JSON at all, an unknown kind, a NaN: the rest is there."""
    folder = make_run(lines=[step_line(1, 4.0), {"kind": "new in a later version"}])
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"kind": "step", "step": 2, "train_loss": NaN}\nnonsense\n[1]\n')
        file.write('{"kind": "eval", "step": 2}\n{"kind": "step", "ste')
    run = read_run(folder)
    assert run.steps["step"].tolist() == [1, 2]
    assert np.isnan(run.steps["train_loss"][1])
    assert np.isnan(run.steps["grad_norm"][1])
    assert np.isnan(run.steps["never logged"]).all()
    assert run.evaluations == ()


def test_files_may_be_missing(make_run: Callable[..., Path]) -> None:
    """A run that was killed before its first line."""
    folder = make_run()
    (folder / "metrics.jsonl").unlink()
    (folder / "samples.jsonl").unlink()
    run = read_run(folder)
    assert (len(run.steps), run.evaluations, run.samples, run.last_step) == (0, (), (), 0)


@pytest.mark.parametrize(
    "content", [None, "{", "[]", '{"config": {}, "plan": {}}', '{"config": 1, "plan": 1, "data": 1}']
)
def test_no_run_is_named(tmp_path: Path, content: str | None) -> None:
    """A folder without run.json, or with a damaged one, is refused with a way on."""
    if content is not None:
        (tmp_path / "run.json").write_text(content, "utf-8")
    with pytest.raises(UserError, match="is not a run" if content is None else "is damaged") as error:
        read_run(tmp_path)
    assert error.value.hint


def test_novelty_is_read_where_it_is(make_run: Callable[..., Path]) -> None:
    """What `report --memorization` left."""
    folder = make_run()
    (folder / "novelty.json").write_text(json.dumps({"written": {}, "held_out": {}, "texts": 3}), "utf-8")
    found = read_run(folder).novelty
    assert found is not None
    assert found["texts"] == 3
