"""`evaluate` and `generate` by several processes: the figures and the texts of one, told once."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import tunesmith
from tunesmith.errors import UserError

RUN_TIMEOUT_S = 300
LINES = [f"Night {number}. Wind {number % 7}, lamp {'steady ' * (number % 9)}." for number in range(40)]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Lines of very different lengths, some longer than the model's context."""
    path = tmp_path / "log.txt"
    path.write_text("\n".join([*LINES, "wind " * 300]) + "\n", "utf-8")
    return path


def said_by(*arguments: object) -> str:
    """What a command that has to succeed writes on stdout."""
    command = [sys.executable, "-m", "tunesmith", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=RUN_TIMEOUT_S)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_measuring_together_is_measuring_alone(
    module_model_folder: Path,
    text: Path,
    tmp_path: Path,
    own_caches: None,  # noqa: ARG001
) -> None:
    """Every figure, of the text, of each sample, of the interval, and beside a base."""
    options: dict[str, Any] = {"split_on": "line", "base": str(module_model_folder), "device": "cpu"}
    alone = tunesmith.evaluate(module_model_folder, text, **options, out=tmp_path / "alone.jsonl")
    flags = ["--split-on", "line", "--base", module_model_folder, "--device", "cpu", "--json"]
    said = said_by("evaluate", module_model_folder, text, *flags, "--devices", 2, "--out", tmp_path / "together.jsonl")
    together = json.loads(said)
    assert together.keys() == alone.keys()
    for name in ("perplexity", "loss", "bits_per_byte", "tokens", "bytes", "perplexity_ci95", "samples"):
        assert together[name] == pytest.approx(alone[name], rel=1e-6), name
    samples = [
        [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text("utf-8").splitlines()]
        for name in ("alone", "together")
    ]
    assert [one["nats"] for one in samples[1]] == pytest.approx([one["nats"] for one in samples[0]], rel=1e-6)
    assert [one["text"] for one in together["worst_samples"]] == [one["text"] for one in alone["worst_samples"]]


def test_writing_together_is_writing_alone(
    module_model_folder: Path,
    tmp_path: Path,
    own_caches: None,  # noqa: ARG001
) -> None:
    """The same texts in the order of the prompts, in one file, whoever wrote them."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(f"Night {number}" for number in range(7)) + "\n", "utf-8")
    alone = tunesmith.generate(
        module_model_folder, prompts_file=str(prompts), temperature=(0.0, 0.9), max_new_tokens=9, device="cpu"
    )
    flags = ["--prompts-file", prompts, "--temperature", 0, 0.9, "--max-new-tokens", 9, "--device", "cpu"]
    said_by("generate", module_model_folder, *flags, "--devices", 3, "--out", tmp_path / "texts.jsonl")
    together = [json.loads(line) for line in (tmp_path / "texts.jsonl").read_text("utf-8").splitlines()]
    assert [one["text"] for one in together] == [one.text for one in alone]
    assert [(one["prompt"], one["seed"], one["temperature"], one["tokens"]) for one in together] == [
        (one.prompt, one.seed, one.temperature, one.tokens) for one in alone
    ]
    assert [one["logprobs"] for one in together] == [pytest.approx(one.logprobs, abs=1e-5) for one in alone]


@pytest.mark.slow
def test_texts_that_copy_are_written_anew_together(
    module_model_folder: Path,
    text: Path,
    tmp_path: Path,
    own_caches: None,  # noqa: ARG001
) -> None:
    """With the seeds of one process; here there are more processes than texts."""
    options: dict[str, Any] = {"reject_memorized": 8, "training_data": str(text), "max_new_tokens": 12, "device": "cpu"}
    alone = tunesmith.generate(module_model_folder, prompt=("Night 3", "wind wind"), **options)
    flags = ["--reject-memorized", 8, "--training-data", text, "--max-new-tokens", 12, "--device", "cpu"]
    prompts = ["--prompt", "Night 3", "wind wind", "--out", tmp_path / "texts.jsonl"]
    said_by("generate", module_model_folder, *flags, *prompts, "--devices", 3)
    together = [json.loads(line) for line in (tmp_path / "texts.jsonl").read_text("utf-8").splitlines()]
    assert [(one["text"], one["seed"]) for one in together] == [(one.text, one.seed) for one in alone]


def test_functions_start_no_other_processes(text: Path) -> None:
    """They could not return what those say; the error says what can be done."""
    for act in (lambda: tunesmith.generate("tiny", devices=2), lambda: tunesmith.evaluate("tiny", text, devices=2)):
        with pytest.raises(UserError, match="devices=2 starts other processes"):
            act()
