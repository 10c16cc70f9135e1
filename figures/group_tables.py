"""Optimal tables for finite groups against the optimal curve read at K/M."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from figures import style
from figures.frames import part
from weightopt import GroupProblem, Problem, solve
from weightopt.groups.group import Shape, time_and_budget

TITLE = "Optimal tables for groups of M"
START, TARGET = 0.01, 0.9
CLOCKS = ("regular", "effective")
SIZES = (4, 8, 16, 64)
SHAPES: tuple[Shape, ...] = ("free", "convex")
CURVES = {"regular": "grpo", "effective": "sqrt-r"}  # the optimal curve of a clock
LABELS = {"convex": "best convex table", "free": "best table of any shape"}
COLOURS = {"convex": style.COLOURS["optimal"], "free": "#666666"}
MARKERS = {"plug-in": "s", "convex": "o", "free": "^"}
SPARSE = 16  # groups up to which the best table of any shape is drawn: that of larger ones is a cloud
LINEAR = 0.3  # weights from which on the axis is logarithmic; below it is linear, so that it has a 0


def data() -> pd.DataFrame:
    """Columns clock, group_size, table, successes, share (K/M), weight, ratio.

    Weights spend the same drift budget ∫u dρ = 1 from start to target; ratio is the table's time over that of the best
    table of any shape, the same in all rows of a table.
    """
    frames = []
    for clock in CLOCKS:
        curve = Problem(START, TARGET, clock)
        plug = solve(curve).weighting
        for size in SIZES:
            k = np.arange(1, size)
            problem = GroupProblem(curve, size, budget_kind="drift", shape="free")
            tables = {"plug-in": np.asarray(plug(k / size))}
            for shape in SHAPES:
                tables[shape] = np.array(solve(GroupProblem(curve, size, budget_kind="drift", shape=shape)).weight)
            found = {name: _time_and_budget(problem, weight) for name, weight in tables.items()}
            best = found["free"][0]
            for name, weight in tables.items():
                time, spent = found[name]
                frames.append(
                    pd.DataFrame(
                        {
                            "clock": clock,
                            "group_size": size,
                            "table": name,
                            "successes": k,
                            "share": k / size,
                            "weight": weight / spent,
                            "ratio": time / best,
                        }
                    )
                )
    return pd.concat(frames, ignore_index=True)


def _time_and_budget(problem: GroupProblem, weight: np.ndarray) -> tuple[float, float]:
    """Time at unit budget, and the budget that the weights spend as given, for advantages ω_K (r - K/M)."""
    share = np.arange(problem.group_size + 1) / problem.group_size
    full = np.concatenate([[0.0], weight, [0.0]])
    time, spent = time_and_budget(problem, full * (1 - share), -full * share)
    return time * spent, spent


def draw(frame: pd.DataFrame) -> Figure:
    """One row per clock, one column per group size: weights over K/M, and the cost of the plug-in."""
    figure = style.page(style.WIDTH, 3.9)
    sizes, clocks = frame["group_size"].unique(), frame["clock"].unique()
    grid = figure.subplots(len(clocks), len(sizes), sharex=True, sharey="row", squeeze=False)
    for (i, clock), (j, size) in ((a, b) for a in enumerate(clocks) for b in enumerate(sizes)):
        axes = grid[i, j]
        rows = part(frame, clock=clock, group_size=size)
        # The triangles of the best table are hollow and lie on top: in small groups it is nearly the convex one.
        for name in ("plug-in", "convex", "free") if size <= SPARSE else ("plug-in", "convex"):
            table = part(rows, table=name)
            axes.plot(
                table["share"],
                table["weight"],
                MARKERS[name],
                linestyle="none" if name == "free" else "solid",
                color=COLOURS.get(name, style.COLOURS[CURVES[clock]]),
                markerfacecolor="none" if name == "free" else None,
                markersize=6 if name == "free" else 2 if size > 16 else 3,
                linewidth=0.9,
                label=LABELS.get(name, f"{style.short(CURVES[clock])} at K/M"),
                clip_on=False,
            )
        axes.set_yscale("symlog", linthresh=LINEAR, linscale=0.5)
        axes.set_yticks([0, 1, 10, 100], ["0", "1", "10", "100"])
        axes.set_yticks([0.1, 0.2, *(k * 10**e for e in (0, 1) for k in range(2, 10))], minor=True)
        axes.set_xlim(0, 1)
        axes.set_xticks([0, 0.5, 1], ["0", "½", "1"])
        cost = part(rows, table="plug-in")["ratio"].iloc[0]
        style.panel(axes, f"M = {size}" if i == 0 else "", "K/M" if i == len(clocks) - 1 else "", small=True)
        axes.text(
            0.97,
            0.97,
            f"{style.short(CURVES[clock])} at K/M:\n{cost:.3f} × the best time",
            transform=axes.transAxes,
            ha="right",
            va="top",
            **TEXT,
        )
    for i, clock in enumerate(clocks):
        shown = frame[(frame["clock"] == clock) & ((frame["table"] != "free") | (frame["group_size"] <= SPARSE))]
        grid[i, 0].set_ylim(-0.02, 8 * shown["weight"].max())
        grid[i, 0].set_ylabel(f"weight, {clock} clock", fontsize=8)
    found = {
        label: handle for axes in grid[:, 0] for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return figure


TEXT = {"fontsize": style.SMALL, "color": style.INK}


def caption(frame: pd.DataFrame) -> str:
    """What is shown, with its numbers."""
    ratio = _ratios(frame)
    worst = ratio.loc[:, :, "plug-in"].idxmax()
    convex = ratio.loc[:, :, "convex"].max()
    return (
        f"Weights by the number K of correct responses, model S (exact-ratio step), from {START:g} to {TARGET:g}, all "
        f"at the same drift budget ∫u dρ. The optimal curve of the clock, GRPO or Sqrt-R, read at K/M takes up to "
        f"{ratio.loc[:, :, 'plug-in'].max():.3f} times as long as the certified best table of any shape ({worst[0]} "
        f"clock, M = {worst[1]}). That table is jagged in K, many of its weights 0 (drawn for groups up to {SPARSE}); "
        f"asking for one that is convex in K costs at most {convex - 1:.1%}. The gain is the model's: this budget does "
        f"not price sampling noise."
    )


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """Times relative to the best table of any shape."""
    shown = _ratios(frame).map("{:.3f}".format).unstack("group_size")
    names = {"plug-in": "optimal curve at K/M", **LABELS}
    shown.index = pd.Index([f"{clock} clock, {names[name]}" for clock, name in shown.index], name="time / best table")
    return shown.rename(columns="M = {}".format)


def _ratios(frame: pd.DataFrame) -> Any:
    return frame.groupby(["clock", "group_size", "table"])["ratio"].first()
