"""Time of each named weighting relative to the optimum, at equal budget: a table with its numbers shaded."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from figures import style
from weightopt import Problem, compare
from weightopt.curves.curve import TOLERANCE

TITLE = "Cost relative to the optimum"
REFILL = "refill:16,1.0,1.0"
CASES = (
    (0.01, 0.9, "regular"),
    (0.01, 0.9, "effective"),
    (0.01, 0.9, "failures"),
    (0.01, 0.9, REFILL),
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
    figure = style.page(style.WIDTH, 3.0)
    axes = figure.subplots()
    axes.imshow(np.log(ratios), cmap="OrRd", vmin=0, vmax=np.log(4), aspect="auto")
    for i, j in np.ndindex(ratios.shape):
        best = ratios[i, j] < ratios[i].min() + 5e-4
        ink = "white" if ratios[i, j] > 2.6 else style.INK
        weight = "bold" if best else "normal"
        axes.text(j, i, f"{ratios[i, j]:.3f}", ha="center", va="center", color=ink, fontsize=8.5, weight=weight)
    names = [style.short(name) for name in grid.columns]
    cases = [f"{start:g} → {target:g}, {clock}" for start, target, clock in CASES]
    axes.set_xticks(range(len(names)), names, fontsize=8)
    axes.set_yticks(range(len(grid)), cases, fontsize=8)
    axes.tick_params(length=0, labelbottom=False, labeltop=True)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("time / least possible time at equal budget ∫ω dρ; best in bold", fontsize=8.5, color=style.INK)
    style.foot(figure)
    return figure


def caption(frame: pd.DataFrame) -> str:
    """What is shown, with its numbers."""
    ratio = frame.set_index(["start", "target", "clock", "weighting"])["ratio"]
    after = ratio.loc[0.38, 0.7]
    return (
        f"Time from start to target over the certified optimum (gap below {TOLERANCE:g}) at equal budget "
        f"∫ω dρ, one prompt in the population limit. From 0.01 to 0.9 GRPO takes "
        f"{ratio[0.01, 0.9, 'regular', 'grpo']:.3f} in regular time, {ratio[0.01, 0.9, 'effective', 'grpo']:.3f} in "
        f"effective time and {ratio[0.01, 0.9, REFILL, 'grpo']:.3f} with dynamic sampling where training on a group "
        f"of 16 costs as much as drawing it; Sqrt-R {ratio[0.01, 0.9, 'regular', 'sqrt-r']:.3f}, "
        f"{ratio[0.01, 0.9, 'effective', 'sqrt-r']:.3f} and {ratio[0.01, 0.9, REFILL, 'sqrt-r']:.3f}. From 0.38 to "
        f"0.7, as after supervised fine-tuning, no named "
        f"weighting takes more than {after.max():.3f} in either clock: there the choice hardly matters."
    )
