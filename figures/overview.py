"""What the tool answers, in one picture: weights, what they do to success over time, and how much time they take."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from figures import style
from figures.frames import groups
from theory.catalogue import WEIGHTINGS
from theory.clocks import EFFECTIVE
from theory.dynamics import NATURAL, crossing_time, update_budget
from weightopt import Problem, solve
from weightopt.ode import trajectory
from weightopt.tabulate import even_grid

TITLE = "Which weights raise success soonest?"
START, TARGET, POINTS = 0.01, 0.9, 121
SHOWN = ("rloo", "grpo")
OPTIMAL = "optimal"


def data() -> pd.DataFrame:
    """Columns weighting, rho, weight, time (over the least possible), success; ∫ω dρ is 1 for every weighting.

    A row has a weight at ρ, or a success after some time.
    """
    solution = solve(Problem(START, TARGET, EFFECTIVE))
    rho = np.unique(np.concatenate([even_grid(START, TARGET, POINTS), [START, TARGET]]))
    frames = []
    for name in (*SHOWN, OPTIMAL):
        weighting: Any = solution.weighting if name == OPTIMAL else WEIGHTINGS[name]
        kinks = () if name == OPTIMAL else WEIGHTINGS[name].kinks
        spent = update_budget(weighting, START, TARGET, kinks)
        duration = crossing_time(weighting, EFFECTIVE, NATURAL, START, TARGET, kinks)
        times = np.linspace(0, duration, POINTS)
        weights = {"rho": rho, "weight": weighting(rho) / spent}
        success = {"time": times * spent / solution.time, "success": trajectory(weighting, EFFECTIVE, START, times)}
        frames += [pd.DataFrame({"weighting": name, **rows}) for rows in (weights, success)]
    return pd.concat(frames, ignore_index=True)


def draw(frame: pd.DataFrame) -> Figure:
    """Weights on the left; success against draws on the right, each line named with its time to the target."""
    figure = style.page(style.WIDTH, 2.6)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.25))
    for name, rows in groups(frame.dropna(subset="rho"), "weighting"):
        left.plot(rows["rho"], rows["weight"], **_look(str(name)))
        left.annotate(
            style.label(str(name)),
            (rows["rho"].iloc[0], rows["weight"].iloc[0]),
            (4, 3 if name != "rloo" else 4),
            textcoords="offset points",
            fontsize=style.SMALL + 0.5,
            color=style.dark(style.COLOURS[str(name)]),
        )
    left.set_xscale("log")
    left.set_yscale("log")
    left.set_xticks([0.01, 0.1, 0.9], ["1 %", "10 %", "90 %"])
    left.set_xticks([], minor=True)
    left.set_yticks([1, 10], ["1", "10"])
    left.set_ylim(top=30)
    style.panel(left, "weight of a prompt", "its success probability", small=True)
    for name, rows in groups(frame.dropna(subset="time"), "weighting"):
        right.plot(rows["time"], rows["success"], **_look(str(name)))
        end = float(rows["time"].iloc[-1])
        right.plot(end, TARGET, "o", color=style.COLOURS[str(name)], markersize=4)
        right.annotate(
            f"{style.label(str(name))}\n{end:.2f} ×",
            (end, TARGET),
            (4 if name == OPTIMAL else -4, 7),
            textcoords="offset points",
            ha="right" if name == OPTIMAL else "left",
            fontsize=style.SMALL + 0.5,
            color=style.dark(style.COLOURS[str(name)]),
        )
    right.axhline(TARGET, color=style.INK, linewidth=0.5, zorder=0)
    right.set_ylim(0, 1.12)
    right.set_yticks([0, 0.5, TARGET], ["0", "50 %", "90 %"])
    right.set_xlim(0, 1.1 * float(np.nanmax(frame["time"].to_numpy())))
    style.panel(right, "success, at equal update budget", "responses drawn / least possible", small=True)
    return figure


def caption(frame: pd.DataFrame) -> str:
    """What is shown, with its numbers."""
    ends: Any = frame.groupby("weighting", sort=False)["time"].max()
    return (
        f"A prompt that succeeds with probability {START:g} is to reach {TARGET:g}, with a given budget of updates, "
        f"∫ω dρ, and responses drawn until one is right (effective clock). GRPO needs {ends['grpo']:.2f} and RLOO "
        f"{ends['rloo']:.2f} times as many responses as the best weights, which here are those of Sqrt-R. The "
        "least possible time is certified. One prompt in the population limit."
    )


def _look(name: str) -> dict[str, Any]:
    return {**style.line(name), "linestyle": "solid", "linewidth": 2.4 if name == OPTIMAL else 1.8}
