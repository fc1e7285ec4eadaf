"""What a person sees of a run, in a pipe."""

from dataclasses import replace
from pathlib import Path

import pytest

from tunesmith.generation.generate import GeneratedText
from tunesmith.training.events import Evaluated, RunStarted, Sampled, StepLogged, TrainResult
from tunesmith.training.plan import TrainPlan
from tunesmith.ui.progress import Progress
from tunesmith.utils.formatting import duration, memory

NUMBERS = {
    field: 1
    for field, kind in TrainPlan.__annotations__.items()
    if kind in {int, float, bool, float | None} and field != "reasons"
}
REASONS = {name: f"because of {name}" for name in TrainPlan.__annotations__}
PLAN = TrainPlan(
    **{
        **NUMBERS,
        "device": "cpu",
        "device_name": "a CPU",
        "precision": "float32",
        "reasons": REASONS,
        "freeze": "none",
        "lora_r": 0,
        "lora_target_modules": (),
        "memory_mode": "fp32",
        "fused_backward": False,
        "activation_checkpointing": "selective",
        "peak_memory_bytes": 5 << 30,
        "peak_memory_parts": {"weights": 5 << 30},
    }
)
RESULT = TrainResult(
    200.0, 20.0, 8, 10, 5000, 75.0, 66.0, 3 << 30, 5 << 30, 70.0, 9000.0, "out", interrupted=False, stopped_by=""
)


def text(words: str, reason: str = "stop") -> GeneratedText:
    """A sample."""
    return GeneratedText("", words, 1, 0.8, reason, [1], [-0.5])


def step(number: int) -> StepLogged:
    """A step of ten."""
    return StepLogged(
        number, number / 10, 3.25, 1e-4, 0.7, 500 * number, 66.0, 3 << 30, 75.0, 7.5 * number, 0.1, 8.0 * number
    )


def shown(capsys: pytest.CaptureFixture[str], *, quiet: bool = False, result: TrainResult = RESULT) -> tuple[str, str]:
    """Progress and summary of a short run."""
    with Progress(quiet=quiet) as progress:
        progress.show(RunStarted("tiny", 1_800_000, Path("out"), replace(PLAN, steps=10), 0))
        progress.show(Evaluated(0, 0.0, 5.3, 200.0, is_best=False))
        progress.show(Sampled(0, [text("before\n\nit", "length")]))
        for number in range(1, 11):
            progress.show(step(number))
        progress.show(Evaluated(10, 1.0, 3.0, 20.0, is_best=True))
        progress.show(Sampled(8, [text("\x1b[31mafter " + "it " * 100)]))
    return capsys.readouterr().err, progress.summary(result)


def test_plan_and_lines_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    """The plan with its reasons, then the first and the last step with loss, perplexity, rate, speed, memory, ETA."""
    progress, _ = shown(capsys)
    assert "because of tokens_per_step" in progress
    assert "tiny, 1.8M parameters" in progress
    assert "before training: validation perplexity 200.00" in progress
    (first, last) = (line for line in progress.splitlines() if line.startswith("step "))
    assert first == "step 1/10  epoch 0.10  ETA 1 min 15 s  loss 3.250  val ppl 200.0  lr 1.0e-04  66 tok/s  3.0 GiB"
    assert last.startswith("step 10/10")
    assert "epoch 1.00, step 10: validation perplexity 20.00  (best so far)" in progress
    assert "\x1b" not in progress


def test_summary(capsys: pytest.CaptureFixture[str]) -> None:
    """Before and after, in figures and in samples, and what to do next."""
    _, summary = shown(capsys)
    assert "200.00 before, 20.00 after" in summary
    assert "after step 8 of 10" in summary
    assert "3.0 GiB; the plan said 5.0 GiB" in summary
    assert "before / it [continues]" in summary
    assert "\ufffd[31mafter it" in summary
    assert "\x1b" not in summary
    assert "..." in summary
    assert "tunesmith generate out -n 5" in summary
    assert "did not get better" not in summary


def test_a_run_that_made_it_worse_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    """A tuned model that is worse than its base is never presented as a success."""
    _, summary = shown(capsys, result=replace(RESULT, perplexity=210.0))
    assert "did not get better" in summary
    assert "lower --learning-rate" in summary


def test_quiet_and_interrupted(capsys: pytest.CaptureFixture[str]) -> None:
    """--quiet says nothing on the way; an interrupted run says where it stopped."""
    progress, summary = shown(capsys, quiet=True, result=replace(RESULT, perplexity=None, interrupted=True))
    assert progress == ""
    assert "stopped at step" in summary
    assert "next:" not in summary


def test_units() -> None:
    """Durations and sizes as a person writes them."""
    assert [duration(s) for s in (0.4, 59, 60, 3599, 12_000)] == [
        "0 s",
        "59 s",
        "1 min 0 s",
        "59 min 59 s",
        "3 h 20 min",
    ]
    assert [memory(n) for n in (1 << 20, 1023 << 20, 1 << 30)] == ["1 MiB", "1023 MiB", "1.0 GiB"]


def test_what_the_plan_did_not_know_is_not_compared(capsys: pytest.CaptureFixture[str]) -> None:
    """A GPU of unknown speed has no planned time: the summary tells what it took."""
    _, summary = shown(capsys, result=replace(RESULT, predicted_duration_s=None))
    assert "the plan said" in summary  # of the memory
    (took,) = (line for line in summary.splitlines() if line.startswith("took"))
    assert "the plan said" not in took
