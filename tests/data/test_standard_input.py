"""`-` as a SOURCE: piped text is like a file's, and nothing of it is left lying about."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

LINES = [f"Night {number}. Lamp steady ☂." for number in range(40)]
ROWS = [json.dumps({"question": f"Night {number}?", "answer": "Lamp steady."}) for number in range(40)]


def prepare(piped: bytes, *arguments: str, folder: Path) -> subprocess.CompletedProcess[bytes]:
    """`tunesmith prepare - ...` with text piped in; temporary files go into the folder."""
    command = [sys.executable, "-m", "tunesmith", "prepare", "-", "--tokenizer", "tiny", *arguments]
    environment = {**os.environ, "TMPDIR": str(folder)}
    return subprocess.run(command, input=piped, capture_output=True, check=False, env=environment)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_piped_lines_are_samples(encoding: str, tmp_path: Path) -> None:
    """Plain text is split and decoded as a file is."""
    answer = prepare("\n".join(LINES).encode(encoding), "--json", folder=tmp_path)
    assert answer.returncode == 0, answer.stderr.decode()
    report = json.loads(answer.stdout)
    assert report["samples"] == len(LINES)
    assert report["bytes"] == sum(len(line.encode()) for line in LINES)
    assert report["sources"][0]["name"] == "stdin"
    assert report["sources"][0]["encoding"] == encoding
    assert list(tmp_path.iterdir()) == []


def test_piped_json_lines_are_rows(tmp_path: Path) -> None:
    """Objects, one a line, are a table; the next command names the prepared tokens, for the pipe is empty now."""
    answer = prepare("\n".join(ROWS).encode(), folder=tmp_path)
    assert answer.returncode == 0, answer.stderr.decode()
    shown = answer.stdout.decode()
    assert "prompts" in shown
    assert "tunesmith train " + os.environ["TUNESMITH_CACHE"] in shown


@pytest.mark.parametrize(
    ("piped", "arguments", "named"),
    [(b"", (), "standard input is empty"), (b"a\nb\n", ("-",), "standard input can be read only once")],
)
def test_unusable_input(piped: bytes, arguments: tuple[str, ...], named: str, tmp_path: Path) -> None:
    """Nothing piped, or named twice: one error, one hint."""
    answer = prepare(piped, *arguments, folder=tmp_path)
    assert answer.returncode == 1
    lines = answer.stderr.decode().splitlines()
    assert [line.split(" ")[0] for line in lines] == ["error:", "hint:"]
    assert named in lines[0]


@pytest.mark.slow
def test_a_run_on_piped_text_resumes(tmp_path: Path) -> None:
    """The text of an interrupted run is found in the cache; without it the run says what is missing."""
    run = tmp_path / "run"
    command = [sys.executable, "-m", "tunesmith", "train"]
    first = [*command, "-", "--model", "tiny", "--out", str(run), "--max-steps", "2", "--device", "cpu", "--quiet"]
    subprocess.run(first, input="\n".join(LINES).encode(), capture_output=True, check=True)
    description = json.loads((run / "run.json").read_text("utf-8"))
    description["result"]["status"] = "interrupted"
    (run / "run.json").write_text(json.dumps(description), encoding="utf-8")
    resumed = subprocess.run([*command, "--resume", "--out", str(run)], capture_output=True, check=False, text=True)
    assert resumed.returncode == 0, resumed.stderr
    (run / "run.json").write_text(json.dumps(description), encoding="utf-8")
    environment = {**os.environ, "TUNESMITH_CACHE": tempfile.mkdtemp(dir=tmp_path)}
    lost = subprocess.run(
        [*command, "--resume", "--out", str(run)], capture_output=True, check=False, text=True, env=environment
    )
    assert lost.returncode == 1
    assert "standard input" in lost.stderr.splitlines()[0]
