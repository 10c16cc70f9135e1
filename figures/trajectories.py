"""Success probability over time from ρ = 0.01, in both clocks, every weighting with the same update budget."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from figures import style
from theory.clocks import Effective, Regular
from theory.dynamics import NATURAL, crossing_time, update_budget
from theory.weightings import REGISTRY
from weightopt.curve import solve
from weightopt.ode import trajectory
from weightopt.problem import Problem

START, TARGET, POINTS = 0.01, 0.9, 161


def data() -> pd.DataFrame:
    """Columns clock, weighting, time, rho; time in units of the least possible, ∫ω dρ = 1 from start to target."""
    frames = []
    for clock in (Regular(), Effective()):
        solution = solve(Problem(START, TARGET, clock))
        weightings = {name: (REGISTRY[name], REGISTRY[name].kinks) for name in style.NAMES}
        for name, (weighting, kinks) in {**weightings, "optimal": (solution.weighting, ())}.items():
            spent = update_budget(weighting, START, TARGET, kinks)
            # At scale 1 the weighting spends `spent`; scaled to 1 it takes `spent` times as long.
            duration = crossing_time(weighting, clock, NATURAL, START, TARGET, kinks)
            times = np.linspace(0, duration, POINTS)
            rho = trajectory(weighting, clock, START, times)
            frames.append(
                pd.DataFrame(
                    {"clock": clock.name, "weighting": name, "time": times * spent / solution.time, "rho": rho}
                )
            )
    return pd.concat(frames)


def draw(frame: pd.DataFrame) -> Figure:
    """One panel a clock; a dot where a weighting reaches the target."""
    figure = style.page(7.0, 3.6)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (clock, of_clock) in zip(panels, frame.groupby("clock", sort=False), strict=True):
        for name, rows in of_clock.groupby("weighting", sort=False):
            look = style.line(str(name))
            axes.plot(rows["time"], rows["rho"], **look)
            axes.plot(rows["time"].iloc[-1], rows["rho"].iloc[-1], "o", color=look["color"], markersize=4)
        axes.axhline(TARGET, color=style.INK, linewidth=0.5, zorder=0)
        axes.set_xlim(left=0)
        axes.set_ylim(0, 1)
        style.panel(axes, f"{clock} clock", "time / least possible time")
    panels[0].set_ylabel("success probability ρ", fontsize=9)
    style.legend_below(figure, panels[0], columns=4)
    return figure
