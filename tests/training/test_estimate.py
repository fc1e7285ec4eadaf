"""`plan`: which way is taken, for which model on which GPU, and that nothing is needed for the answer."""

import json
from pathlib import Path
from typing import Any

import pytest

import tunesmith
from tunesmith.cli import main
from tunesmith.config import PlanConfig
from tunesmith.errors import DoesNotFitError, UserError
from tunesmith.optim.state_format import STATE_FORMATS
from tunesmith.planning.calibration_cache import CalibrationCache
from tunesmith.planning.fit import choose_fit, fastest_fit, fit_candidates, fits
from tunesmith.planning.hardware import GIB, detect_hardware, hardware_for_gpu
from tunesmith.planning.memory_model import Calibration, estimate_memory, snapshot_bytes
from tunesmith.training.epoch import request_of
from tunesmith.training.estimate import estimate
from tunesmith.training.memory_calibration import MemoryCalibrator
from tunesmith.ui.plan_table import forecast_report

CARD = {"gpu": "RTX 4070 Ti"}
SHAKESPEARE = Path(__file__).parents[3] / "shared" / "data" / "tinyshakespeare"


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """A document of some thousand tokens."""
    path = tmp_path / "text.txt"
    path.write_text("The lamp burns, the wind is in the north, and no ship came near today. " * 400, encoding="utf-8")
    return path


@pytest.mark.parametrize(("model", "memory_mode"), [("gpt2", "fp32"), ("gpt2-medium", "fp32"), ("gpt2-large", "8bit")])
def test_twelve_gigabytes_take_the_most_faithful(model: str, memory_mode: str, text: Path) -> None:
    """What fits is taken in order, and the better one that does not is named with its bytes."""
    plan = tunesmith.plan(text, model=model, **CARD)
    assert plan["memory_mode"] == memory_mode
    assert plan["fits"]
    assert plan["peak_memory_bytes"] == sum(plan["peak_memory_parts"].values()) <= plan["budget_bytes"]
    if memory_mode != "fp32":
        assert "fp32, more faithful, takes" in plan["reasons"]["memory_mode"]


@pytest.mark.skipif(not SHAKESPEARE.exists(), reason="the shared texts are not here")
def test_the_largest_is_trained_whole_on_twelve_gigabytes() -> None:
    """GPT-2 XL, all of its weights learned, under 11.2 GiB; the parts are named."""
    plan = tunesmith.plan(SHAKESPEARE, model="gpt2-xl", vram="12GB")
    assert plan["fits"]
    assert plan["peak_memory_bytes"] < 11.2 * GIB
    assert plan["lora_r"] == 0
    assert plan["freeze"] == "none"
    assert set(plan["peak_memory_parts"]) == {
        "weights", "moments", "gradients", "activations", "loss", "casts", "workspace",
    }  # fmt: skip
    parts = plan["peak_memory_parts"]
    assert parts["weights"] > 1.5e9 * (4 if plan["memory_mode"].startswith("split") else 2)
    for key in ("tokens_per_step", "tokens_per_micro_batch", "steps", "duration_s"):
        assert plan[key] > 0


def test_weights_are_updated_in_the_backward_pass_where_that_is_needed_or_requested() -> None:
    """GPT-2 XL on 12 GB needs it for split weights; without it the weights are bf16; 24 GB do not."""
    found = {
        (vram, fused): (plan["memory_mode"], plan["fused_backward"])
        for vram, fused in [("12GB", "auto"), ("12GB", "no"), ("24GB", "auto"), ("24GB", "yes")]
        for plan in [tunesmith.plan(model="gpt2-xl", vram=vram, fused_backward=fused, memory_mode="auto")]
    }
    assert found == {
        ("12GB", "auto"): ("split-8bit", True),
        ("12GB", "no"): ("bf16-8bit", False),
        ("24GB", "auto"): ("8bit", False),
        ("24GB", "yes"): ("split-8bit", True),
    }
    named = tunesmith.plan(model="gpt2-xl", vram="12GB", memory_mode="split-8bit")
    assert (named["memory_mode"], named["fused_backward"]) == ("split-8bit", True)
    assert "all gradients at once take" in named["reasons"]["memory_mode"]


def test_the_way_taken_is_the_first_that_fits_and_the_fastest() -> None:
    """Against a plain search over everything; less memory never leads to a more faithful way."""
    config = PlanConfig(model="gpt2-xl")
    shape, corpus = _parts(config)
    faithful = list(STATE_FORMATS)
    before = -1
    for gib in (48, 24, 16, 12, 10, 8):
        hardware = hardware_for_gpu(None, f"{gib}GB")
        request, _ = request_of(config, shape, corpus, hardware, CalibrationCache({}))
        chosen = choose_fit(request, hardware)
        assert fits(chosen, hardware)
        place = faithful.index(chosen.demand.states.label)
        assert place >= before
        before = place
        for name in faithful[:place]:
            assert not any(fits(way, hardware) for way in fit_candidates(request, hardware, STATE_FORMATS[name]))
        others = [way for way in fit_candidates(request, hardware, chosen.demand.states) if fits(way, hardware)]
        assert chosen.step_s == min(way.step_s for way in others)
        assert chosen.demand.tokens * chosen.demand.micro_batches >= request.step_tokens  # the batch stays
    assert before > 0
    with pytest.raises(DoesNotFitError, match="training needs"):
        choose_fit(request, hardware_for_gpu(None, "3GB"))


def test_what_was_measured_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A correction that was learned is kept on disk and makes the next plan smaller."""
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    config, hardware = PlanConfig(model="gpt2"), hardware_for_gpu("RTX 3060", None)
    shape, corpus = _parts(config)
    request, _ = request_of(config, shape, corpus, hardware, CalibrationCache({}))
    first = fastest_fit(request, hardware, STATE_FORMATS["fp32"])
    assert not CalibrationCache.kept().knows(first.demand, hardware)
    CalibrationCache.kept().learn(first.demand, hardware, Calibration(1.3, 3 * GIB))
    kept = CalibrationCache.kept()
    assert kept.knows(first.demand, hardware)
    request, _ = request_of(config, shape, corpus, hardware, kept)
    second = fastest_fit(request, hardware, STATE_FORMATS["fp32"])
    same = [way for way in fit_candidates(request, hardware, STATE_FORMATS["fp32"]) if way.demand == first.demand]
    assert same[0].memory.peak_bytes > first.memory.peak_bytes + 2 * GIB
    assert fits(second, hardware)
    (tmp_path / "cache" / "memory_calibration.json").write_text("[", encoding="utf-8")
    assert CalibrationCache.kept().corrections == {}


def test_what_a_process_held_before_is_no_lesson(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A run beside a notebook's tables needs no more than one beside nothing; where it is planned, they count."""
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    config, hardware = PlanConfig(model="gpt2"), detect_hardware("cpu", "fp32")
    shape, corpus = _parts(config)
    request, _ = request_of(config, shape, corpus, hardware, CalibrationCache({}))
    demand = fastest_fit(request, hardware, STATE_FORMATS["fp32"]).demand
    computed = estimate_memory(demand, Calibration()).peak_bytes + snapshot_bytes(demand)
    beside_tables = CalibrationCache({}, held_bytes=4 * GIB)
    assert beside_tables.correction(demand, hardware).workspace_bytes > 4 * GIB
    MemoryCalibrator(demand, hardware, beside_tables, 4 * GIB).after_run(computed + 4 * GIB + GIB)
    learned = CalibrationCache.kept().corrections
    assert CalibrationCache(learned).correction(demand, hardware).workspace_bytes == GIB
    assert CalibrationCache(learned, 2 * GIB).correction(demand, hardware).workspace_bytes == 3 * GIB
    # a peak of an earlier run in the same process says nothing of this one
    MemoryCalibrator(demand, hardware, CalibrationCache.kept(), 99 * GIB).after_run(99 * GIB)
    assert CalibrationCache.kept().corrections == learned


def test_too_small_a_card_is_told(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The answer is a table with a reason, not an error; `train` would refuse with the same words."""
    assert main(["plan", str(text), "--model", "gpt2-xl", "--vram", "3GB"]) == 0
    printed = capsys.readouterr().out
    assert "does not fit" in printed
    assert "training needs" in printed
    assert not tunesmith.plan(text, model="gpt2-xl", vram="3GB")["fits"]


def test_the_table_can_be_read(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All four sizes, every line within the width, one way marked for each that fits, no escape codes in a pipe."""
    report = forecast_report(
        estimate(PlanConfig(sources=(str(text),), model="gpt2-large", gpu="RTX 4070 Ti")), width=80
    )
    body, notes = report.rsplit("note:", 1)
    assert all(len(line) <= 80 for line in body.splitlines())
    assert "\x1b" not in report
    assert "estimated" in notes
    for name in ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"):
        assert any(line.startswith(f"{name} ") for line in body.splitlines())
    assert sum(" > " in line for line in body.splitlines()) == 4
    assert main(["plan", "--model", "gpt2", "--vram", "8GB", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["methods"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"model": "nobody/nothing", "vram": "12GB"}, "is not known here"),
        ({"gpu": "Voodoo"}, "unknown GPU"),
        ({"vram": "twelve"}, "is not an amount of memory"),
        ({"vram": "12GB", "lora_r": 8, "memory_mode": "cpu-offload"}, "exclude each other"),
        ({"gpu": "RTX 2080 Ti", "memory_mode": "cpu-offload"}, "fp16 needs all gradients"),
        ({"gpu": "RTX 2080 Ti", "fused_backward": "yes"}, "^fused_backward yes: fp16 needs all gradients"),
        ({"vram": "12GB", "memory_mode": "fp32", "fused_backward": "yes"}, "goes with memory_mode split-8bit"),
        ({"vram": "12GB", "optimizer": "muon", "fused_backward": "yes"}, "and with AdamW"),
        ({"vram": "12GB", "lora_r": 8, "fused_backward": "yes"}, "exclude each other"),
    ],
)
def test_mistakes(flags: dict[str, Any], message: str) -> None:
    """Named, with a hint."""
    with pytest.raises(UserError, match=message):
        tunesmith.plan(**flags)


def test_this_machine_without_a_card(text: Path) -> None:
    """A processor: what other programs leave of the memory."""
    plan = tunesmith.plan(text, model="tiny", device="cpu")
    assert plan["device"] == "cpu"
    assert "are free" in plan["reasons"]["peak_memory_bytes"]


def _parts(config: PlanConfig) -> Any:
    from tunesmith.training.estimate import _corpus, _shape

    shape, folder = _shape(config.model)
    return shape, _corpus(config, shape, folder, [])
