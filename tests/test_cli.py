"""The command line as a user meets it: exit codes, one error and one hint, results on stdout only."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

from tunesmith.cli import app, main
from tunesmith.ui.argv import with_plain_dashes

LINES = [f"Night {number}. Wind from the north, lamp steady." for number in range(60)]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Sixty samples."""
    path = tmp_path / "log.txt"
    path.write_text("\n".join(LINES) + "\n", encoding="utf-8")
    return path


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its content."""
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write(path: Path, content: str) -> str:
    """Write a file and give its name."""
    path.write_text(content, encoding="utf-8")
    return str(path)


MISTAKES: dict[str, tuple[Callable[[Path, str, str], list[str]], int, str]] = {
    "missing file": (
        lambda d, m, _: ["train", f"{d}/none.txt", "--model", m, "--out", f"{d}/out"],
        1,
        "no such file",
    ),
    "empty file": (
        lambda d, m, _: ["train", write(d / "empty.txt", ""), "--model", m, "--out", f"{d}/out"],
        1,
        "is empty",
    ),
    "blank lines only": (
        lambda d, m, _: ["train", write(d / "blank.txt", "\n \n\n"), "--model", m, "--out", f"{d}/out"],
        1,
        "0 samples with text",
    ),
    "folder that is no model": (
        lambda d, _m, t: ["train", t, "--model", str(d), "--out", f"{d}/out"],
        1,
        "is not a model folder",
    ),
    "mistyped model": (
        lambda d, _m, t: ["train", t, "--model", "tini", "--out", f"{d}/out"],
        1,
        "model folder not found: tini",
    ),
    "CSV without a text column": (
        lambda d, m, _: ["train", write(d / "t.csv", "id,body\n1,a\n2,b\n"), "--model", m, "--out", f"{d}/out"],
        1,
        "no column 'text'; its columns are 'id', 'body', and none of them looks like text",
    ),
    "occupied out": (
        lambda d, m, t: ["train", t, "--model", m, "--out", write_folder(d / "taken")],
        1,
        "already contains something else",
    ),
    "out is a file": (lambda d, m, t: ["train", t, "--model", m, "--out", write(d / "file", "x")], 1, "is a file"),
    "nothing to resume": (
        lambda d, _m, _t: ["train", "--resume", "--out", f"{d}/none"],
        1,
        "there is no run to resume",
    ),
    "impossible values": (
        lambda d, m, t: ["train", t, "--model", m, "--out", f"{d}/out", "--epochs", "-1", "--val-fraction", "1.5"],
        1,
        "--epochs -1.0 is not above 0; --val-fraction 1.5",
    ),
    "context too long": (
        lambda d, m, t: ["train", t, "--model", m, "--out", f"{d}/out", "--context-length", "65"],
        1,
        "which has 64 positions",
    ),
    "no such device": (
        lambda d, m, t: ["train", t, "--model", m, "--out", f"{d}/out", "--device", "cuda:7"],
        1,
        "--device cuda:7",
    ),
    "wrong kind of file": (
        lambda d, m, _: ["train", write(d / "x.pdf", "%PDF"), "--model", m, "--out", f"{d}/out"],
        1,
        "is not a .txt, .md, .csv, .tsv, .json, .jsonl, .parquet or .arrow file",
    ),
    "evaluate nothing": (lambda _d, m, _t: ["evaluate", m], 2, "no source was named"),
    "train nothing": (lambda d, m, _t: ["train", "--model", m, "--out", f"{d}/out"], 2, "no source was named"),
    "flag without values": (lambda _d, m, _t: ["generate", m, "--prompt"], 2, "--prompt needs a value"),
    "no out": (lambda _d, m, t: ["train", t, "--model", m], 2, "--out"),
    "mistyped flag": (lambda d, _m, t: ["train", t, "--modle", "x", "--out", f"{d}/out"], 2, "Did you mean --model?"),
    "mistyped command": (lambda _d, _m, t: ["trian", t], 2, 'Did you mean "train"?'),
    "word for a number": (
        lambda d, m, t: ["train", t, "--model", m, "--out", f"{d}/out", "--epochs", "three"],
        2,
        '"three"',
    ),
    "temperature below zero": (lambda _d, m, _t: ["generate", m, "--temperature", "-1"], 1, "--temperature -1.0"),
    "prompt too long": (lambda _d, m, _t: ["generate", m, "--prompt", "oil " * 100], 1, "reads at most 64"),
    "missing config file": (lambda d, m, _t: ["generate", m, "--config", f"{d}/none.toml"], 1, "cannot be read"),
    "config without a name": (lambda _d, m, _t: ["generate", m, "--config"], 2, "--config needs a file"),
    "unknown setting in config": (
        lambda d, m, _t: ["generate", m, "--config", write(d / "c.toml", "temprature = 1")],
        2,
        "temprature",
    ),
}


def write_folder(path: Path) -> str:
    """A folder that holds somebody's file."""
    path.mkdir()
    (path / "thesis.doc").write_text("years of work", encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_error_and_one_hint(
    mistake: str, tmp_path: Path, text: Path, make_model_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Each mistake is named with its value, has a hint, the right exit code, and changes nothing on disk."""
    make_command, code, named = MISTAKES[mistake]
    command = make_command(tmp_path, str(make_model_folder()), str(text))
    before = snapshot(tmp_path)
    capsys.readouterr()
    assert main(command) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert [line.split(" ")[0] for line in printed.err.splitlines()] == ["error:", "hint:"]
    assert named in printed.err.splitlines()[0]
    assert snapshot(tmp_path) == before
    assert not (tmp_path / "out").exists()


def test_train_evaluate_generate(
    tmp_path: Path, text: Path, make_model_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """The three commands follow one another; `--json` gives one JSON value each."""
    out = str(tmp_path / "out")
    common = ["--json", "--precision", "fp32"]
    assert main(["train", str(text), "--model", str(make_model_folder()), "--out", out, "--epochs", "2", *common]) == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert result["perplexity"] < result["base_perplexity"]
    assert result["out"] == out
    assert not result["interrupted"]
    assert "learning rate" in printed.err
    assert "validation perplexity" in printed.err

    assert main(["evaluate", out, str(text), *common]) == 0
    evaluation = json.loads(capsys.readouterr().out)
    assert evaluation["samples"] == len(LINES)
    assert evaluation["bytes"] == sum(map(len, LINES))
    low, high = evaluation["perplexity_ci95"]
    assert low < evaluation["perplexity"] < high

    assert main(["generate", out, "-n", "3", "--max-new-tokens", "5", *common]) == 0
    samples = json.loads(capsys.readouterr().out)
    assert [sample["seed"] for sample in samples] == [42, 43, 44]
    assert all(len(sample["tokens"]) == len(sample["logprobs"]) <= 5 for sample in samples)

    assert main(["train", str(text), "--model", "tiny", "--out", out]) == 1
    assert "already contains a finished run" in capsys.readouterr().err


def test_flags_win_over_the_config_file(
    tmp_path: Path, make_model_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """A TOML or YAML file sets any flag, with dashes or underscores; the command line overrules it."""
    model = str(make_model_folder())
    toml = write(tmp_path / "c.toml", "num_samples = 3\nmax-new-tokens = 2\njson = true\n")
    yaml = write(tmp_path / "c.yaml", "num-samples: 3\nmax_new_tokens: 2\njson: true\n")
    for file in (toml, yaml):
        assert main(["generate", model, "--config", file, "-n", "2"]) == 0
        samples = json.loads(capsys.readouterr().out)
        assert len(samples) == 2
        assert all(len(sample["tokens"]) <= 2 for sample in samples)


def test_control_characters_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """An escape sequence in a text is shown as a replacement character."""
    from tunesmith.config import GenerateConfig
    from tunesmith.generation.generate import GeneratedText
    from tunesmith.ui.generated_texts import texts_block

    texts = [GeneratedText("", text, 1, 1.0, "stop", [], []) for text in ("red \x1b[31m alert\x07", "two\nlines")]
    block = texts_block(texts, GenerateConfig("tiny"))
    assert "\x1b" not in block
    assert "\x07" not in block
    assert block == "red \ufffd[31m alert\ufffd\n--------------------\ntwo\nlines"
    assert capsys.readouterr().out == ""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for a single child")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_resume_finishes(
    number: signal.Signals, tmp_path: Path, text: Path, make_model_folder: Callable[..., Path]
) -> None:
    """Ctrl-C and SIGTERM end with code 130 and a command that continues to the end."""
    out = tmp_path / "out"
    program = [sys.executable, "-m", "tunesmith"]
    start = [*program, "train", str(text), "--model", str(make_model_folder()), "--out", str(out), "--epochs", "400"]
    process = subprocess.Popen(
        [*start, "--max-steps", "400"], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    metrics = out / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (metrics.is_file() and '"step": 3,' in metrics.read_text("utf-8")):
        time.sleep(0.02)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert f"tunesmith train --resume --out {out}" in stderr
    assert json.loads((out / "run.json").read_text("utf-8"))["result"]["status"] == "interrupted"
    resumed = subprocess.run(
        [*program, "train", "--resume", "--out", str(out), "--json"], capture_output=True, text=True, check=False
    )
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads(resumed.stdout)["steps"] == 400
    steps = [json.loads(line)["step"] for line in metrics.read_text("utf-8").splitlines() if '"kind": "step"' in line]
    assert steps == list(range(1, 401))


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["prepare", "-"], ["prepare", "stdin:"]),
        (["prepare", "--json", "-"], ["prepare", "--json", "stdin:"]),
        (["prepare", "a.txt", "--split-on", "-"], ["prepare", "a.txt", "--split-on=-"]),
        (["prepare", "--split-on=+", "-"], ["prepare", "--split-on=+", "stdin:"]),
        (["generate", "m", "--no-include-prompt", "-"], ["generate", "m", "--no-include-prompt", "stdin:"]),
    ],
)
def test_a_lone_dash_is_input_or_a_value(typed: list[str], expected: list[str]) -> None:
    """Behind a flag that takes a value it is that value, elsewhere standard input."""
    assert with_plain_dashes(typed) == expected


def test_errors_cannot_drive_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A name with an escape sequence is shown, not obeyed."""
    assert (
        main(["train", str(tmp_path / "a\x1b[2J\x1b]0;b\x07.txt"), "--model", "tiny", "--out", str(tmp_path / "x")])
        == 1
    )
    said = capsys.readouterr().err
    assert "\x1b" not in said
    assert "\x07" not in said
    assert "a\\x1b[2J\\x1b]0;b\\x07.txt" in said


@pytest.fixture
def failing_doctor(monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception], None]:
    """Lets `tunesmith doctor` fail with an error."""
    monkeypatch.setenv("TUNESMITH_DEBUG", "0")

    def fail_with(error: Exception) -> None:
        def fail(**_: object) -> None:
            raise error

        monkeypatch.setattr(import_module("tunesmith.doctor.doctor"), "run_doctor", fail)

    return fail_with


def test_a_flag_of_doctor_without_the_one_it_belongs_to(capsys: pytest.CaptureFixture[str]) -> None:
    """`--yes` alone would do nothing."""
    assert main(["doctor", "--yes", "--quick"]) == 2
    assert capsys.readouterr().err == (
        "error: --yes has an effect only with --fix\nhint: write tunesmith doctor --fix --yes\n"
    )


def test_an_error_of_the_machine_has_its_cause_and_fix(
    failing_doctor: Callable[[Exception], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """What the rules know as the machine's fault."""
    failing_doctor(RuntimeError("CUDA error: no kernel image is available"))
    assert main(["doctor"]) == 1
    printed = capsys.readouterr().err.splitlines()
    assert [line.split(" ")[0] for line in printed] == ["error:", "hint:"]
    assert "no code for this GPU" in printed[0]


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2 must have the same dtype\n\nstack"), KeyError("loss")])
def test_an_unexpected_error_shows_its_place_and_how_to_report_it(
    error: Exception, failing_doctor: Callable[[Exception], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """A short message with file and line, and an own exit code; a rule about other scripts does not apply."""
    failing_doctor(error)
    assert main(["doctor"]) == 70
    printed = capsys.readouterr().err.splitlines()
    first = str(error).splitlines()[0]
    assert re.fullmatch(rf"error: {type(error).__name__}: {first} \(in tunesmith/cli\.py:\d+\)", printed[0])
    assert printed[1].startswith("hint: this is a bug in tunesmith: report it")
    assert len(printed) == 2


@pytest.mark.parametrize("by", ["flag", "variable"])
@pytest.mark.parametrize("error", [RuntimeError("CUDA error: no kernel image is available"), KeyError("loss")])
def test_the_traceback_is_shown_on_request(
    by: str,
    error: Exception,
    failing_doctor: Callable[[Exception], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of every error, whatever the rules know of it, before the usual lines."""
    failing_doctor(error)
    if by == "variable":
        monkeypatch.setenv("TUNESMITH_DEBUG", "1")
    assert main(["doctor", *(["--traceback"] if by == "flag" else [])]) in {1, 70}
    printed = capsys.readouterr().err.splitlines()
    assert printed[0] == "Traceback (most recent call last):"
    assert any(line.startswith(type(error).__name__) for line in printed)
    assert printed[-1].startswith("hint:")


@pytest.mark.parametrize("command", [name for name in app if not name.startswith("-")])
def test_every_command_takes_traceback_and_shows_it_in_its_help(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before or after the other words; without an error it changes nothing."""
    monkeypatch.setenv("TUNESMITH_DEBUG", "0")
    assert main([command, "--help", "--traceback"]) == 0
    assert "--traceback" in capsys.readouterr().out


def test_a_user_error_has_a_traceback_on_request(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the exit code that it has anyway; after -- the flag is a word like any other."""
    monkeypatch.setenv("TUNESMITH_DEBUG", "0")
    assert main(["explain", "--", "--traceback"]) == 1
    assert "Traceback" not in capsys.readouterr().err
    assert main(["--traceback", "explain", "nowhere.log"]) == 1
    assert "Traceback" in capsys.readouterr().err
