"""The one look of all figures: the colours and dashes of `weightopt.palette`, a label per weighting, and the page.

Pages are at most 6.5 inches wide, the width of a column of text, so that nothing is printed below 7 points.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from theory.catalogue import WEIGHTINGS
from weightopt.palette import COLOURS, DASHES, FAINT, INK, SPARE

__all__ = ["COLOURS", "DASHES", "FAINT", "INK", "SPARE"]

NAMES = ("rloo", "grpo", "linear-r", "sqrt-r", "uniform-r", "plateau-r")
WIDTH = 6.5
DPI = 200
SMALL = 7  # points: the smallest print
STAR = "* our reconstruction: the name is the paper's, the form ours"
CONTRAST = 4.6

LEADER = {"arrowstyle": "-", "color": "#AAAAAA", "linewidth": 0.5, "shrinkA": 1, "shrinkB": 1}


def label(name: str) -> str:
    """How figures call a weighting; reconstructions say so."""
    return (
        WEIGHTINGS[name].label
        if name in WEIGHTINGS
        else {"optimal": "Time-optimal", "advised": "Advised table"}.get(name, name)
    )


def short(name: str) -> str:
    """The label where there is little room: a star stands for the word reconstruction; `foot` explains it."""
    return label(name).replace(" (reconstruction)", "*")


def line(name: str) -> dict[str, Any]:
    """Keyword arguments of `Axes.plot` for a weighting."""
    return {
        "color": COLOURS.get(name, INK),
        "linestyle": DASHES.get(name, "solid"),
        "linewidth": 2.2 if name == "optimal" else 1.6,
        "label": label(name),
    }


def colours(names: Sequence[str]) -> dict[str, str]:
    """A colour for each name: its own where it has one, else one of the spare ones, by order."""
    others = [name for name in names if name not in COLOURS]
    return {name: COLOURS.get(name) or SPARE[others.index(name) % len(SPARE)] for name in names}


def dark(colour: str) -> tuple[float, float, float]:
    """A colour for text: darkened until its contrast on white is 4.5, as the accessibility guidelines (WCAG) ask."""
    light = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in to_rgb(colour)]
    luminance = 0.2126 * light[0] + 0.7152 * light[1] + 0.0722 * light[2]
    factor = min(1.0, (1.05 / CONTRAST - 0.05) / max(luminance, 1e-9))
    red, green, blue = (
        12.92 * x if x <= 0.0031308 else 1.055 * x ** (1 / 2.4) - 0.055 for x in (factor * part for part in light)
    )
    return red, green, blue


def page(width: float = 7.0, height: float = 3.0) -> Figure:
    """A figure of `width` by `height` inches whose parts do not overlap."""
    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def panel(axes: Axes, title: str, x: str, y: str = "", *, small: bool = False) -> None:
    """Set the title at the left and the axis labels, without a box; `small` is for figures with several panels."""
    less = 1 if small else 0
    axes.set_title(title, loc="left", fontsize=10 - less, color=INK)
    axes.set_xlabel(x, fontsize=9 - less, color=INK)
    axes.set_ylabel(y, fontsize=9 - less, color=INK)
    axes.tick_params(which="both", labelsize=8 - less, colors=INK)
    axes.spines[["top", "right"]].set_visible(False)


def foot(figure: Figure, text: str = STAR) -> None:
    """A line at the foot of the page; by default what the star of `short` means."""
    figure.supxlabel(text, x=0.995, ha="right", fontsize=SMALL, color="#555555")


def legend_below(figure: Figure, axes: Axes, columns: int = 4) -> None:
    """One legend for the whole figure, under it."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=8)


def spread(at: np.ndarray, gap: float) -> np.ndarray:
    """The nearest positions in the same order that lie at least `gap` apart; both have shape (n,).

    Where positions are too close they become a row around their middle; rows that touch are joined.
    """
    order = np.argsort(at, kind="stable")
    rows: list[list[float]] = []  # of how many, and the mean of position minus place in the row
    for place in at[order]:
        rows.append([1, float(place)])
        while len(rows) > 1 and rows[-1][1] - rows[-2][1] < gap * (rows[-1][0] + rows[-2][0]) / 2:
            (n, a), (m, b) = rows[-2], rows[-1]
            rows[-2:] = [[n + m, (n * a + m * b) / (n + m)]]
    out = np.empty(at.size)
    places = [middle + gap * (i - (n - 1) / 2) for n, middle in rows for i in range(int(n))]
    out[order] = places
    return out


def label_ends(
    axes: Axes, ends: Mapping[str, tuple[float, float]], tint: Mapping[str, str], gap: float = 0.075
) -> None:
    """Write the names of lines at their ends, right of the panel, without overlap; set the limits of the axes first.

    Parameters
    ----------
    axes
        Where the lines are drawn.
    ends
        From the name of a weighting to the end of its line, in data.
    tint
        Colours.
    gap
        Least distance of two labels, as a share of the axis.
    """
    to_axes = axes.transScale + axes.transLimits
    places = spread(np.array([to_axes.transform(end)[1] for end in ends.values()]), gap)
    for (name, end), place in zip(ends.items(), places, strict=True):
        axes.annotate(
            short(name),
            end,
            (1.05, float(place)),
            textcoords="axes fraction",
            va="center",
            fontsize=SMALL + 0.5,
            color=dark(tint[name]),
            arrowprops=LEADER,
        )
