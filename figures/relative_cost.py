"""Time of each named weighting relative to the optimum, at equal budget: a table with its numbers shaded."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from figures import style
from weightopt.compare import compare
from weightopt.problem import Problem

CASES = (
    (0.01, 0.9, "regular"),
    (0.01, 0.9, "effective"),
    (0.01, 0.9, "failures"),
    (0.01, 0.9, "mixed:16"),
    (0.05, 0.9, "regular"),
    (0.05, 0.9, "effective"),
    (0.38, 0.70, "regular"),
    (0.38, 0.70, "effective"),
)


def data() -> pd.DataFrame:
    """Columns start, target, clock, weighting, ratio, optimal_time, gap (certified)."""
    rows = []
    for start, target, clock in CASES:
        solution, compared = compare(Problem(start, target, clock))
        rows += [
            (start, target, clock, row.weighting, row.ratio, solution.time, solution.gap)
            for row in compared
            if row.weighting != "optimal"
        ]
    return pd.DataFrame(rows, columns=["start", "target", "clock", "weighting", "ratio", "optimal_time", "gap"])


def draw(frame: pd.DataFrame) -> Figure:
    """Rows are start, target and clock, columns weightings; the best of a row in bold."""
    grid = frame.pivot_table(index=["start", "target", "clock"], columns="weighting", values="ratio", sort=False)
    grid = grid[list(style.NAMES)]
    ratios = grid.to_numpy()
    figure = style.page(7.4, 3.4)
    axes = figure.subplots()
    axes.imshow(np.log(ratios), cmap="OrRd", vmin=0, vmax=np.log(4), aspect="auto")
    for i, j in np.ndindex(ratios.shape):
        best = ratios[i, j] < ratios[i].min() + 5e-4
        ink = "white" if ratios[i, j] > 2.6 else style.INK
        weight = "bold" if best else "normal"
        axes.text(j, i, f"{ratios[i, j]:.3f}", ha="center", va="center", color=ink, fontsize=9, weight=weight)
    names = [style.label(name).replace(" (", "\n(") for name in grid.columns]
    cases = [f"{start:g} → {target:g}, {clock}" for start, target, clock in CASES]
    axes.set_xticks(range(len(names)), names, fontsize=8)
    axes.set_yticks(range(len(grid)), cases, fontsize=8)
    axes.tick_params(length=0, labelbottom=False, labeltop=True)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("time relative to the certified optimum at equal budget; 1 is optimal", fontsize=9, color=style.INK)
    return figure
