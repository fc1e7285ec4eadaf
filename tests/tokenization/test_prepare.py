"""`prepare`: the report is true, the preview is what the model sees, and the folder trains."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import tunesmith
from tunesmith.cli import main
from tunesmith.data.checks import length_histogram
from tunesmith.errors import UserError

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
    assert sum(part["samples"] for part in report["length_histogram"]) == len(filled)
    assert report["sources"][0]["encoding"] == "utf-8"
    assert report["sources"][0]["split_on"] == "line"
    assert report["longest"][0]["tokens"] >= report["longest"][1]["tokens"]
    assert any("tokens: the model" in warning for warning in report["warnings"])
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
    assert report["val_method"] == "document-ends"


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
    with pytest.raises(tunesmith.UserError, match="already exists"):
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
        (["--encoding-errors", "ignore"], 2, "ignore"),
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
    import numpy as np

    bins = length_histogram(np.array([1, 2, 3, 4, 7, 8, 64]))
    assert [(part.from_tokens, part.to_tokens, part.samples) for part in bins] == [
        (1, 2, 1), (2, 4, 2), (4, 8, 2), (8, 16, 1), (16, 32, 0), (32, 64, 0), (64, 128, 1)
    ]  # fmt: skip


def test_repetitions_are_counted_and_left_out_when_asked(
    tmp_path: Path, make_model_folder: Callable[..., Path]
) -> None:
    """Exact and near copies are named; each choice of --dedupe leaves out what it says, and every count follows."""
    long = [" ".join(f"word{(number * 7 + place * place) % 61}" for place in range(60)) for number in range(20)]
    path = tmp_path / "text.txt"
    path.write_text("\n".join([*long, *long[:3], long[5] + " end"]) + "\n", encoding="utf-8")
    model = make_model_folder()
    reports = {
        dedupe: tunesmith.prepare(path, tokenizer=model, split_on="line", dedupe=dedupe)
        for dedupe in ("none", "exact", "near")
    }
    assert [report["samples"] for report in reports.values()] == [24, 21, 20]
    assert [report["dropped"]["duplicates"] for report in reports.values()] == [0, 3, 4]
    for report in reports.values():
        assert (report["duplicate_samples"], report["near_duplicate_samples"]) == (3, 1)
    assert reports["near"]["bytes"] == sum(map(len, long))
    assert sum(part["samples"] for part in reports["near"]["length_histogram"]) == 20


def test_weights_belong_to_sources(tmp_path: Path, text: Path, make_model_folder: Callable[..., Path]) -> None:
    """They are kept with the tokens; a number too few, or none above 0, is an error."""
    other = tmp_path / "other.txt"
    other.write_text("one\ntwo\nthree\n", encoding="utf-8")
    model = make_model_folder()
    report = tunesmith.prepare(text, other, tokenizer=model, source_weights=(1, 2.5), split_on="line")
    assert report["weights"] == [1, 2.5]
    for weights in [(1,), (1, 0), (1, 2, 3)]:
        with pytest.raises(UserError, match="does not give each of the 2 sources a number above 0"):
            tunesmith.prepare(text, other, tokenizer=model, source_weights=weights)


def test_prepared_folders_stand_alone(tmp_path: Path, text: Path, make_model_folder: Callable[..., Path]) -> None:
    """Tokens are not text: they cannot be prepared again, nor mixed with files."""
    model = make_model_folder()
    folder = tmp_path / "tokens"
    tunesmith.prepare(text, tokenizer=model, out=folder)
    with pytest.raises(UserError, match="prepared already"):
        tunesmith.prepare(folder, tokenizer=model)
    with pytest.raises(UserError, match="must be the only source"):
        tunesmith.train(folder, text, model=model, out=tmp_path / "out")


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits are a matter of POSIX")
def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path) -> None:
    """Writing fails in the middle: one error with the file's name, and no trace; with room again it works."""
    text = tmp_path / "text.txt"
    text.write_text("".join(f"Night {number}, lamp steady.\n" for number in range(20_000)), encoding="utf-8")
    out = tmp_path / "tokens"
    run = "import resource, sys; from tunesmith.cli import main;"
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000));"
    arguments = ["prepare", str(text), "--tokenizer", "tiny", "--out", str(out)]
    full = subprocess.run(
        [sys.executable, "-c", f"{run}{limit} sys.exit(main(sys.argv[1:]))", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert full.returncode == 1
    assert [line.split(" ")[0] for line in full.stderr.splitlines()] == ["error:", "hint:"]
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]
    assert main(arguments) == 0


def test_an_unreadable_file_is_named(
    text: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The system's own words, the file, a hint; no traceback."""

    def refuse(path: Path, *_arguments: object, **_options: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("tunesmith.data.source_files.OPENERS", {"": refuse})
    assert main(["prepare", str(text), "--tokenizer", "tiny"]) == 1
    printed = capsys.readouterr().err.splitlines()
    assert printed == [f"error: {text}: Permission denied", "hint: check space and permissions"]


@pytest.mark.skipif(sys.platform == "win32", reason="signals are a matter of POSIX")
def test_an_interrupted_preparation_starts_cleanly(tmp_path: Path) -> None:
    """Killed while it writes, it leaves a temporary folder at most, which the next one sweeps."""
    text = tmp_path / "text.txt"
    text.write_text("".join(f"Night {number}, lamp steady.\n" for number in range(50_000)), encoding="utf-8")
    out = tmp_path / "tokens"
    arguments = ["prepare", str(text), "--tokenizer", "tiny", "--out", str(out), "--json"]
    kill = (
        "import os, signal, sys; from tunesmith.data.tokenize_corpus import SampleWriter;"
        "SampleWriter.columns = lambda self: os.kill(os.getpid(), signal.SIGKILL);"
        "from tunesmith.cli import main; main(sys.argv[1:])"
    )
    killed = subprocess.run([sys.executable, "-c", kill, *arguments], capture_output=True, check=False)
    assert killed.returncode == -9
    assert not out.exists()
    assert len(list(tmp_path.glob(".tokens.*.tmp"))) == 1
    assert main(arguments) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text.txt", "tokens"]
