"""The charts of one run, or of several laid over each other."""

from collections.abc import Callable, Sequence

import numpy as np

from tunesmith import quantities
from tunesmith.messages.catalogue import say
from tunesmith.reporting.chart import Chart, Mark, Series
from tunesmith.reporting.columns import Floats
from tunesmith.reporting.decimation import smoothed
from tunesmith.reporting.run_record import RunRecord

MOST_EPOCH_LINES = 24
SPIKE_FACTOR = 1.6
"""The loss axis ends so far above all but the highest hundredth of its points."""
PERPLEXITY_ROOM = 2.0
"""The perplexity axis ends at so many times the highest one after training began."""
BLUE, ORANGE, GREEN, PINK = range(4)


def learning_charts(run: RunRecord) -> list[Chart]:
    """What was learned, and how."""
    steps = run.steps["step"]
    return [
        _loss_chart(run),
        Chart(
            key="perplexity",
            title=say("Validation perplexity"),
            note=say(
                "Among how many tokens the model hesitates, on average, on text it has not seen. Lower is better."
            ),
            x_name=say("step"),
            series=[_validation(run, perplexity=True)],
            said=quantities.perplexity,
            marks=_best_mark(run, perplexity=True),
            verticals=_epoch_ends(run),
            vertical_name=say("end of an epoch"),
            from_zero=True,
            most_y=_perplexity_top(run),
        ),
        Chart(
            key="rate",
            title=say("Learning rate"),
            note=say("It rises during the warm-up, then falls to zero."),
            x_name=say("step"),
            series=[Series(say("learning rate"), steps, run.steps["learning_rate"], BLUE)],
            said=lambda value: f"{value:.2e}",
            axis_said=lambda value: f"{value:.1e}" if value else "0",
            from_zero=True,
        ),
        Chart(
            key="gradient",
            title=say("Gradient norm"),
            note=say("Before clipping. A few peaks are normal; a rise that stays is not."),
            x_name=say("step"),
            series=[
                Series(say("each step"), steps, run.steps["grad_norm"], BLUE, "faint"),
                Series(say("smoothed"), steps, smoothed(run.steps["grad_norm"]), BLUE),
                _level(say("--max-grad-norm"), steps, float(run.plan["max_grad_norm"]), ORANGE),
            ],
            said=lambda value: f"{value:.3g}",
            from_zero=True,
            most_y=_usual_top(run.steps["grad_norm"]),
        ),
    ]


def machine_charts(run: RunRecord) -> list[Chart]:
    """What the machine did meanwhile."""
    steps, machine = run.steps["step"], run.machine
    at = machine["step"]
    speed = tokens_per_s(run)
    unit = float(1 << 30 if float(run.plan["peak_memory_bytes"]) >= 1 << 30 else 1 << 20)
    return [
        Chart(
            key="speed",
            title=say("Speed"),
            note=say("Tokens learned per second while stepping; evaluations and saving are not counted."),
            x_name=say("step"),
            series=[
                Series(say("each step"), steps, speed, GREEN, "faint"),
                Series(say("smoothed"), steps, smoothed(speed), GREEN),
            ],
            said=quantities.rate,
            from_zero=True,
            most_y=_usual_top(speed),
        ),
        Chart(
            key="memory",
            title=say("Memory"),
            note=say("The peak so far, and what the plan said."),
            x_name=say("step"),
            series=[
                Series(say("peak so far"), steps, run.steps["peak_memory_bytes"] / unit, BLUE),
                Series(say("in use by all programs on the card"), at, machine["gpu_memory_used_bytes"] / unit, GREEN),
                _level(say("planned"), steps, float(run.plan["peak_memory_bytes"]) / unit, ORANGE),
            ],
            said=lambda value: quantities.memory(value * unit),
            axis_said=lambda value: quantities.memory(value * unit),
            from_zero=True,
        ),
        Chart(
            key="use",
            title=say("Use of the machine"),
            note=say("How busy the card and the processor were, all programs together."),
            x_name=say("step"),
            series=[
                Series(say("card"), at, machine["gpu_utilisation_percent"], GREEN),
                Series(say("processor, all cores"), at, machine["cpu_percent"], BLUE),
            ],
            said=lambda value: f"{value:.0f} %",
            axis_said=lambda value: f"{value:.0f} %",
            from_zero=True,
        ),
        Chart(
            key="temperature",
            title=say("Temperature"),
            note=say("Of the card."),
            x_name=say("step"),
            series=[Series(say("card"), at, machine["gpu_temperature_celsius"], ORANGE)],
            said=lambda value: f"{value:.0f} °C",
            axis_said=lambda value: f"{value:.0f} °C",
        ),
        Chart(
            key="power",
            title=say("Power"),
            note=say("Drawn by the card."),
            x_name=say("step"),
            series=[Series(say("card"), at, machine["gpu_power_watts"], PINK)],
            said=lambda value: f"{value:.0f} W",
            axis_said=lambda value: f"{value:.0f} W",
            from_zero=True,
        ),
    ]


def compared_charts(runs: Sequence[RunRecord], names: Sequence[str]) -> list[Chart]:
    """Curves of several runs laid over each other."""

    def overlaid(key: str, title: str, note: str, lines: list[Series], said: Callable[[float], str]) -> Chart:
        return Chart(key=key, title=title, note=note, x_name=say("epoch"), series=lines, said=said)

    four = list(enumerate(zip(runs, names, strict=True)))
    loss = [Series(name, run.steps["epoch"], smoothed(run.steps["train_loss"]), number) for number, (run, name) in four]
    validation = [
        Series(
            name,
            np.array([one.epoch for one in run.evaluations]),
            np.array([one.nats_per_token for one in run.evaluations]),
            number,
            "points",
        )
        for number, (run, name) in four
    ]
    speed = [Series(name, run.steps["epoch"], smoothed(tokens_per_s(run)), number) for number, (run, name) in four]
    return [
        overlaid(
            "validation",
            say("Validation loss"),
            say("In nats per token, on text that was not learned. Lower is better."),
            validation,
            _nats,
        ),
        overlaid("training", say("Training loss, smoothed"), say("In nats per token."), loss, _nats),
        overlaid("speed", say("Speed"), say("Tokens learned per second while stepping."), speed, quantities.rate),
    ]


def tokens_per_s(run: RunRecord) -> Floats:
    """Between each logged step and the one before it; where a run did not log its times, the average so far."""
    if not run.steps.has("training_s"):
        return run.steps["tokens_per_s"]
    tokens, seconds = (np.diff(run.steps[key], prepend=0.0) for key in ("tokens", "training_s"))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(seconds > 0, tokens / seconds, np.nan)


def _loss_chart(run: RunRecord) -> Chart:
    steps, losses = run.steps["step"], run.steps["train_loss"]
    return Chart(
        key="loss",
        title=say("Loss"),
        note=say("In nats per token. Where validation rises while training falls, the model learns by heart."),
        x_name=say("step"),
        series=[
            Series(say("training, each step"), steps, losses, BLUE, "faint"),
            Series(say("training, smoothed"), steps, smoothed(losses), BLUE),
            _validation(run, perplexity=False),
        ],
        said=_nats,
        marks=_best_mark(run, perplexity=False),
        verticals=_epoch_ends(run),
        vertical_name=say("end of an epoch"),
        most_y=max(
            [_usual_top(losses), *(one.nats_per_token for one in run.evaluations if np.isfinite(one.nats_per_token))]
        ),
    )


def _perplexity_top(run: RunRecord) -> float:
    """The highest after training began, with room above: before it there may be another world."""
    highest = max((one.perplexity for one in run.after), default=float("inf"))
    return PERPLEXITY_ROOM * highest


def _nats(value: float) -> str:
    return f"{value:.4f}"


def _validation(run: RunRecord, *, perplexity: bool) -> Series:
    values = [one.perplexity if perplexity else one.nats_per_token for one in run.evaluations]
    return Series(
        say("validation"),
        np.array([float(one.step) for one in run.evaluations]),
        np.array(values, float),
        ORANGE,
        "points",
    )


def _best_mark(run: RunRecord, *, perplexity: bool) -> list[Mark]:
    best = run.best
    if best is None:
        return []
    value = best.perplexity if perplexity else best.nats_per_token
    said = quantities.perplexity(value) if perplexity else _nats(value)
    return [Mark(best.step, value, say("best: {value}", value=said), ORANGE)]


def _epoch_ends(run: RunRecord) -> list[float]:
    per_epoch, last = int(run.plan["steps_per_epoch"]), max(run.last_step, 1)
    ends = [float(step) for step in range(per_epoch, last + 1, max(per_epoch, 1))]
    return ends if len(ends) <= MOST_EPOCH_LINES else []


def _level(name: str, steps: Floats, value: float, colour: int) -> Series:
    ends = np.array([steps[0], steps[-1]]) if len(steps) else np.array([])
    return Series(name, ends, np.full(len(ends), value), colour, "reference")


def _usual_top(values: Floats) -> float:
    """Above which single points are cut off, so that the others can be told apart."""
    finite = values[np.isfinite(values)]
    return float(np.quantile(finite, 0.99)) * SPIKE_FACTOR if len(finite) else float("inf")
