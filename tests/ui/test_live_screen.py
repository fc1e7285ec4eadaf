"""The live screen: whatever the width and the language, each line fits and says what the events said."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

import tunesmith
from tunesmith.generation.generate import GeneratedText
from tunesmith.i18n import set_language
from tunesmith.monitoring.system_monitor import SystemReading
from tunesmith.training.events import Evaluated, PhaseStarted, RunStarted, Sampled, StepLogged, SystemMetricsLogged
from tunesmith.training.plan import TrainPlan
from tunesmith.ui.progress import Progress
from tunesmith.ui.training_view import BARS, LiveScreen, LossCurve, ResizedLive, sparkline
from tunesmith.utils import formatting

NUMBERS = {name: 1 for name, kind in TrainPlan.__annotations__.items() if kind in {int, float, bool, float | None}}
PLAN = TrainPlan(
    **{
        **NUMBERS,
        "device": "cuda",
        "device_name": "a GPU",
        "precision": "bfloat16",
        "reasons": dict.fromkeys(TrainPlan.__annotations__, "so"),
        "freeze": "none",
        "lora_target_modules": (),
        "lora_r": 0,
        "memory_mode": "fp32",
        "fused_backward": False,
        "activation_checkpointing": "none",
        "steps": 1000,
        "peak_memory_parts": {},
        "peak_memory_bytes": 4 << 30,
        "flops_per_token": 1e9,
        "device_flops_per_s": 1e13,
    }
)
SAMPLE = GeneratedText(
    "", "\u706f\u53f0\u306e\u706b\u304c\u71c3\u3048\u308b\u3002" * 40 + "\x1b[2J", 1, 0.8, "stop", [1], [-0.5]
)
READING = SystemReading(40.0, 1 << 30, 8 << 30, 32 << 30, 96.0, 5 << 30, 71.0, 212.0, 7200.0)


def step(number: int) -> StepLogged:
    """One of a thousand; the loss falls to 2."""
    loss = 5 - number / 100
    return StepLogged(number, number / 500, loss, 1e-4, 0.7, 500 * number, 6000.0, 3 << 30, 3700.0, 1.0, 0.1, 2.0)


def screen() -> LiveScreen:
    """One in the middle of a run on a GPU."""
    shown = LiveScreen(PLAN)
    for event in (
        Evaluated(0, 0.0, 5.3, 200.0, is_best=False),
        *(
            StepLogged(n, n / 500, 5 - n / 100, 1e-4, 0.7, 500 * n, 6000.0, 3 << 30, 3700.0, 1.0, 0.1, 2.0)
            for n in range(1, 301)
        ),
        SystemMetricsLogged(300, 2.0, READING),
        Evaluated(300, 0.6, 3.0, 20.0, is_best=True),
        Sampled(300, [SAMPLE]),
    ):
        shown.note(event)
    return shown


def lines(shown: LiveScreen, width: int) -> list[str]:
    """As a terminal of that width shows them."""
    console = Console(width=width, file=StringIO(), force_terminal=True, color_system=None)
    with console.capture() as captured:
        console.print(shown)
    return captured.get().splitlines()


@pytest.fixture(params=["en", "ja"])
def language(request: pytest.FixtureRequest) -> Iterator[str]:
    """One after the other."""
    set_language(request.param)
    yield request.param
    set_language("en")


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_no_line_is_broken(language: str, width: int) -> None:
    """Eight lines at any width, none longer, wide characters counted twice, nothing that drives a terminal."""
    found = lines(screen(), width)
    assert len(found) == 8
    assert all(cell_len(line) <= width for line in found)
    assert "\x1b" not in "".join(found)
    assert ("loss" if language == "en" else "\u640d\u5931") in found[1]


def test_what_it_says() -> None:
    """Phase, step, ETA, loss, change of perplexity, share of the peak, memory against plan, GPU, sample."""
    text = "\n".join(lines(screen(), 120))
    for part in (
        "training", "300/1,000", "ETA 1 h 1 min", "epoch 0.60/1", "2.000", "perplexity 20.00", "-90.0%", "200.00",
        "1.0e-04", "6,000 tokens/s, 60% of the GPU's peak", "3.0 GiB at the peak, planned 4.0 GiB", "GPU 96 %",
        "71 \u00b0C", "212 W", "2.0 Wh", "RAM 8.0 GiB of 32.0 GiB", "\u706f\u53f0",
    ):  # fmt: skip
        assert part in text


def test_a_gpu_of_unknown_speed_has_no_share_of_its_peak() -> None:
    """The speed that was measured stands alone."""
    shown = LiveScreen(replace(PLAN, device_flops_per_s=None, step_s=None))
    shown.note(step(10))
    text = "\n".join(lines(shown, 100))
    assert "6,000 tokens/s" in text
    assert "peak," not in text.replace("at the peak,", "")
    assert "%" not in text


def test_a_run_that_was_asked_to_end_shows_it_at_once() -> None:
    """Also while a long evaluation keeps the loop from telling; not any more once it has ended."""
    shown = LiveScreen(PLAN, is_stopping=lambda: True)
    shown.note(PhaseStarted("evaluating"))
    assert lines(shown, 80)[0].startswith("stopping")
    shown.break_off()
    assert lines(shown, 80)[0].startswith("stopped")


def test_phases() -> None:
    """What takes its time is named while it does."""
    shown = screen()
    shown.note(PhaseStarted("evaluating"))
    assert lines(shown, 80)[0].startswith("evaluating")
    shown.note(PhaseStarted("sampling"))
    assert lines(shown, 80)[0].startswith("writing samples")
    assert len(lines(LiveScreen(PLAN), 80)) == 1  # nothing is known yet


def test_sparkline() -> None:
    """Lowest and highest bar for lowest and highest value; a long history keeps its shape in means."""
    assert sparkline([0.0, 1.0, 0.5]) == BARS[0] + BARS[-1] + BARS[4]
    assert sparkline([]) == ""
    assert sparkline([2.0, 2.0]) == BARS[0] * 2
    history = LossCurve()
    for value in range(10_000):
        history.add(float(value))
    assert history.drawn(8) == BARS
    assert len(history.drawn(1000)) < 256


def test_numbers_of_a_real_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The summary's figures are those that the metrics file gives."""
    text = tmp_path / "text.txt"
    text.write_text("".join(f"Night {n}: wind {n % 7}, lamp steady.\n" for n in range(80)), "utf-8")
    with Progress(quiet=False) as progress:
        result = tunesmith.train(
            text, model="tiny", out=tmp_path / "run", max_steps=8, context_length=64, tokens_per_step=256,
            eval_steps=4, on_event=progress.show,
        )  # fmt: skip
    summary = progress.summary(result)
    written = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text("utf-8").splitlines()]
    steps = [line for line in written if line["kind"] == "step"]
    evaluations = {line["step"]: line["val_perplexity"] for line in written if line["kind"] == "eval"}
    best = min((step for step in evaluations if step), key=evaluations.__getitem__)
    assert f"{evaluations[0]:.2f} before, {evaluations[best]:.2f} after" in summary
    assert f"after step {best} of 8" in summary
    speed = steps[-1]["tokens"] / steps[-1]["training_s"]
    assert f"{steps[-1]['tokens']:,} tokens at {formatting.rate(speed)}" in summary
    assert f"{formatting.memory(result.peak_memory_bytes)}; the plan said" in summary
    assert f"open {tmp_path / 'run' / 'report.html'} in a browser" in summary
    assert len(summary.split("next:\n")[1].splitlines()) == 3
    assert "warning" not in capsys.readouterr().err


def test_a_plan_opens_the_screen_on_a_terminal_only(capsys: pytest.CaptureFixture[str]) -> None:
    """In a pipe nothing is redrawn."""
    with Progress(quiet=False) as progress:
        progress.show(RunStarted("tiny", 1, Path("out"), PLAN, 0))
        progress.show(PhaseStarted("evaluating"))
    assert "\x1b" not in capsys.readouterr().err


def test_a_window_that_became_narrower_keeps_nothing_of_the_old_screen() -> None:
    """Terminals wrap what stands there: as many rows are cleared as that takes, and no more."""
    file = StringIO()
    console = Console(file=file, force_terminal=True, width=110, height=40, color_system=None)
    live = ResizedLive(screen(), console=console, refresh_per_second=0.001)
    live.start()
    live.refresh()
    drawn = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue()).split("\r")[-1].splitlines()
    assert len(drawn) == 8
    for width in (50, 200):
        file.truncate(0)
        console.width = width
        live.refresh()
        rows = sum(-(-cell_len(line) // width) for line in drawn)
        assert file.getvalue().count("\x1b[1A") == rows - 1  # the cursor stands in the last of them
        drawn = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue()).replace("\0", "").split("\r")[-1].splitlines()
    live.stop()


def test_a_resumed_run_was_not_measured_before_training() -> None:
    """Its evaluations are compared with each other, and none is called that of the untrained model."""
    resumed = LiveScreen(PLAN)
    console = Console(file=StringIO(), width=110, color_system=None)
    for latest, shown in (
        (Evaluated(20, 2.0, 3.0, 20.0, is_best=True), "perplexity 20.00 (step 20)"),
        (Evaluated(30, 3.0, 2.9, 18.0, is_best=True), "perplexity 18.00  -10.0% (step 30)"),
    ):
        resumed.note(latest)
        with console.capture() as capture:
            console.print(resumed)
        assert shown in capture.get()
        assert "before training" not in capture.get()
