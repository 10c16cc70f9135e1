"""Success probability over time from two starts, in both clocks, every weighting with the same update budget."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from figures import style
from figures.frames import groups
from theory.catalogue import WEIGHTINGS
from theory.clocks import EFFECTIVE, REGULAR
from theory.dynamics import NATURAL, crossing_time, update_budget
from weightopt import Problem, solve
from weightopt.ode import trajectory

TITLE = "Trajectories in regular and in effective time"
STARTS, TARGET, POINTS = (0.01, 0.4), 0.9, 121


def data() -> pd.DataFrame:
    """Columns start, clock, weighting, time (over the least possible), rho; ∫ω dρ is equal from start to target."""
    frames = []
    for start in STARTS:
        for clock in (REGULAR, EFFECTIVE):
            solution = solve(Problem(start, TARGET, clock))
            weightings = {name: (WEIGHTINGS[name], WEIGHTINGS[name].kinks) for name in style.NAMES}
            for name, (weighting, kinks) in {**weightings, "optimal": (solution.weighting, ())}.items():
                spent = update_budget(weighting, start, TARGET, kinks)
                # At scale 1 the weighting spends `spent`; scaled to 1 it takes `spent` times as long.
                duration = crossing_time(weighting, clock, NATURAL, start, TARGET, kinks)
                times = np.linspace(0, duration, POINTS)
                rho = trajectory(weighting, clock, start, times)
                rows = {
                    "start": start,
                    "clock": clock.name,
                    "weighting": name,
                    "time": times * spent / solution.time,
                    "rho": rho,
                }
                frames.append(pd.DataFrame(rows))
    return pd.concat(frames, ignore_index=True)


def draw(frame: pd.DataFrame) -> Figure:
    """One row per start, one column per clock; a dot marks where a weighting reaches the target."""
    figure = style.page(style.WIDTH, 4.6)
    grid = figure.subplots(len(STARTS), 2, sharey="row", squeeze=False)
    for axes, ((start, clock), rows) in zip(grid.flat, groups(frame, "start", "clock"), strict=True):
        axes.axhline(TARGET, color=style.INK, linewidth=0.5, zorder=0)
        for name, curve in groups(rows, "weighting"):
            look = style.line(str(name))
            axes.plot(curve["time"], curve["rho"], **look)
            axes.plot(curve["time"].iloc[-1], curve["rho"].iloc[-1], "o", color=look["color"], markersize=3.5)
        axes.set_xlim(0, 1.04 * rows["time"].max())
        axes.locator_params(axis="x", nbins=5)
        axes.set_ylim(rows["rho"].min() - 0.02, TARGET + 0.04)
        style.panel(axes, f"from {start:g}, {clock} clock", "time / least possible time", small=True)
    for axes in grid[:, 0]:
        axes.set_ylabel("success probability ρ", fontsize=8)
    style.legend_below(figure, grid[0, 0], columns=4)
    return figure


def caption(frame: pd.DataFrame) -> str:
    """What is shown, with its numbers."""
    last = _last(frame)
    hard, easy = STARTS
    spread = last.loc[easy].drop("optimal", level="weighting").max()
    return (
        f"One prompt in the population limit, dρ/dt = ρ(1-ρ)ω, to ρ = {TARGET:g}; every weighting spends the same "
        f"budget ∫ω dρ on the way, and time is relative to the certified optimum of that clock. Regular time counts "
        f"update steps, effective time expected draws per success, 1/ρ a step. From {hard:g} GRPO is optimal in "
        f"regular time and takes {last[hard, 'effective', 'grpo']:.3f} in effective time, where Sqrt-R is optimal; "
        f"Sqrt-R takes {last[hard, 'regular', 'sqrt-r']:.3f} in regular time. From {easy:g} no named weighting takes "
        f"more than {spread:.3f} in either. RLOO and Uniform-R tie in regular, Linear-R and Uniform-R in effective "
        f"time, exactly."
    )


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """Times to the target relative to the least possible."""
    shown = _last(frame).map("{:.3f}".format).unstack("weighting")[list(style.NAMES)]
    shown.index = pd.Index(
        [f"from {start:g}, {clock} clock" for start, clock in shown.index], name="time to the target"
    )
    return shown.rename(columns=style.label)


def _last(frame: pd.DataFrame) -> Any:
    return frame.groupby(["start", "clock", "weighting"], sort=False)["time"].last()
