"""What is called JSON is JSON: numbers that are not finite are null, and whoever reads them knows what that means."""

import ast
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

import tunesmith
from tunesmith.cli import main
from tunesmith.model.hub import local_folder
from tunesmith.reporting.run_reader import read_run
from tunesmith.run_dir import JsonlWriter, RunDir
from tunesmith.serving.api_errors import JsonResponse
from tunesmith.utils.files import shown_json, to_json

PACKAGE = Path(tunesmith.__file__).parent
ROOT = Path(__file__).parents[1]
WRITERS = sorted([*PACKAGE.rglob("*.py"), *(ROOT / "recipes").rglob("*.py"), ROOT / "benchmarks" / "record.py"])
NAN, INF = float("nan"), float("inf")


def strictly(text: str | bytes) -> Any:
    """Parsed as other languages do: Python's own extensions are errors."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("path", WRITERS, ids=lambda path: path.name)
def test_nothing_writes_more_than_json(path: Path) -> None:
    """Every `json.dump` refuses NaN, and Starlette's answers, which fail on it, are made in one place."""
    loose = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"json.dump", "json.dumps", "dump", "dumps"}:
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            loose += [node.lineno] if given.get("allow_nan") != "False" else []
        if isinstance(node, ast.ImportFrom) and node.module == "starlette.responses":
            names = {alias.name for alias in node.names}
            loose += [node.lineno] if "JSONResponse" in names and path.name != "api_errors.py" else []
    assert loose == []


def test_the_writer(tmp_path: Path) -> None:
    """Wherever they are, and in no other form than before for all else; text that says NaN stays."""
    value = {"a": [1.5, NAN, {"b": (INF, -INF, "NaN", True, None, 3)}], "c": "漢字"}
    assert strictly(to_json(value)) == {"a": [1.5, None, {"b": [None, None, "NaN", True, None, 3]}], "c": "漢字"}
    assert to_json({"a": [1.5, "漢字"]}) == '{"a": [1.5, "漢字"]}'
    assert JsonResponse({"logprobs": [-INF, -1.5]}).body == b'{"logprobs":[null,-1.5]}'
    JsonlWriter(tmp_path / "lines").append({"grad_norm": INF})
    assert (tmp_path / "lines").read_text("utf-8") == '{"grad_norm": null}\n'
    assert [shown_json(one) for one in (None, True, "a", NAN)] == ["null", "true", '"a"', "nan"]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """A few samples."""
    path = tmp_path / "log.txt"
    path.write_text("\n".join(f"Night {night}, lamp steady." for night in range(40)), "utf-8")
    return path


def test_a_run_without_clipping(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`max_grad_norm` infinite is null in run.json, is infinite again when resumed, and is reported."""
    out = tmp_path / "run"
    options: dict[str, Any] = {"model": "tiny", "max_steps": 4, "tokens_per_step": 256, "max_grad_norm": math.inf}
    for event in tunesmith.training_events(text, out=out, **options):
        if isinstance(event, tunesmith.events.RunStarted):
            assert event.plan.max_grad_norm == math.inf
        if isinstance(event, tunesmith.events.StepLogged) and event.step == 2:
            break
    kept = strictly((out / "run.json").read_text("utf-8"))
    assert (kept["config"]["max_grad_norm"], kept["plan"]["max_grad_norm"]) == (None, None)
    assert tunesmith.train(out=out, resume=True).steps == 4
    tunesmith.train(text, out=tmp_path / "whole", **options)
    assert (out / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
    for file in out.rglob("*.json"):
        strictly(file.read_text("utf-8"))
    for line in (out / "metrics.jsonl").read_text("utf-8").splitlines():
        strictly(line)
    assert read_run(out).plan["max_grad_norm"] == math.inf
    page = Path(tunesmith.report(out)["report"]).read_text("utf-8")
    assert "--max-grad-norm inf" in page
    assert not re.search(r'="[^"]*(nan|inf)[^"]*"', page.split("<svg", 1)[1].split("</svg>")[0])
    assert main(["runs", "--compare", str(out), str(tmp_path / "whole"), "--json"]) == 0
    strictly(capsys.readouterr().out)


@pytest.fixture
def sure_model(tmp_path: Path) -> Path:
    """A model so sure of the wrong token that its perplexity fits no float."""
    folder = tmp_path / "sure"
    folder.mkdir()
    for file in local_folder("tiny").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("ln_f.weight"))
    weights[name] = weights[name] * 1e4
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_an_infinite_perplexity(
    sure_model: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is null for other programs and infinite in Python and in the table."""
    assert tunesmith.evaluate(sure_model, text)["perplexity"] == math.inf
    command = ["evaluate", str(sure_model), str(text), "--base", "tiny"]
    assert main([*command, "--json", "--out", str(tmp_path / "each.jsonl")]) == 0
    found = strictly(capsys.readouterr().out)
    assert (found["perplexity"], found["difference"]["perplexity"]["value"]) == (None, None)
    assert found["loss"] > 709
    for line in (tmp_path / "each.jsonl").read_text("utf-8").splitlines():
        strictly(line)
    assert main(command) == 0
    assert "inf to inf" in capsys.readouterr().out


def test_a_run_that_began_with_an_infinite_perplexity(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Report, list and explanation of it are whole, for people and for programs."""
    out = tmp_path / "run"
    tunesmith.train(text, out=out, model="tiny", max_steps=2, tokens_per_step=256)
    run = RunDir(out)
    run.finish({**run.read_metadata()["result"], "base_perplexity": INF})
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text("utf-8").splitlines()]
    (out / "metrics.jsonl").unlink()
    for line in lines:
        is_first = line["kind"] == "eval" and line["step"] == 0
        run.append("metrics.jsonl", {**line, "val_perplexity": INF} if is_first else line)
    assert strictly((out / "run.json").read_text("utf-8"))["result"]["base_perplexity"] is None
    assert read_run(out).evaluations[0].perplexity == math.inf
    capsys.readouterr()
    for command, word in (("report", "report.html"), ("explain", "36 samples"), ("runs", "finished")):
        assert main([command, str(out), "--json"]) == 0
        strictly(capsys.readouterr().out)
        assert main([command, str(out)]) == 0
        assert word in capsys.readouterr().out


def test_an_evaluation_that_was_no_number_stays_one(text: Path, tmp_path: Path) -> None:
    """Null for a loss is NaN for whoever reads the run: the evaluation was made, and is not the best."""
    out = tmp_path / "run"
    tunesmith.train(text, out=out, model="tiny", max_steps=2, tokens_per_step=256)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text("utf-8").splitlines()]
    last = [line for line in lines if line["kind"] == "eval"][-1]
    JsonlWriter(out / "metrics.jsonl").append(
        {**last, "step": 3, "val_loss": NAN, "val_perplexity": INF, "is_best": False}
    )
    spike = {"kind": "loss_spike", "step": 3, "train_loss": INF, "usual_loss": 2.0}
    JsonlWriter(out / "metrics.jsonl").append(spike)
    run = read_run(out)
    assert math.isnan(run.evaluations[-1].loss)
    assert run.best is not None
    assert run.best.step == last["step"]
    assert tunesmith.explain(out)["name"] == "overfit"
    assert "loss-spikes" in str(tunesmith.explain(out))
    assert Path(tunesmith.report(out)["report"]).is_file()
