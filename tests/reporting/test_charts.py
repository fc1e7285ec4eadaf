"""Axes, decimation and drawing: everything that is drawn stands where its number says."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.reporting.charts import BOX, MOST_POINTS, Axis, Chart, Series, kept_points, smoothed

NUMBERS = st.floats(-1e9, 1e9, allow_nan=False).filter(lambda value: value == 0 or abs(value) > 1e-9)


@given(NUMBERS, NUMBERS)
def test_an_axis_shows_everything(one: float, other: float) -> None:
    """Whatever the numbers, the axis covers them, and its marks are few, ascending, and told apart."""
    low, high = min(one, other), max(one, other)
    if 0 < high - low < 1e-6 * max(abs(low), abs(high)):
        return  # nearer to each other than a double can mark
    axis = Axis.around(low, high)
    unseen = 1e-9 * max(abs(low), abs(high), high - low)  # a millionth of a pixel
    assert axis.low <= low + unseen
    assert axis.high >= high - unseen
    assert 2 <= len(axis.ticks) <= 12
    assert list(axis.ticks) == sorted(axis.ticks)
    assert axis.share(axis.low) == 0
    assert axis.share(axis.high) == 1


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0, 400, ["0", "100", "200", "300", "400"]),
        (3.1, 3.9, ["3.0", "3.2", "3.4", "3.6", "3.8", "4.0"]),
        (0, 1.2, ["0.00", "0.25", "0.50", "0.75", "1.00", "1.25"]),
        (0, 24_000, ["0", "5,000", "10,000", "15,000", "20,000", "25,000"]),
    ],
)
def test_marks_are_round(low: float, high: float, said: list[str]) -> None:
    """As a person would write them on an axis."""
    axis = Axis.around(low, high)
    assert [axis.said(tick) for tick in axis.ticks] == said


@given(st.lists(st.floats(0, 100) | st.just(float("nan")), max_size=3000), st.integers(20, 200))
def test_no_peak_is_lost(values: list[float], most: int) -> None:
    """Few points of a long series stay, all of them finite, among them the extremes and both ends."""
    array = np.array(values, float)
    kept = kept_points(array, most)
    finite = [index for index, value in enumerate(values) if value == value]  # noqa: PLR0124  NaN is not itself
    assert set(kept.tolist()) <= set(finite)
    assert len(kept) <= max(most, 1) + 3
    assert kept.tolist() == sorted(kept.tolist())
    if finite:
        assert {finite[0], finite[-1]} <= set(kept.tolist())
        assert array[kept].min() == np.nanmin(array)
        assert array[kept].max() == np.nanmax(array)


def test_a_smoothed_line_is_a_mean() -> None:
    """Against a loop: each point is the mean of the last fiftieth of the run, NaNs left out."""
    random = np.random.default_rng(0)
    values = random.normal(size=230)
    values[[3, 4, 100]] = np.nan
    window = 230 // 50
    expected = [
        np.mean([value for value in values[max(end - window, 0) : end] if np.isfinite(value)]) for end in range(1, 231)
    ]
    assert smoothed(values) == pytest.approx(np.array(expected), nan_ok=True)


def chart(y: list[float], **more: object) -> Chart:
    """A chart of one line over 1, 2, 3, ..."""
    x = np.arange(1, len(y) + 1, dtype=float)
    line = Series("line", x, np.array(y, float), 0)
    return Chart("key", "Title", "note", "step", [line], "{:.3f}".format, **more)  # type: ignore[arg-type]


def test_points_stand_where_their_numbers_say() -> None:
    """Coordinates of the drawing, turned back into numbers by the axes' own marks, are the series."""
    y = [3.0, 5.5, 4.25, 8.0, 6.125]
    parts = chart(y).as_page_parts()
    assert parts is not None
    points = [tuple(map(float, pair)) for pair in re.findall(r"[ML]([\d.]+) ([\d.]+)", parts["paths"][0]["d"])]
    top, bottom = parts["y_ticks"][-1], parts["y_ticks"][0]
    high, low = float(top["text"]), float(bottom["text"])
    assert [low + (BOX - at) / BOX * (high - low) for _, at in points] == pytest.approx(y, abs=0.01)
    assert [1 + at / BOX * (len(y) - 1) for at, _ in points] == pytest.approx([1, 2, 3, 4, 5], abs=0.01)
    assert parts["hover"]["series"][0]["said"] == [f"{value:.3f}" for value in y]
    assert parts["table"]["rows"] == [[str(step), f"{value:.3f}"] for step, value in enumerate(y, 1)]


def test_a_missing_number_breaks_the_line() -> None:
    """Nothing is drawn across a NaN."""
    parts = chart([1.0, 2.0, float("nan"), 3.0, 4.0]).as_page_parts()
    assert parts is not None
    assert parts["paths"][0]["d"].count("M") == 2


def test_single_peaks_do_not_squash_the_rest() -> None:
    """Above the limit lines go out of the picture; the table has their numbers."""
    parts = chart([1.0, 900.0, 2.0], most_y=3.0).as_page_parts()
    assert parts is not None
    assert float(parts["y_ticks"][-1]["text"]) < 5
    assert ["2", "900.000"] in parts["table"]["rows"]


def test_nothing_is_drawn_of_nothing() -> None:
    """No chart for a series without numbers, a dot for a single one, few points for very many."""
    assert chart([float("nan")] * 3).as_page_parts() is None
    assert chart([]).as_page_parts() is None
    single = chart([2.0]).as_page_parts()
    assert single is not None
    assert len(single["dots"]) == 1
    many = chart(np.random.default_rng(0).normal(size=100_000).tolist()).as_page_parts()
    assert many is not None
    assert len(many["hover"]["series"][0]["x"]) <= MOST_POINTS + 3
