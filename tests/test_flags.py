"""Each flag that a command takes changes something; what would change nothing is refused."""

from pathlib import Path

import pytest

import tunesmith
from tunesmith.cli import app, main
from tunesmith.ui.argv import with_known_names

REFUSED = {
    "prepare": ["--quiet"],
    "evaluate": ["--quiet"],
    "doctor": ["--quiet", "--seed=1"],
    "explain": ["--quiet", "--seed=1"],
    "export": ["--quiet", "--seed=1"],
    "import": ["--quiet", "--seed=1"],
    "push": ["--quiet", "--seed=1"],
    "runs": ["--quiet", "--seed=1"],
    "report": ["--quiet"],
    "tokenizer train": ["--quiet", "--seed=1", "--source-weights=2", "--dedupe=exact"],
    "tokenizer extend": ["--quiet", "--seed=1", "--source-weights=2", "--dedupe=exact"],
    "plan": [
        *("--dashboard", "--resume", "--verify-resume", "--report-to=wandb", "--stop-at=07:00", "--keep-gb=3"),
        *("--sample-prompts=p.txt", "--quiet"),
    ],
}


@pytest.mark.parametrize(
    ("command", "flag"), [(command, flag) for command, flags in REFUSED.items() for flag in flags], ids=str
)
def test_flags_without_effect_are_none(command: str, flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    """They are unknown, are not suggested, and do not stand in the help."""
    name = flag.split("=", maxsplit=1)[0]
    assert main([*command.split(), flag]) == 2
    assert capsys.readouterr().err.startswith(f"error: there is no flag {name}")
    assert main([*command.split(), f"{name}x=1"]) == 2
    assert f"Did you mean {name}?" not in capsys.readouterr().err
    assert main([*command.split(), "--help"]) == 0
    assert f"│ {name} " not in capsys.readouterr().out


def test_one_config_file_is_for_train_and_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Settings that only a run has are passed over by `plan`; a misspelled one is not."""
    text = tmp_path / "a.txt"
    text.write_text("\n".join(f"Night {night}, lamp steady." for night in range(40)), "utf-8")
    file = tmp_path / "run.toml"
    file.write_text('model = "tiny"\nquiet = true\nkeep-gb = 1\nsample_prompts = "p.txt"\nmax-steps = 2\n', "utf-8")
    assert main(["plan", str(text), "--config", str(file), "--json"]) == 0
    assert '"steps": 2' in capsys.readouterr().out
    file.write_text("dashbord = true\n", "utf-8")
    assert main(["plan", str(text), "--config", str(file)]) == 2
    assert not app.config  # nothing of it is left for the next command of this process


@pytest.mark.parametrize(
    ("alias", "name", "value"),
    [
        ("--max_length", "context_length", "64"),
        ("--block-size=64", "context_length", ""),
        ("--lora-rank", "lora_r", "4"),
        ("--num_train_epochs", "epochs", "2"),
        ("--lr", "learning_rate", "1e-3"),
        ("--gradient-checkpointing", "activation_checkpointing", ""),
    ],
)
def test_names_of_other_tools_are_accepted(alias: str, name: str, value: str) -> None:
    """They set the same option, and `--help` has only our name."""
    tokens = with_known_names(["train", "a.txt", "--output_dir", "o", alias, *([value] if value else []), "--", "--lr"])
    _, bound, _ = app.parse_args(tokens, exit_on_error=False, print_error=False)
    config = bound.arguments["config"]
    expected = {"context_length": 64, "lora_r": 4, "epochs": 2.0, "learning_rate": 1e-3}
    assert getattr(config, name) == expected.get(name, "full")
    assert (config.out, config.sources[-1]) == ("o", "--lr")


def test_aliases_belong_to_commands() -> None:
    """`--to` means the format of an export, and nothing elsewhere."""
    assert with_known_names(["export", "m", "--to=gguf"]) == ["export", "m", "--format=gguf"]
    assert with_known_names(["generate", "m", "--max-length", "3"]) == ["generate", "m", "--max-length", "3"]


def test_python_has_the_same_options() -> None:
    """What is no flag of a command is no option of its function."""
    for call in (
        lambda: tunesmith.plan(dashboard=True),
        lambda: tunesmith.prepare("a.txt", quiet=True),
        lambda: tunesmith.train_tokenizer("a.txt", out="o", dedupe="exact"),
    ):
        with pytest.raises(TypeError, match="has no option"):
            call()
