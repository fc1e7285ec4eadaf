"""The READMEs tell the truth: what they print is run, on the example they ship."""

import json
import re
import shutil
from pathlib import Path

import pytest

import tunesmith
from tunesmith.cli import main

ROOT = Path(__file__).parents[1]
READMES = ("README.md", "README.ja.md")
CLOSINGS = (
    "Lamp steady.",
    "All well.",
    "Lamp lit until dawn.",
    "No ship in danger.",
    "Oil enough.",
    "Logged and signed.",
)


def commands(readme: str) -> list[str]:
    """Every shell command of a README, comments taken off."""
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / readme).read_text("utf-8"), re.DOTALL)
    return [line.split("  #")[0].strip() for block in blocks for line in block.splitlines() if line.strip()]


def python_blocks(readme: str) -> list[str]:
    """Every Python block of a README."""
    return re.findall(r"```python\n(.*?)```", (ROOT / readme).read_text("utf-8"), re.DOTALL)


def test_both_readmes_show_the_same_commands() -> None:
    """The Japanese README is not behind the English one."""
    assert commands("README.md") == commands("README.ja.md")
    assert python_blocks("README.md") == python_blocks("README.ja.md")


@pytest.mark.parametrize("readme", READMES)
def test_links_lead_somewhere(readme: str) -> None:
    """Every local link and picture of a README exists."""
    targets = re.findall(r"\]\((?!https?://)([^)#]+)\)", (ROOT / readme).read_text("utf-8"))
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


@pytest.mark.slow
def test_the_first_command_does_what_the_readme_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The main job as printed: the example is learned clearly, and samples in its style end by themselves."""
    (tmp_path / "examples").mkdir()
    shutil.copyfile(ROOT / "examples" / "lighthouse-log.txt", tmp_path / "examples" / "lighthouse-log.txt")
    monkeypatch.chdir(tmp_path)
    printed = commands("README.md")
    first = printed[0].removeprefix("pip install . && tunesmith ")
    assert main(first.split()) == 0
    shown = capsys.readouterr().out
    assert "before training it writes:" in shown
    assert "after training it writes:" in shown
    outcome = json.loads(Path("my-model/run.json").read_text("utf-8"))["outcome"]
    assert outcome["perplexity"] < outcome["base_perplexity"] / 10

    generate, evaluate = (command.removeprefix("tunesmith ").split() for command in printed[1:3])
    assert main(generate) == 0
    assert len(capsys.readouterr().out.splitlines()) == 5
    assert main(evaluate) == 0
    assert "perplexity" in capsys.readouterr().out

    texts = tunesmith.generate("my-model", num_samples=30)
    assert sum(text.finish_reason == "stop" for text in texts) >= 27
    assert sum(text.text.endswith(CLOSINGS) for text in texts) >= 24

    (tmp_path / "my-texts.txt").write_text("\n".join(CLOSINGS * 3) + "\n", encoding="utf-8")
    for block in python_blocks("README.md"):
        exec(compile(block, "README.md", "exec"), {})  # noqa: S102  our own README
    assert "->" in capsys.readouterr().out
