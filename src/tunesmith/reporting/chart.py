"""A chart as values, and as what a page template needs to draw it.

Lines are SVG in a box that stretches to any width; numbers and dots are HTML laid over it, so that they keep their size
on a phone. Behind each chart stands a table of what it shows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from tunesmith.reporting.axis import Axis
from tunesmith.reporting.columns import Floats
from tunesmith.reporting.decimation import MOST_POINTS, kept_points

BOX = 1000
"""Both sides of the drawing's own coordinates."""
TABLE_ROWS = 24
Look = Literal["line", "faint", "points", "reference"]


@dataclass(frozen=True)
class Series:
    """One line, or a row of points.

    Attributes:
        name: in the legend.
        x: ascending.
        y: NaN where there is none.
        colour: number of the palette; the page knows a light and a dark one.
        look: a line, a faint one behind it, points joined by a dashed line, or a straight reference.
    """

    name: str
    x: Floats
    y: Floats
    colour: int
    look: Look = "line"


@dataclass(frozen=True)
class Mark:
    """A point with a name."""

    x: float
    y: float
    name: str
    colour: int


@dataclass(frozen=True)
class Chart:
    """What is drawn.

    Attributes:
        key: names it in the page.
        title: what it shows.
        note: how to read it, in a sentence.
        x_name: of the horizontal axis.
        series: what is drawn; those without a finite number are left out.
        said: a number of the vertical axis, for a person.
        marks: points with a name.
        verticals: places on the horizontal axis with a thin line, for example ends of epochs.
        vertical_name: what these are.
        from_zero: whether the vertical axis begins at 0.
        most_y: the vertical axis goes no higher, however high single points are; infinite for no limit.
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
            "legend": [{"name": one.name, "colour": one.colour, "look": one.look} for one in self.drawn],
            "paths": [
                {"d": path, "colour": one.colour, "look": one.look}
                for one, path in zip(self.drawn, lines, strict=True)
                if path
            ],
            "dots": [dot for one in self.drawn if _has_dots(one) for dot in _dots(one, x_axis, y_axis)],
            "marks": [
                {
                    "left": _percent(x_axis.share(mark.x)),
                    "top": _percent(1 - y_axis.share(mark.y)),
                    "name": mark.name,
                    "colour": mark.colour,
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
        """What the page's script needs: the points that are drawn, and how each is said."""
        return {
            "x": self.x_name,
            "low": x_axis.low,
            "high": x_axis.high,
            "series": [
                {
                    "name": one.name,
                    "colour": one.colour,
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
        """The series side by side at a few places: those with points at each of theirs, lines beside them."""
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
    """A line of SVG through the points that are kept, broken where a number is missing."""
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
        {"left": _percent(x_axis.share(x)), "top": _percent(1 - y_axis.share(y)), "colour": series.colour}
        for index in kept_points(series.y, 60)
        for x, y in [(float(series.x[index]), float(series.y[index]))]
        if y <= y_axis.high
    ]


def _percent(share: float) -> float:
    return round(100 * float(share), 2)


def _short(value: float) -> float | int:
    """A place on the horizontal axis: whole where it is, else with a few decimals."""
    return int(value) if float(value).is_integer() else round(float(value), 3)
