"""The recipes for models from scratch can be followed."""

import json
from pathlib import Path

import pytest

from tunesmith.cli import main

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").glob("*.toml")), ids=lambda path: path.stem)
def test_a_recipe_makes_a_plan(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its flags exist, and the shape is the one that its page names."""
    text = tmp_path / "log.txt"
    text.write_text("\n".join(f"Night {number}: 灯が点いている。" for number in range(400)), encoding="utf-8")
    assert main(["plan", str(text), "--config", str(recipe), "--device", "cpu", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["model"] == "gpt2-4x256"
    assert (plan["optimizer"], plan["context_length"]) == ("muon", 256)
