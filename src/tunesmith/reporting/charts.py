"""The charts of a run, or of several laid over each other, as the values that a page template draws.

Lines are SVG in a box that stretches to any width; numbers and dots are HTML laid over it, so that they keep their size
on a phone. Each chart comes with a table of its values. Long series are reduced to the lowest and highest point of each
stretch, so that no peak is lost: every drawn point was measured. Only the line called smoothed is an average.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import numpy as np

from tunesmith.i18n import say
from tunesmith.reporting.run_reader import Floats, RunRecord
from tunesmith.utils import formatting

STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True)
class Axis:
    """Range of numbers with round ones as ticks."""

    low: float
    high: float
    ticks: tuple[float, ...]

    @classmethod
    def around(cls, low: float, high: float, *, about: int = 5, snaps: bool = True) -> Self:
        """Make an axis from the lowest to the highest value with `about` ticks; `snaps` extends it to round numbers."""
        if high <= low:
            margin = abs(low) / 2 or 1.0
            low, high = low - margin, high + margin
        step = _round_step((high - low) / about)
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        ticks = [number * step for number in range(first, last + 1)]
        if snaps:
            return cls(ticks[0], ticks[-1], tuple(ticks))
        return cls(low, high, tuple(tick for tick in ticks if low <= tick <= high))

    def share(self, value: float) -> float:
        """Position of a value: 0 at the start of the axis, 1 at its end."""
        return (value - self.low) / (self.high - self.low)

    def said(self, tick: float) -> str:
        """Format a tick, with as many decimals as distinguish it from the next."""
        step = self.ticks[1] - self.ticks[0] if len(self.ticks) > 1 else abs(tick) or 1.0
        if 0 < max(abs(self.low), abs(self.high)) < 1e-2:
            return "0" if tick == 0 else f"{tick:.2g}"
        decimals = max(-math.floor(math.log10(step) + 1e-9), 0)
        if not math.isclose(round(step, decimals), step, rel_tol=1e-6):
            decimals += 1  # steps of 2.5
        return f"{tick:,.{decimals}f}"


def _round_step(at_least: float) -> float:
    power = 10.0 ** math.floor(math.log10(at_least))
    return next(power * step for step in STEPS if power * step >= at_least * (1 - 1e-9))


MOST_POINTS = 480
SMOOTHED_OVER = 50
"""Stretches of a run, over one of which a smoothed line averages."""


def kept_points(values: Floats, most: int = MOST_POINTS) -> np.ndarray:
    """Indices of about `most` finite points, ascending: the first, the last, and the extremes of each stretch."""
    finite = np.flatnonzero(np.isfinite(values))
    if len(finite) <= most:
        return finite
    stretches = np.array_split(finite, most // 2)
    lowest = [stretch[np.argmin(values[stretch])] for stretch in stretches]
    highest = [stretch[np.argmax(values[stretch])] for stretch in stretches]
    return np.unique(np.array([finite[0], *lowest, *highest, finite[-1]]))


def smoothed(values: Floats) -> Floats:
    """Mean of each finite point and those just before it, over a fiftieth of the run; NaN where there is none."""
    window = max(len(values) // SMOOTHED_OVER, 1)
    finite = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(finite, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(finite)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    n_counted = counts[ends] - counts[starts]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(n_counted > 0, (sums[ends] - sums[starts]) / n_counted, np.nan)


BOX = 1000
"""Both sides of the drawing's own coordinates."""
TABLE_ROWS = 24
Look = Literal["line", "faint", "points", "reference"]


@dataclass(frozen=True)
class Series:
    """One line or row of points: x ascending, y NaN where missing, `color` an index into the page's palette."""

    name: str
    x: Floats
    y: Floats
    color: int
    look: Look = "line"


@dataclass(frozen=True)
class Mark:
    """Labeled point."""

    x: float
    y: float
    name: str
    color: int


@dataclass(frozen=True)
class Chart:
    """Values of a chart.

    Attributes:
        said: formats a value.
        axis_said: formats a tick, where it differs.
        verticals: thin vertical lines, for example the ends of epochs.
        most_y: upper limit of the vertical axis.
        drawn: the series that have a finite number.
    """

    key: str
    title: str
    note: str
    x_name: str
    series: Sequence[Series]
    said: Callable[[float], str]
    marks: Sequence[Mark] = ()
    verticals: Sequence[float] = ()
    vertical_name: str = ""
    from_zero: bool = False
    most_y: float = float("inf")
    axis_said: Callable[[float], str] | None = None
    drawn: list[Series] = field(init=False)

    def __post_init__(self) -> None:
        drawn = [one for one in self.series if np.isfinite(one.y).any()]
        has_data = any(one.look != "reference" for one in drawn)
        object.__setattr__(self, "drawn", drawn if has_data else [])

    def as_page_parts(self) -> dict[str, Any] | None:
        """What the template draws; None where there is nothing to draw."""
        if not self.drawn:
            return None
        x_axis, y_axis = self._axes()
        lines = [_path(one, x_axis, y_axis) for one in self.drawn]
        return {
            "key": self.key,
            "title": self.title,
            "note": self.note,
            "x_name": self.x_name,
            "legend": [{"name": one.name, "color": one.color, "look": one.look} for one in self.drawn],
            "paths": [
                {"d": path, "color": one.color, "look": one.look}
                for one, path in zip(self.drawn, lines, strict=True)
                if path
            ],
            "dots": [dot for one in self.drawn if _has_dots(one) for dot in _dots(one, x_axis, y_axis)],
            "marks": [
                {
                    "left": _percent(x_axis.share(mark.x)),
                    "top": _percent(1 - y_axis.share(mark.y)),
                    "name": mark.name,
                    "color": mark.color,
                    "is_right": x_axis.share(mark.x) > 0.6,
                }
                for mark in self.marks
            ],
            "verticals": [round(BOX * x_axis.share(x), 1) for x in self.verticals if x_axis.low <= x <= x_axis.high],
            "vertical_name": self.vertical_name,
            "x_ticks": [{"at": _percent(x_axis.share(tick)), "text": x_axis.said(tick)} for tick in x_axis.ticks],
            "y_ticks": [
                {
                    "at": _percent(1 - y_axis.share(tick)),
                    "y": round(BOX * (1 - y_axis.share(tick)), 1),
                    "text": self.axis_said(tick) if self.axis_said else y_axis.said(tick),
                }
                for tick in y_axis.ticks
            ],
            "hover": self._hover(x_axis, y_axis),
            "table": self._table(),
        }

    def _axes(self) -> tuple[Axis, Axis]:
        x = np.concatenate([one.x[np.isfinite(one.y)] for one in self.drawn])
        y = np.concatenate([one.y[np.isfinite(one.y)] for one in self.drawn])
        low, high = float(y.min()), min(float(y.max()), self.most_y)
        if self.from_zero:
            low = min(low, 0.0)
        return Axis.around(float(x.min()), float(x.max()), snaps=False), Axis.around(low, high)

    def _hover(self, x_axis: Axis, y_axis: Axis) -> dict[str, Any]:
        """Drawn points and their texts, for the page's script."""
        return {
            "x": self.x_name,
            "low": x_axis.low,
            "high": x_axis.high,
            "series": [
                {
                    "name": one.name,
                    "color": one.color,
                    "x": [_short(value) for value in one.x[kept]],
                    "top": [_percent(1 - min(max(y_axis.share(value), 0), 1)) for value in one.y[kept]],
                    "said": [self.said(value) for value in one.y[kept]],
                }
                for one in self.drawn
                if one.look != "faint"
                for kept in [kept_points(one.y)]
            ],
        }

    def _table(self) -> dict[str, Any]:
        """Values at up to `TABLE_ROWS` steps."""
        columns = [one for one in self.drawn if one.look != "reference"]
        places = np.unique(np.concatenate([_table_places(one) for one in columns]))
        if len(places) > TABLE_ROWS:
            places = places[np.unique(np.linspace(0, len(places) - 1, TABLE_ROWS).astype(int))]
        return {
            "head": [self.x_name, *(one.name for one in columns)],
            "rows": [
                [f"{_short(place):,}", *(_said_at(one, place, self.said) for one in columns)]
                for place in places.tolist()
            ],
        }


def _table_places(series: Series) -> Floats:
    finite = np.flatnonzero(np.isfinite(series.y))
    most = MOST_POINTS if _has_dots(series) else TABLE_ROWS
    chosen = np.unique(np.linspace(0, len(finite) - 1, min(most, len(finite))).astype(int))
    places: Floats = series.x[finite[chosen]]
    return places


def _said_at(series: Series, place: float, said: Callable[[float], str]) -> str:
    index = int(np.searchsorted(series.x, place))
    if index < len(series.x) and series.x[index] == place and np.isfinite(series.y[index]):
        return said(float(series.y[index]))
    return ""


def _path(series: Series, x_axis: Axis, y_axis: Axis) -> str:
    """SVG path through the kept points, interrupted where a number is missing."""
    kept = kept_points(series.y)
    if len(kept) < 2:
        return ""
    missing = np.cumsum(~np.isfinite(series.y))
    parts, before = [], -1
    for index in kept.tolist():
        starts = before < 0 or missing[index] != missing[before]
        x, y = BOX * x_axis.share(series.x[index]), BOX * (1 - min(max(y_axis.share(series.y[index]), -0.01), 1.01))
        parts.append(f"{'M' if starts else 'L'}{x:.1f} {y:.1f}")
        before = index
    return "".join(parts)


def _has_dots(series: Series) -> bool:
    return series.look == "points" or (series.look == "line" and int(np.isfinite(series.y).sum()) == 1)


def _dots(series: Series, x_axis: Axis, y_axis: Axis) -> list[dict[str, Any]]:
    return [
        {"left": _percent(x_axis.share(x)), "top": _percent(1 - y_axis.share(y)), "color": series.color}
        for index in kept_points(series.y, 60)
        for x, y in [(float(series.x[index]), float(series.y[index]))]
        if y <= y_axis.high
    ]


def _percent(share: float) -> float:
    return round(100 * float(share), 2)


def _short(value: float) -> float | int:
    """Round a horizontal position: an integer where it is whole."""
    return int(value) if float(value).is_integer() else round(float(value), 3)


MOST_EPOCH_LINES = 24
SPIKE_FACTOR = 1.6
"""The loss axis ends so far above all but the highest hundredth of its points."""
PERPLEXITY_ROOM = 2.0
"""The perplexity axis ends at this multiple of the highest value after training began."""
BLUE, ORANGE, GREEN, PINK = range(4)


def learning_charts(run: RunRecord) -> list[Chart]:
    """Charts of loss, perplexity, learning rate and gradient."""
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
            said=formatting.perplexity,
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
    """Charts of speed, memory, utilization, temperature and power."""
    steps, machine = run.steps["step"], run.machine
    at = machine["step"]
    speed = tokens_per_s(run)
    unit = float(1 << 30 if float(run.plan["peak_memory_bytes"]) >= 1 << 30 else 1 << 20)
    return [
        Chart(
            key="speed",
            title=say("Speed"),
            note=say("Tokens trained on per second while stepping; evaluations and saving are not counted."),
            x_name=say("step"),
            series=[
                Series(say("each step"), steps, speed, GREEN, "faint"),
                Series(say("smoothed"), steps, smoothed(speed), GREEN),
            ],
            said=formatting.rate,
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
                Series(say("in use by all programs on the GPU"), at, machine["gpu_memory_used_bytes"] / unit, GREEN),
                _level(say("planned"), steps, float(run.plan["peak_memory_bytes"]) / unit, ORANGE),
            ],
            said=lambda value: formatting.memory(value * unit),
            axis_said=lambda value: formatting.memory(value * unit),
            from_zero=True,
        ),
        Chart(
            key="use",
            title=say("Use of the machine"),
            note=say("How busy the GPU and the CPU were, all programs together."),
            x_name=say("step"),
            series=[
                Series(say("GPU"), at, machine["gpu_utilization_percent"], GREEN),
                Series(say("CPU, all cores"), at, machine["cpu_percent"], BLUE),
            ],
            said=lambda value: f"{value:.0f} %",
            axis_said=lambda value: f"{value:.0f} %",
            from_zero=True,
        ),
        Chart(
            key="temperature",
            title=say("Temperature"),
            note=say("Of the GPU."),
            x_name=say("step"),
            series=[Series(say("GPU"), at, machine["gpu_temperature_celsius"], ORANGE)],
            said=lambda value: f"{value:.0f} °C",
            axis_said=lambda value: f"{value:.0f} °C",
        ),
        Chart(
            key="power",
            title=say("Power"),
            note=say("Drawn by the GPU."),
            x_name=say("step"),
            series=[Series(say("GPU"), at, machine["gpu_power_watts"], PINK)],
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
            np.array([one.loss for one in run.evaluations]),
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
            say("In nats per token, on held-out text. Lower is better."),
            validation,
            _nats,
        ),
        overlaid("training", say("Training loss, smoothed"), say("In nats per token."), loss, _nats),
        overlaid("speed", say("Speed"), say("Tokens trained on per second while stepping."), speed, formatting.rate),
    ]


def tokens_per_s(run: RunRecord) -> Floats:
    """Speed between logged steps; the average so far where a run did not log its times."""
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
        note=say("In nats per token. Where validation rises while training falls, the model overfits."),
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
        most_y=max([_usual_top(losses), *(one.loss for one in run.evaluations if np.isfinite(one.loss))]),
    )


def _perplexity_top(run: RunRecord) -> float:
    highest = max((one.perplexity for one in run.after), default=float("inf"))
    return PERPLEXITY_ROOM * highest


def _nats(value: float) -> str:
    return f"{value:.4f}"


def _validation(run: RunRecord, *, perplexity: bool) -> Series:
    values = [one.perplexity if perplexity else one.loss for one in run.evaluations]
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
    value = best.perplexity if perplexity else best.loss
    said = formatting.perplexity(value) if perplexity else _nats(value)
    return [Mark(best.step, value, say("best: {value}", value=said), ORANGE)]


def _epoch_ends(run: RunRecord) -> list[float]:
    per_epoch, last = int(run.plan["steps_per_epoch"]), max(run.last_step, 1)
    ends = [float(step) for step in range(per_epoch, last + 1, max(per_epoch, 1))]
    return ends if len(ends) <= MOST_EPOCH_LINES else []


def _level(name: str, steps: Floats, value: float, color: int) -> Series:
    ends = np.array([steps[0], steps[-1]]) if len(steps) else np.array([])
    return Series(name, ends, np.full(len(ends), value), color, "reference")


def _usual_top(values: Floats) -> float:
    """Above which single points are cut off, so that the others can be told apart."""
    finite = values[np.isfinite(values)]
    return float(np.quantile(finite, 0.99)) * SPIKE_FACTOR if len(finite) else float("inf")
