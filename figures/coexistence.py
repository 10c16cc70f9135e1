"""Coexistence: which kinds of prompts stay when they compete for a habit, in a world and in theory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from figures import style
from figures.frames import groups, part
from sim.habits import LOST, Habits, lost, sample
from theory import catalogue
from theory.crowding import power_equilibrium
from weightopt import GroupProblem, Problem, solve
from weightopt.catalogue_tables import catalogue_table

TITLE = "Who stays when kinds compete for a habit"
GROUP_SIZE, STEPS, REPLICAS, SEED = 16, 400, 64, 3
KAPPA, RANGE = 0.3, (0.02, 0.7)
METHODS = {"rloo": "RLOO", "grpo": "GRPO", "sqrt-r": "Sqrt-R", "limited": f"limit κ = {KAPPA:g}"}
KINDS = ("a", "b", "c", "d")
TINTS = ("#0072B2", "#56B4E9", "#E69F00", "#D55E00")
# The world of the ladder's third rung in which kinds are lost most easily; see studies/ladder/protocol.md.
WORLD = Habits(
    shares=np.full(4, 0.25),
    acts=np.array([0.04, 0.03, 0.02, 0.01, 0.9]),
    execution=np.array([0.7, 0.6, 0.5, 0.4]),
    step_size=6.0,
    skill_rate=0.01,
    execution_rate=0.01,
)
EXPONENTS, RATIOS = 61, 61
LEVELS = (0.05, 0.2, 0.4)


def data() -> pd.DataFrame:
    """Columns part, weighting, kind, step, share, success, mean, lost, kinds_lost, m, ratio.

    Part ``time``: a kind's share of all right responses, its success and that of all kinds, means over replicas, the
    share of replicas that have lost it at the end, and how many kinds a replica has lost. Part ``map``: the propensity
    at rest of the worse executed of two kinds of equal share under ω = ρ^-m, execution being as 1 to ``ratio``.
    """
    frames = []
    for name in METHODS:
        path = sample(WORLD, *_advantages(name), STEPS, np.random.default_rng(SEED), replicas=REPLICAS)
        right = path * WORLD.shares
        share = (right / right.sum(axis=-1, keepdims=True)).mean(axis=1)
        for at, kind in enumerate(KINDS):
            frames.append(
                pd.DataFrame(
                    {
                        "part": "time",
                        "weighting": name,
                        "kind": kind,
                        "step": np.arange(STEPS + 1),
                        "share": share[:, at],
                        "success": path[:, :, at].mean(axis=1),
                        "mean": (path @ WORLD.shares).mean(axis=1),
                        "lost": (path[-1, :, at] < LOST).mean(),
                        "kinds_lost": lost(path).mean(),
                    }
                )
            )
    m = np.linspace(0.02, 1.3, EXPONENTS)
    ratio = np.linspace(0.2, 1.0, RATIOS)
    rows = [
        ("map", each, r, power_equilibrium(np.full(2, 0.5), np.array([1.0, r]), each)[1]) for each in m for r in ratio
    ]
    frames.append(pd.DataFrame(rows, columns=["part", "m", "ratio", "share"]))
    return pd.concat(frames, ignore_index=True)


def _advantages(name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if name == "limited":
        curve = Problem(0.02, 0.9, "regular")
        problem = GroupProblem(curve, GROUP_SIZE, crowding=KAPPA, crowding_range=RANGE, crowding_measure="push")
        table = solve(problem).table()
    else:
        table = catalogue_table(catalogue.EVERYTHING[name], GROUP_SIZE)
    return np.array(table.advantage_correct), np.array(table.advantage_wrong)


def draw(frame: pd.DataFrame) -> Figure:
    """Above: share of the right responses by kind over time, one panel a weighting. Below: the map of the theory."""
    figure = style.page(style.WIDTH, 4.6)
    parts: Any = figure.subfigures(2, 1, height_ratios=[1, 1.25])
    above, below = parts
    panels = above.subplots(1, len(METHODS), sharey=True)
    time = part(frame, part="time")
    for axes, (name, rows) in zip(panels, groups(time, "weighting"), strict=True):
        table = rows.pivot_table(index="step", columns="kind", values="share", sort=False)
        axes.stackplot(table.index, table.to_numpy().T, colors=TINTS, labels=[f"kind {kind}" for kind in KINDS])
        axes.set_ylim(0, 1)
        axes.set_xlim(0, table.index.max())
        style.panel(axes, METHODS[str(name)], "updates", small=True)
    panels[0].set_ylabel("share of right responses", fontsize=8)
    left, right = below.subplots(1, 2)
    for name, rows in groups(time, "weighting"):
        mean = part(rows, kind=KINDS[0]).set_index("step")["mean"]
        line = style.line(str(name)) if name in style.COLOURS else {**style.line("optimal"), "label": METHODS[name]}
        left.plot(mean.index, mean.to_numpy(), **line)
    left.set_xlim(left=0)
    left.set_ylim(bottom=0)
    style.panel(left, "mean success", "updates", small=True)
    left.legend(frameon=False, fontsize=style.SMALL, loc="lower right")
    grid = part(frame, part="map").pivot_table(index="ratio", columns="m", values="share")
    shade = right.pcolormesh(
        grid.columns, grid.index, grid.to_numpy(), cmap="Blues", vmin=0, vmax=0.5, shading="nearest", rasterized=True
    )
    lines = right.contour(grid.columns, grid.index, grid.to_numpy(), levels=LEVELS, colors=style.INK, linewidths=0.8)
    right.clabel(lines, fmt=lambda level: f"{level:.0%}", fontsize=style.SMALL)
    for exponent, name in ((0.5, "GRPO\nρ < ½"), (1.0, "Sqrt-R\nLinear-R")):
        right.axvline(exponent, color=style.INK, linewidth=0.6, linestyle=(0, (3, 2)))
        right.annotate(
            name,
            (exponent, 0.22),
            xytext=(3, 0),
            textcoords="offset points",
            fontsize=style.SMALL,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
        )
    what = "execution of the worse / of the better"
    style.panel(right, "share of the worse of two kinds at rest", "exponent m of weights ρ^-m", what, small=True)
    below.colorbar(shade, ax=right).ax.tick_params(labelsize=style.SMALL)
    handles, labels = panels[0].get_legend_handles_labels()
    above.legend(handles, labels, loc="outside lower center", ncols=len(KINDS), frameon=False, fontsize=8)
    return figure


def caption(frame: pd.DataFrame) -> str:
    """What is shown, with its numbers."""
    time = part(frame, part="time")
    parts = []
    for name, rows in groups(time, "weighting"):
        ends = part(rows, step=rows["step"].max())
        weakest = ends.iloc[-1]
        parts.append(
            f"{METHODS[str(name)]} {ends['mean'].iloc[0]:.1%} at the end with {ends['kinds_lost'].iloc[0]:.2f} kinds "
            f"lost a replica, the weakest kind having {weakest['share']:.1%} of the right responses"
        )
    grid = part(frame, part="map")
    half: Any = grid.iloc[((grid["m"] - 0.5).abs() + (grid["ratio"] - 0.6).abs()).argmin()]
    gone = (grid["share"] < LEVELS[0]).mean()
    return (
        f"Above: four kinds of equal frequency that share one habit, executed right with "
        f"{', '.join(f'{value:g}' for value in WORLD.execution)}, a skill to tell them apart that is learned "
        f"{WORLD.skill_rate:g} times as fast; groups of {GROUP_SIZE}, 16 prompts an update, normalised steps, means "
        f"over {REPLICAS} replicas in which every response is drawn. Mean success: {'; '.join(parts)}. The limit is on "
        f"the push on wrong responses from {RANGE[0]:g} to {RANGE[1]:g}. Below right: of two kinds without skill, the "
        f"share of the habit that the worse executed one has at rest, (r^(1-m))^(1/m) over its sum; at m = "
        f"{half['m']:.2f} one that is executed {half['ratio']:.2f} times as well keeps {half['share']:.1%}; below "
        f"{LEVELS[0]:.0%} lies {gone:.0%} of the map. For m = 1 execution does not matter; towards m = 0, "
        f"RLOO, the winner takes all."
    )
