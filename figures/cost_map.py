"""Which named weighting is best for which start and clock, and what the choice is worth: two maps.

Left: clock a + b/ρ, an update costs a and the draws until a success b each, over start and price b/a. Right: the plane
of clocks c = ρ^-p (1-ρ)^-q at one start, in which every named weighting of the family ρ^-a (1-ρ)^-b is optimal at the
point p = 2a-1, q = 2b-1. Time is linear in the clock, so a map needs few integrals.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from figures import style
from figures.frames import part
from theory.catalogue import WEIGHTINGS
from theory.quadrature import panels
from weightopt.tabulate import even_grid

TITLE = "Which weighting for which start and clock"
TARGET, PLANE_START = 0.9, 0.01
STARTS, PRICES = 61, 61
EXPONENTS = 61
LOWEST, HIGHEST = 0.001, 0.8
CHEAPEST, DEAREST = 1e-3, 1e2
SPAN = 1.6  # the plane of clocks reaches from -SPAN to SPAN
LEVELS = (1.01, 1.05, 1.1, 1.2, 1.5, 2.0, 3.0)
SEEN = 0.02  # share of a map from which a region is named
HALO = {"path_effects": [withStroke(linewidth=2, foreground="white", alpha=0.7)]}
# Powers of ρ and 1-ρ in the clock for which a weighting is optimal.
HOME = {"rloo": (-1, -1), "grpo": (0, 0), "linear-r": (1, -1), "sqrt-r": (1, 0), "uniform-r": (1, 1)}
# Where a name stands from its point: clear of the numbers on the lines.
BELOW: dict[str, Any] = {"xytext": (0, -6), "ha": "center", "va": "top"}
PLACES: dict[str, dict[str, Any]] = {
    "grpo": {"xytext": (0, 5), "ha": "center", "va": "bottom"},
    "sqrt-r": {"xytext": (6, 0), "ha": "left", "va": "center"},
}


def data() -> pd.DataFrame:
    """Columns map, x, y, best, best_ratio (to the optimum), and for each weighting its ratio to the optimum.

    Map ``price``: x is the start, y is b/a. Map ``plane``: x is p, y is q.
    """
    rows = []
    for start in even_grid(LOWEST, HIGHEST, STARTS):
        for price in np.geomspace(CHEAPEST, DEAREST, PRICES):
            rows.append(("price", start, price))
    for p in np.linspace(-SPAN, SPAN, EXPONENTS):
        for q in np.linspace(-SPAN, SPAN, EXPONENTS):
            rows.append(("plane", p, q))
    frame = pd.DataFrame(rows, columns=["map", "x", "y"])
    price = np.geomspace(CHEAPEST, DEAREST, PRICES)
    powers = np.linspace(-SPAN, SPAN, EXPONENTS)
    found = [
        _ratios(float(start), 1 + price[:, None] / _nodes(float(start))) for start in even_grid(LOWEST, HIGHEST, STARTS)
    ]
    rho = _nodes(PLANE_START)
    found += [_ratios(PLANE_START, np.exp(-p * np.log(rho) - powers[:, None] * np.log1p(-rho))) for p in powers]
    ratios = np.concatenate(found)
    frame["best"] = [style.NAMES[k] for k in np.argmin(ratios - 1e-9 * np.arange(len(style.NAMES))[::-1], axis=1)]
    frame["best_ratio"] = ratios.min(axis=1)
    for k, name in enumerate(style.NAMES):
        frame[name] = ratios[:, k]
    return frame


def _nodes(start: float) -> np.ndarray:
    return panels(start, TARGET, WEIGHTINGS["plateau-r"].kinks).rho.ravel()


def _ratios(start: float, clocks: np.ndarray) -> np.ndarray:
    """T[ω]·∫ω dρ over (∫√(c/(ρ(1-ρ))) dρ)², shape (clocks, weightings); clocks of shape (clocks, nodes)."""
    points = panels(start, TARGET, WEIGHTINGS["plateau-r"].kinks)
    rho, measure = points.rho.ravel(), points.weight.ravel()
    density = clocks / (rho * (1 - rho))
    least = (np.sqrt(density) @ measure) ** 2
    weights = np.array([WEIGHTINGS[name](rho) for name in style.NAMES])
    return (density * measure) @ (1 / weights).T * (weights @ measure) / least[:, None]


def draw(frame: pd.DataFrame) -> Figure:
    """Regions in the colour of the best weighting; lines of equal cost of GRPO."""
    figure = style.page(style.WIDTH, 3.2)
    left, right = figure.subplots(1, 2)
    price, plane = part(frame, map="price"), part(frame, map="plane")
    left.set_xscale("logit")
    left.set_yscale("log")
    _map(left, price)
    for name, rows in price.groupby("best"):
        if len(rows) > SEEN * len(price):
            middle = rows.iloc[(rows["x"].rank() + rows["y"].rank() * 1e-3).argsort().iloc[len(rows) // 2]]
            column = rows[rows["x"] == middle["x"]]["y"]
            place = middle["x"], float(np.exp(np.log(column).mean()))
            left.text(*place, style.short(str(name)), ha="center", va="center", fontsize=8, color=style.INK, **HALO)
    left.set_xticks([0.001, 0.01, 0.1, 0.4, 0.8], ["0.001", "0.01", "0.1", "0.4", "0.8"])
    left.minorticks_off()
    style.panel(left, f"clock a + b/ρ, to {TARGET:g}", "start ρ₀", "price b/a of a draw per success", small=True)
    _map(right, plane)
    for name, (p, q) in HOME.items():
        right.plot(p, q, "o", color="white", markeredgecolor=style.INK, markersize=4, markeredgewidth=0.8)
        right.annotate(
            style.short(name),
            (p, q),
            textcoords="offset points",
            fontsize=8,
            color=style.INK,
            **PLACES.get(name, BELOW),
            **HALO,
        )
    x, y = part(plane, best="plateau-r")[["x", "y"]].mean().fillna(0)
    right.text(x - 0.1, y, style.short("plateau-r"), ha="center", fontsize=8, color=style.INK, **HALO)
    title = f"clock $\\rho^{{-p}}(1-\\rho)^{{-q}}$, {PLANE_START:g} to {TARGET:g}"
    style.panel(right, title, "p", "q", small=True)
    style.foot(figure, f"lines: time of GRPO over the optimum; {style.STAR}")
    return figure


def _map(axes: Axes, rows: Any) -> None:
    """Regions, and lines of GRPO's cost."""
    x, y = rows["x"].unique(), rows["y"].unique()
    ratios = np.log(rows[list(style.NAMES)].to_numpy()).reshape(x.size, y.size, -1).T
    axes.set_xlim(x[0], x[-1])
    axes.set_ylim(y[0], y[-1])
    tints = [tuple(0.5 + 0.5 * c for c in to_rgb(style.COLOURS[name])) for name in style.NAMES]
    # Cells below, boundaries interpolated above: where three regions meet the latter leave gaps.
    cells = axes.pcolormesh(x, y, ratios.argmin(axis=0), cmap=ListedColormap(tints), vmin=-0.5, vmax=len(tints) - 0.5)
    cells.set_rasterized(True)
    for k, tint in enumerate(tints):
        lead = np.delete(ratios, k, axis=0).min(axis=0) - ratios[k]
        if np.any(lead >= 0):
            axes.contourf(x, y, lead, levels=[0, np.inf], colors=[tint])
    cost = np.exp(ratios[style.NAMES.index("grpo")])
    lines = axes.contour(x, y, cost, levels=LEVELS, colors=style.INK, linewidths=0.6)
    axes.clabel(lines, levels=LEVELS[1:], fmt="%g", fontsize=7, inline_spacing=3)


def caption(frame: pd.DataFrame) -> str:
    """What is shown, with its numbers."""
    price = part(frame, map="price")
    shares = price["best"].value_counts(normalize=True)
    listed = ", ".join(f"{style.short(str(name))} {share:.0%}" for name, share in shares.items())
    dear = part(price, y=price["y"].max())
    hard, easy = dear.iloc[0], dear.iloc[-1]
    switch = _switch(price, float(price["x"].iloc[(price["x"] - 0.01).abs().argmin()]))
    plane = part(frame, map="plane")
    return (
        f"Colour: the named weighting of least time to {TARGET:g} at equal budget ∫ω dρ, one prompt in the population "
        f"limit; lines: GRPO's time over the optimum (the first, unlabelled one {LEVELS[0]:g}). Left: an update costs "
        f"a and the draws until a success b each; starts from {LOWEST:g} to {HIGHEST:g}. Shares of the map, even in "
        f"its axes: {listed}; the best of the six is nowhere more than {price['best_ratio'].max() - 1:.1%} above the "
        f"optimum of all curves. From 0.01 GRPO stops being best at b/a = {switch:.2g}. Where draws are all that "
        f"costs, GRPO takes {hard['grpo']:.2f} times the optimum from {LOWEST:g} and {easy['grpo']:.3f} times from "
        f"{HIGHEST:g}. Right: clocks of two powers, from {PLANE_START:g}; circles are the clocks for which a weighting "
        f"is exactly optimal, (0, 0) being regular and (1, 0) effective time; the worst place of the best of six costs "
        f"{plane['best_ratio'].max():.2f} times the optimum."
    )


def _switch(price: Any, start: float) -> float:
    """The least price at which GRPO is not the best."""
    column = part(price, x=start)
    return float(column[column["best"] != "grpo"]["y"].min())
