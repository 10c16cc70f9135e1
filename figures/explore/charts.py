"""The three charts of the page, in Bokeh: weights, advantages, and success over time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from bokeh.models import ColumnDataSource, FixedTicker, HoverTool, PrintfTickFormatter, Range1d, Span
from bokeh.plotting import figure
from numpy.typing import NDArray

from figures import style
from figures.explore.study import OWN, Line, Study
from theory.quadrature import log_odds
from weightopt.comparison import GROUP_NAMES

NAMES = (OWN, *GROUP_NAMES)  # what is asked for lies under the others: where two are one, both are seen
SUCCESSES = (1e-6, 1e-5, 1e-4, 0.001, 0.01, 0.03, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97, 0.99, 0.999, 0.9999, 0.99999, 0.999999)
ADVANTAGES = (1, 3, 10, 30, 100, 300, 1000, 10_000)
SIDES = {"correct": "right", "wrong": "wrong"}
LATEST = 4.0  # times the least possible time: what arrives later leaves the chart
COLOURS = style.colours(NAMES) | {OWN: style.INK}
FONT = "Liberation Sans, Arial, Helvetica, sans-serif"


def dash(name: str) -> list[int]:
    """The dash pattern of a weighting, in pixels; none for a solid line."""
    pattern = "solid" if name == OWN else style.DASHES.get(name, (0, (4, 2)))
    return [] if pattern == "solid" else [max(1, round(2 * length)) for length in pattern[1]]


def width(name: str) -> float:
    """The width of a line, in pixels."""
    return 5.0 if name == OWN else 1.8


class Charts:
    """Charts that can be filled anew.

    Attributes
    ----------
    weight, advantage, success
        Bokeh figures.
    """

    def __init__(self) -> None:
        self.weight = _figure(y_axis_type="log")
        self.weight.yaxis.formatter = PrintfTickFormatter(format="%g")
        self.advantage = _figure()
        self.success = _figure(x_range=Range1d(start=0, end=1), y_range=Range1d(start=0, end=1))
        # One source a chart: a column is a message of its own to the page, and lines share what they are drawn over.
        self._weights = ColumnDataSource({"x": [], "rho": [], **{name: [] for name in NAMES}})
        sides = [f"{side} {name}" for name in NAMES for side in SIDES]
        columns = ("x", "rho", *sides, *(f"{side} y" for side in sides))
        self._advantages = ColumnDataSource({column: [] for column in columns})
        self._successes = ColumnDataSource({"rho": [], **{name: [] for name in NAMES}})
        for name in NAMES:
            _line(self.weight, name, self._weights, ("x", name), f"ω = @{{{name}}}{{0.0000}}")
            for side, said in SIDES.items():
                column = f"{side} {name}"
                what = f"{said} @{{{column}}}{{0.0000}}"
                _line(self.advantage, name, self._advantages, ("x", f"{column} y"), what)
            _line(self.success, name, self._successes, (name, "rho"), f"after @{{{name}}}{{0.000}} of the least time")
        self._dots = [_dots(self.weight, self._weights, OWN)]
        self._dots += [_dots(self.advantage, self._advantages, f"{side} {OWN} y") for side in SIDES]
        self._ends: Any = ColumnDataSource({"x": [], "y": [], "colour": []})
        self.success.scatter("x", "y", color="colour", size=7, source=self._ends)
        self._target = Span(dimension="width", line_color=style.FAINT, line_width=1)
        self.success.add_layout(self._target)
        self.advantage.add_layout(Span(location=0, dimension="width", line_color=style.FAINT, line_width=1))
        self.weight.xaxis.axis_label = self.advantage.xaxis.axis_label = "success probability ρ, even in log-odds"
        self.success.xaxis.axis_label = "time / least possible time"
        places = [float(log_odds(rho)) for rho in SUCCESSES]
        labels: dict[Any, Any] = dict(zip(places, [_percent(rho) for rho in SUCCESSES], strict=True))
        self._at_log_odds = FixedTicker(ticks=places), labels
        self._at_share = (
            FixedTicker(ticks=[0, 0.25, 0.5, 0.75, 1]),
            {0: "0 %", 0.25: "25 %", 0.5: "50 %", 0.75: "75 %", 1: "100 %"},
        )
        self.success.yaxis.ticker = FixedTicker(ticks=[0, 0.2, 0.4, 0.6, 0.8, 1])
        self.success.yaxis.major_label_overrides = {x / 10: f"{10 * x} %" for x in (2, 4, 6, 8)} | {1: "100 %"}
        values = [0.0, *(sign * value for value in ADVANTAGES for sign in (1, -1))]
        self.advantage.yaxis.ticker = FixedTicker(ticks=[math.asinh(value) for value in values])
        self.advantage.yaxis.major_label_overrides = {math.asinh(value): f"{value:g}" for value in values}

    def fill(self, study: Study) -> None:
        """Draw another answer."""
        there = {line.name: line for line in study.lines}
        grouped = study.table.group_size is not None
        ticker, labels = self._at_share if grouped else self._at_log_odds
        for chart in (self.weight, self.advantage):
            chart.xaxis.ticker, chart.xaxis.major_label_overrides = ticker, labels
            chart.xaxis.axis_label = (
                "share of right responses in the group" if grouped else "success probability ρ, even in log-odds"
            )
        own = study.own
        along: Callable[[Any], NDArray[np.float64]] = np.asarray if grouped else log_odds
        weights: dict[str, Any] = {"x": along(own.rho), "rho": own.rho}
        advantages: dict[str, Any] = {"x": along(own.share), "rho": own.share}
        successes: dict[str, Any] = {"rho": own.success}
        for name in NAMES:
            line = there.get(name)
            weights[name] = _nowhere(own.rho) if line is None else _positive(line.weight)
            successes[name] = _nowhere(own.success) if line is None else line.time
            for side in SIDES:
                values = _nowhere(own.share) if line is None else getattr(line, side)
                advantages[f"{side} {name}"], advantages[f"{side} {name} y"] = values, np.arcsinh(values)
        self._weights.data, self._advantages.data, self._successes.data = weights, advantages, successes
        for dots in self._dots:
            dots.visible = grouped
        self._arrivals(study.lines)

    def _arrivals(self, lines: Sequence[Line]) -> None:
        """Dots where the lines reach the target, and the ranges."""
        target = float(lines[-1].success[-1])
        self._ends.data = {
            "x": [float(line.time[-1]) for line in lines],
            "y": [target] * len(lines),
            "colour": [COLOURS[line.name] for line in lines],
        }
        self._target.location = target
        x, y = self.success.x_range, self.success.y_range
        latest = max(line.ratio for line in lines)
        x.end, y.end = 1.06 * min(latest, LATEST), target + 0.06


def _nowhere(like: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of a line that is not drawn."""
    return np.full_like(like, np.nan)


def _positive(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values on a logarithmic axis, which has no place for 0."""
    return np.where(values > 0, values, np.nan)


def _percent(rho: float) -> str:
    return f"{100 * rho:.10g} %"


def _figure(**more: Any) -> Any:
    chart = figure(
        height=290, sizing_mode="stretch_width", toolbar_location=None, tools="", min_border_left=52,
        min_border_right=8, **more,
    )  # fmt: skip
    chart.outline_line_color = None
    for axis in chart.axis:
        axis.axis_line_color, axis.major_tick_line_color, axis.minor_tick_line_color = "#999", "#999", None
        axis.major_label_text_font = axis.axis_label_text_font = FONT
        axis.major_label_text_font_size = axis.axis_label_text_font_size = "12px"
        axis.major_label_text_color = axis.axis_label_text_color = style.INK
        axis.axis_label_text_font_style = "normal"
    chart.grid.grid_line_color = "#ececec"
    return chart


def _line(chart: Any, name: str, source: Any, columns: tuple[str, str], what: str) -> None:
    """The line of a weighting, and what it says of the point under the mouse."""
    look = {"line_color": COLOURS[name], "line_width": width(name), "line_dash": dash(name), "source": source}
    drawn = chart.line(*columns, line_alpha=0.9 if name == OWN else 1, line_join="round", **look)
    label = "Solved" if name == OWN else style.short(name)
    chart.add_tools(
        HoverTool(renderers=[drawn], tooltips=f"{label}: ρ = @rho{{0.0000}}, {what}", point_policy="snap_to_data")
    )


def _dots(chart: Any, source: Any, column: str) -> Any:
    """Where a group looks the answer up."""
    look = {"fill_color": "white", "line_color": style.INK, "line_width": 1.5, "source": source}
    return chart.scatter("x", column, size=6, **look)
