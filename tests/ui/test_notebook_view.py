"""What a person sees of a run in a notebook, and that a script says nothing unless asked."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import tunesmith
from tunesmith.training.events import Evaluated, RunEnded, Sampled
from tunesmith.ui.notebook import NotebookView, is_in_notebook
from tunesmith.ui.training_view import LiveScreen

from .test_progress import PLAN, RESULT, step, text

SMALL = 'model="tiny", max_steps=8, context_length=64, tokens_per_step=256, eval_steps=4'


class Output:
    """What a cell's output was given, first and later."""

    def __init__(self) -> None:
        self.drawn: list[dict[str, str]] = []

    def display(self, data: dict[str, str], *, raw: bool, display_id: bool) -> "Output":
        assert display_id
        self.update(data, raw=raw)
        return self

    def update(self, data: dict[str, str], *, raw: bool) -> None:
        assert raw
        self.drawn.append(data)


@pytest.fixture
def output(monkeypatch: pytest.MonkeyPatch) -> Output:
    """In place of IPython's."""
    display = pytest.importorskip("IPython.display")
    made = Output()
    monkeypatch.setattr(display, "display", made.display)
    return made


def test_steps_that_come_fast_share_a_drawing(output: Output) -> None:
    """A hundred steps are not a hundred messages to the browser; an evaluation and the end are drawn at once."""
    screen = LiveScreen(replace(PLAN, steps=10))
    view = NotebookView(screen, every_s=1e9)
    view.start()
    for event in [
        *(step(1 + n % 10) for n in range(100)),
        Evaluated(10, 1.0, 3.0, 20.0, is_best=True),
        RunEnded(RESULT),
    ]:
        screen.note(event)
        view.follow(event)
    assert len(output.drawn) == 3
    first, _, last = (drawn["text/plain"].splitlines()[0] for drawn in output.drawn)
    assert first.split()[:2] == ["training", "0/10"]
    assert last.split()[:2] == ["done", "10/10"]
    assert "ETA" not in last


def test_what_a_model_writes_is_no_markup(output: Output) -> None:
    """A sample with tags and control characters reaches the page as text."""
    screen = LiveScreen(PLAN)
    screen.note(Sampled(0, [text("<script>alert(1)</script>\x1b[31m")]))
    NotebookView(screen).start()
    (drawn,) = output.drawn
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in drawn["text/html"]
    assert "<script" not in drawn["text/html"]
    assert "<script>" in drawn["text/plain"]
    assert "\x1b" not in drawn["text/plain"] + drawn["text/html"]


def test_a_run_that_breaks_off_says_so(output: Output) -> None:
    """What stays under the cell does not go on training for ever."""
    screen = LiveScreen(PLAN)
    view = NotebookView(screen)
    view.start()
    screen.break_off()
    view.stop()
    assert output.drawn[-1]["text/plain"].startswith("stopped")


def written_text(folder: Path) -> Path:
    """Some lines."""
    path = folder / "text.txt"
    path.write_text("".join(f"Night {n}: wind {n % 7}, lamp steady.\n" for n in range(80)), "utf-8")
    return path


@pytest.mark.slow
def test_in_a_kernel(tmp_path: Path) -> None:
    """One output is replaced in place, without widgets, and ends with the metrics file's figures; or none if asked."""
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    written_text(tmp_path)
    cells = [
        "import tunesmith",
        f'first = tunesmith.train("text.txt", out="shown", {SMALL})',
        f'second = tunesmith.train("text.txt", out="silent", progress=False, {SMALL})',
        f'third = tunesmith.train("text.txt", out="heard", on_event=lambda event: None, {SMALL})',
    ]
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(cell) for cell in cells],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python", "language": "python"}},
    )
    nbformat.write(notebook, tmp_path / "n.ipynb")
    program = "from nbclient.cli import NbClientApp; NbClientApp.launch_instance()"
    environment = {"JUPYTER_RUNTIME_DIR": str(tmp_path / "jupyter"), "IPYTHONDIR": str(tmp_path / "ipython")}
    environment |= {"CUDA_VISIBLE_DEVICES": "", "LC_ALL": "C.UTF-8"}
    command = [sys.executable, "-c", program, "--timeout=300", "--inplace", "n.ipynb"]
    subprocess.run(command, cwd=tmp_path, env={**os.environ, **environment}, check=True, timeout=400)
    _, shown, silent, heard = (cell.outputs for cell in nbformat.read(tmp_path / "n.ipynb", as_version=4).cells)
    assert silent == heard == []
    texts = [output.data["text/plain"] for output in shown if output.output_type == "display_data"]
    (screen,) = (drawn for drawn in texts if "/8 " in drawn.splitlines()[0])
    assert screen.split()[:2] == ["done", "8/8"], "it was opened before the first step"
    assert all("widget" not in kind for output in shown for kind in output.get("data", {}))
    steps, evaluations = figures(tmp_path / "shown")
    assert f"{steps[-1]['train_loss']:.3f}" in screen
    assert f"perplexity {evaluations[-1]['val_perplexity']:.2f}" in screen


def figures(run: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The steps and the evaluations of a run."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
    return tuple([line for line in lines if line["kind"] == kind] for kind in ("step", "eval"))  # type: ignore[return-value]


def test_a_script_says_nothing_unless_asked(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Left out there is no output at all; asked for, the lines of a pipe come, and `on_event` hears the same run."""
    assert not is_in_notebook()
    source, heard = written_text(tmp_path), []
    small: dict[str, Any] = {"model": "tiny", "max_steps": 1, "context_length": 64, "tokens_per_step": 256}
    tunesmith.train(source, out=tmp_path / "silent", **small)
    assert capfd.readouterr() == ("", "")
    tunesmith.train(source, out=tmp_path / "shown", progress=True, on_event=heard.append, **small)
    said = capfd.readouterr()
    assert said.out == ""
    assert "step 1/1" in said.err
    assert isinstance(heard[-1], RunEnded)
