"""The loss of each named weighting in groups of finite size, over the start."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from figures import style
from figures.frames import groups, lookup, part
from weightopt import GroupProblem, Problem
from weightopt.comparison import compare_groups
from weightopt.tabulate import even_grid

TITLE = "Named weightings in finite groups"
TARGET, LOWEST, HIGHEST = 0.9, 0.003, 0.7
CLOCKS = ("regular", "effective")
SIZES = (8, 64)
STARTS = 25
QUOTED = 0.01
SHOWN = ("grpo", "linear-r", "sqrt-r")
MOST = 3.0  # where the panels end


def data() -> pd.DataFrame:
    """Columns clock, group_size, start, weighting, ratio: time over that of the best convex table at equal budget."""
    rows = []
    starts = np.unique(np.concatenate([even_grid(LOWEST, HIGHEST, STARTS), [QUOTED]]))
    for clock in CLOCKS:
        for size in SIZES:
            for start in starts.tolist():
                problem = GroupProblem(Problem(start, TARGET, clock), size, budget_kind="drift")
                _, compared = compare_groups(problem, style.NAMES, ())
                rows += [
                    (clock, size, start, row.weighting, row.ratio) for row in compared if row.weighting in style.NAMES
                ]
    return pd.DataFrame(rows, columns=["clock", "group_size", "start", "weighting", "ratio"])


def draw(frame: pd.DataFrame) -> Figure:
    """One row per clock, one column per group size."""
    figure = style.page(style.WIDTH, 4.2)
    clocks, sizes = frame["clock"].unique(), frame["group_size"].unique()
    grid = figure.subplots(len(clocks), len(sizes), sharex=True, sharey=True, squeeze=False)
    for axes, ((clock, size), rows) in zip(grid.flat, groups(frame, "clock", "group_size"), strict=True):
        axes.set_xscale("logit")
        axes.set_yscale("log")
        axes.axhline(1, color=style.INK, linewidth=0.5, zorder=0)
        axes.set_xlim(LOWEST, HIGHEST)
        axes.set_ylim(0.95, MOST)
        for name, curve in rows.groupby("weighting", sort=False):
            axes.plot(curve["start"], curve["ratio"], **style.line(str(name)))
        axes.set_yticks([1, 1.2, 1.5, 2, 3], ["1", "1.2", "1.5", "2", "3"])
        axes.set_xticks([0.003, 0.01, 0.03, 0.1, 0.3, 0.7], ["0.003", "0.01", "0.03", "0.1", "0.3", "0.7"])
        axes.minorticks_off()
        style.panel(axes, f"{clock} clock, M = {size}", "start ρ₀", small=True)
    for axes in grid[:, 0]:
        axes.set_ylabel("time / best table's", fontsize=8)
    for axes in grid[:-1].flat:
        axes.set_xlabel("")
    style.legend_below(figure, grid[0, 0], columns=3)
    return figure


def caption(frame: pd.DataFrame) -> str:
    """What is shown, with its numbers."""
    at = _quoted(frame)
    parts = []
    for size in SIZES:
        named = at["effective", size].sort_values()
        listed = ", ".join(f"{style.short(str(name))} {ratio:.3f}" for name, ratio in named.items() if name in SHOWN)
        parts.append(f"M = {size}: {listed}")
    return (
        f"Weightings read at K/M, with their own rule for all-wrong groups, model S (exact-ratio step), to {TARGET:g}, "
        f"at equal drift budget ∫u dρ: time over that of the certified best convex table for that start, clock and "
        f"group size. Panels end at {MOST:g}. From {QUOTED:g}, effective clock, {'; '.join(parts)}. The all-wrong rule "
        f"of the asymmetric weightings is outside the shape that the best table may have; with two outcomes it acts "
        f"like one more response."
    )


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """Times relative to the best table, at the quoted start."""
    shown = _quoted(frame).map("{:.3f}".format).unstack("weighting")[list(style.NAMES)]
    shown.index = pd.Index([f"{clock} clock, M = {size}" for clock, size in shown.index], name=f"from {QUOTED:g}")
    return shown.rename(columns=style.label)


def _quoted(frame: pd.DataFrame) -> Any:
    return lookup(part(frame, start=QUOTED), ["clock", "group_size", "weighting"], "ratio")
