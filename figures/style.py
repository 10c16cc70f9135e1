"""The one look of all figures: a colour, a dash pattern and a label per weighting, and the page.

Colours are those of Okabe and Ito, told apart by colour-blind readers; the dashes tell them apart in grey print.
"""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from theory.weightings import REGISTRY

INK = "#222222"
COLOURS = {
    "rloo": "#8A8A8A",
    "grpo": "#0072B2",
    "linear-r": "#E69F00",
    "sqrt-r": "#D55E00",
    "uniform-r": "#009E73",
    "plateau-r": "#CC79A7",
    "optimal": "#000000",
}
DASHES: dict[str, Any] = {
    "rloo": (0, (1, 1.2)),
    "grpo": "solid",
    "linear-r": (0, (5, 1.5)),
    "sqrt-r": "solid",
    "uniform-r": (0, (3, 1, 1, 1)),
    "plateau-r": (0, (6, 1, 1, 1, 1, 1)),
    "optimal": (0, (1, 2.2)),
}
NAMES = ("rloo", "grpo", "linear-r", "sqrt-r", "uniform-r", "plateau-r")


def label(name: str) -> str:
    """How figures call a weighting; reconstructions say so."""
    return REGISTRY[name].label if name in REGISTRY else {"optimal": "Time-optimal"}.get(name, name)


def line(name: str) -> dict[str, Any]:
    """Keyword arguments of `Axes.plot` for a weighting."""
    return {
        "color": COLOURS.get(name, INK),
        "linestyle": DASHES.get(name, "solid"),
        "linewidth": 2.2 if name == "optimal" else 1.6,
        "label": label(name),
    }


def page(width: float = 7.0, height: float = 3.0) -> Figure:
    """A figure of `width` by `height` inches whose parts do not overlap."""
    return Figure(figsize=(width, height), dpi=200, layout="constrained")


def panel(axes: Axes, title: str, x: str, y: str = "") -> None:
    """Title at the left, axis labels, no box."""
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    axes.set_xlabel(x, fontsize=9, color=INK)
    axes.set_ylabel(y, fontsize=9, color=INK)
    axes.tick_params(labelsize=8, colors=INK)
    axes.spines[["top", "right"]].set_visible(False)


def legend_below(figure: Figure, axes: Axes, columns: int = 4) -> None:
    """One legend for the whole figure, under it."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=8)
