"""The notebook among the examples runs, as a kernel runs it: cell by cell while an event loop is going."""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Every cell, in order, and what it prints is what its text says."""
    shutil.copyfile(ROOT / "examples" / "lighthouse-log.txt", tmp_path / "lighthouse-log.txt")
    monkeypatch.chdir(tmp_path)
    notebook = json.loads((ROOT / "examples" / "notebook.ipynb").read_text("utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell.get("outputs", []) == [] for cell in notebook["cells"])
    names: dict[str, Any] = {}

    async def kernel() -> None:
        for cell in cells:
            exec(compile(cell, "cell", "exec"), names)  # noqa: S102  our own example
            await asyncio.sleep(0)

    asyncio.run(kernel())
    printed = capsys.readouterr().out
    assert "10 steps watched, 20 made" in printed
    assert "tiny |" in printed
    assert names["result"].perplexity < names["result"].base_perplexity
