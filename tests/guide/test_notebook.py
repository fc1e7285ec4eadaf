"""The notebook is valid, keeps no outputs, and runs from top to bottom on this machine."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

from .pages import DOCS

NOTEBOOK = DOCS / "notebook.ipynb"


@pytest.fixture(scope="module")
def notebook() -> Any:
    """As its own library reads it."""
    return nbformat.read(NOTEBOOK, as_version=4)


def test_it_is_valid_and_keeps_no_outputs(notebook: Any) -> None:
    """By the format's own rules; outputs would show one machine's figures to everybody."""
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert cells
    assert all(cell.outputs == [] and cell.execution_count is None for cell in cells)


@pytest.mark.slow
def test_it_runs_from_top_to_bottom(tmp_path: Path) -> None:
    """In a kernel of its own, as Jupyter does it; the tuned model is better than the one it came from."""
    shutil.copyfile(NOTEBOOK, tmp_path / NOTEBOOK.name)
    program = "from nbclient.cli import NbClientApp; NbClientApp.launch_instance()"
    without_a_card = {"JUPYTER_RUNTIME_DIR": str(tmp_path / "jupyter"), "CUDA_VISIBLE_DEVICES": ""}
    environment = {**os.environ, "IPYTHONDIR": str(tmp_path / "ipython"), **without_a_card}
    command = [sys.executable, "-c", program, "--timeout=300", NOTEBOOK.name]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=400)
    outcome = json.loads((tmp_path / "notebook-model" / "run.json").read_text("utf-8"))["result"]
    assert outcome["perplexity"] < outcome["base_perplexity"]
    assert (tmp_path / "notebook-model" / "report.html").stat().st_size > 10_000
