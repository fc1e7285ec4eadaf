"""`prepare`: the report is true, the preview is what the model sees, and the folder trains."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import tunesmith
from tunesmith.cli import main
from tunesmith.preparation.lint import length_histogram

LINES = [f"Night {number}. Wind {number % 7}, lamp steady." for number in range(50)] + [
    "",
    "Night 3. Wind 3, lamp steady.",
]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Fifty samples, an empty one, and a copy."""
    path = tmp_path / "log.txt"
    path.write_text("\n".join(LINES) + "\n", encoding="utf-8")
    return path


def test_the_report_counts_truly(text: Path, make_model_folder: Callable[..., Path]) -> None:
    """Samples, bytes, duplicates and what was left out are those of the file."""
    report = tunesmith.prepare(text, tokenizer=make_model_folder(), split_on="line")
    filled = [line for line in LINES if line]
    assert report["samples"] == len(filled)
    assert report["bytes"] == report["characters"] == sum(map(len, filled))
    assert report["dropped"] == {"empty": 1, "undecodable": 0, "duplicates": 0}
    assert report["duplicate_samples"] == 1
    assert report["val_samples"] >= 5
    assert sum(part["samples"] for part in report["lengths"]) == len(filled)
    assert report["sources"][0]["encoding"] == "utf-8"
    assert report["sources"][0]["split_on"] == "line"
    assert report["longest"][0]["tokens"] >= report["longest"][1]["tokens"]
    assert any("are little" in warning for warning in report["warnings"])
    assert [shown[: len("<|endoftext|>\u27e6Night")] for shown in report["preview"]] == ["<|endoftext|>\u27e6Night"] * 3
    assert all(shown.endswith("steady.<|endoftext|>\u27e7") for shown in report["preview"])


def test_the_preview_marks_what_is_given(tmp_path: Path, make_model_folder: Callable[..., Path]) -> None:
    """Of a pair only the completion stands between the brackets."""
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps({"question": f"q{n}?", "answer": f"a{n}"}) + "\n" for n in range(9)), "utf-8")
    report = tunesmith.prepare(path, tokenizer=make_model_folder(), preview=9)
    expected = {f"<|endoftext|>q{n}?\n\u27e6a{n}<|endoftext|>\u27e7" for n in range(9)}
    assert len(report["preview"]) == 8
    assert set(report["preview"]) < expected
    assert report["prompt_tokens"] > 0


def test_long_samples_are_previewed_window_by_window(tmp_path: Path, make_model_folder: Callable[..., Path]) -> None:
    """A document continues in the next window, behind the last token of the one before."""
    path = tmp_path / "novel.md"
    path.write_text(" ".join(f"word{n}" for n in range(400)), encoding="utf-8")
    report = tunesmith.prepare(path, tokenizer=make_model_folder(), preview=2)
    first, second = report["preview"]
    assert first.startswith("<|endoftext|>\u27e6word0 ")
    assert "<|endoftext|>" not in first[13:]
    assert not second.startswith("<|endoftext|>")
    assert report["val_by"] == "the end of each document"


def test_a_prepared_folder_trains(text: Path, make_model_folder: Callable[..., Path], tmp_path: Path) -> None:
    """`prepare --out DIR`, then `train DIR`: the same run as from the file; another tokenizer is refused."""
    model = make_model_folder()
    out = tmp_path / "tokens"
    tunesmith.prepare(text, tokenizer=model, out=out)
    one = tunesmith.train(out, model=model, out=tmp_path / "a", max_steps=3)
    other = tunesmith.train(text, model=model, out=tmp_path / "b", max_steps=3)
    assert one.perplexity == other.perplexity
    with pytest.raises(tunesmith.UserError, match="prepared with another tokenizer"):
        tunesmith.train(out, model="tiny", out=tmp_path / "c")
    with pytest.raises(tunesmith.UserError, match="already holds something"):
        tunesmith.prepare(text, tokenizer=model, out=out)


def test_the_report_in_a_terminal(
    text: Path,
    make_model_folder: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Sources with encoding and borders, counts, a drawn histogram, preview, warnings, and the next command."""
    monkeypatch.setenv("COLUMNS", "80")
    model = str(make_model_folder())
    capsys.readouterr()
    assert main(["prepare", str(text), "--tokenizer", model, "--split-on", "line"]) == 0
    printed = capsys.readouterr()
    assert "51 samples  utf-8" in printed.out
    assert "split on line" in printed.out
    assert "\u2588" in printed.out
    assert "1 empty samples" in printed.out
    assert f"tunesmith train {text}" in printed.out
    assert [line for line in printed.out.splitlines() if len(line) > 80 and "tunesmith train" not in line] == []
    assert printed.err == ""


@pytest.mark.parametrize(
    ("flags", "code", "named"),
    [
        (["--template", "{completion}{prompt}"], 1, "--template '{completion}{prompt}'"),
        (["--encoding", "klingon"], 1, "--encoding klingon"),
        (["--val-fraction", "0"], 1, "--val-fraction 0"),
        (["--on-bad-bytes", "ignore"], 2, "ignore"),
        (["--text-field", "body"], 0, ""),
    ],
)
def test_impossible_flags(
    flags: list[str], code: int, named: str, text: Path, make_model_folder: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Each is one error that names it; a field is of no concern to running text."""
    assert main(["prepare", str(text), "--tokenizer", str(make_model_folder()), *flags]) == code
    assert named in capsys.readouterr().err


def test_torch_is_not_needed(text: Path, make_model_folder: Callable[..., Path]) -> None:
    """Text can be prepared where torch is missing or broken."""
    code = "import sys; sys.modules['torch'] = None; from tunesmith.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "prepare", str(text), "--tokenizer", str(make_model_folder()), "--json"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)["samples"] == 51


def test_histogram_bins_double() -> None:
    """Every sample is in one bin, borders are powers of two, and the longest is not lost."""
    import numpy as np  # noqa: PLC0415

    bins = length_histogram(np.array([1, 2, 3, 4, 7, 8, 64]))
    assert [(part.from_tokens, part.to_tokens, part.samples) for part in bins] == [
        (1, 2, 1), (2, 4, 2), (4, 8, 2), (8, 16, 1), (16, 32, 0), (32, 64, 0), (64, 128, 1)
    ]  # fmt: skip
