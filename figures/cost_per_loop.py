"""Cost per loop: what each training loop pays for a unit of progress, against the success probability."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from figures import style
from figures.frames import groups
from sim import weighting
from sim.loops import Lengths, pay
from theory import clocks
from theory.finite_group import speed
from theory.log_linear import LogLinear

TITLE = "What each loop pays for a unit of progress"
GROUP_SIZE = 16
NAMES = ("grpo", "sqrt-r")
LENGTHS = Lengths(200, 2000)
POINTS, SIMULATED = 61, 7
STEPS, PROMPTS, SEED = 100, 64, 0
LOW, HIGH = 0.01, 0.97
# Loops by the clock that they pay: label, colour, dashes and marker.
LOOPS: dict[str, tuple[str, str, Any, str]] = {
    "regular": ("fixed batch, paid in groups", "#0072B2", "solid", "o"),
    "tokens": ("fixed batch, paid in tokens", "#56B4E9", (0, (5, 1.5)), "s"),
    "refill": ("refilled, drawing = training", "#009E73", (0, (3, 1, 1, 1)), "D"),
    "updates": ("refilled, updates alone cost", "#E69F00", (0, (1, 1.2)), "^"),
    "effective": ("until a success, in responses", "#D55E00", (0, (6, 1, 1, 1, 1, 1)), "v"),
    "both": ("until a pair, in responses", "#CC79A7", (0, (8, 2)), "P"),
}
REFILLED = ("refill", "updates")


@functools.cache
def _clock(loop: str) -> clocks.Clock:
    if loop == "tokens":
        rho = np.linspace(LOW / 2, (1 + HIGH) / 2, 200)
        length = rho * LENGTHS.right + (1 - rho) * LENGTHS.wrong
        scale = LENGTHS.wrong
        return clocks.Tabulated("tokens", "lengths", LogLinear(tuple(rho.tolist()), tuple((length / scale).tolist())))
    named = {"refill": f"refill:{GROUP_SIZE},1,1", "updates": f"refill:{GROUP_SIZE},0,1"}
    return clocks.parse(named.get(loop, loop))


def data() -> pd.DataFrame:
    """Columns weighting, loop, rho, cost, simulated, error.

    ``cost`` is c(ρ)/u(ρ), or c(ρ)/ω(ρ) for loops that learn from single responses; ``simulated`` what a simulated loop
    paid, with its standard error, missing where none was run.
    """
    rho = np.sort(
        np.unique(
            np.concatenate(
                [
                    1 / (1 + np.exp(-np.linspace(np.log(LOW / (1 - LOW)), np.log(HIGH / (1 - HIGH)), count)))
                    for count in (POINTS, SIMULATED)
                ]
            ).round(12)
        )
    )
    marked = rho[np.searchsorted(rho, rho[:: max(1, (rho.size - 1) // (SIMULATED - 1))])]
    rows = []
    for name in NAMES:
        weights = weighting.read(name, GROUP_SIZE)
        for loop in LOOPS:
            clock = _clock(loop)
            single = "until-success" in clock.loops or "until-both" in clock.loops
            assert weights.curve is not None
            correct, wrong = weights.correct.copy(), weights.wrong.copy()
            if loop in REFILLED:  # uniform groups are dropped
                correct[-1] = wrong[0] = 0.0
            moved = weights.curve(rho) if single else speed(rho, correct, wrong, "ratio")
            for at, cost in zip(rho, clock(rho) / moved, strict=True):
                found, error = np.nan, np.nan
                if at in marked:
                    rng = np.random.default_rng(SEED)
                    lengths = LENGTHS if loop == "tokens" else None
                    paid = pay(clock, weights, float(at), rng, steps=STEPS, prompts=PROMPTS, lengths=lengths)
                    scale = LENGTHS.wrong if loop == "tokens" else 1.0
                    found, error = paid.price / scale, paid.error / scale
                rows.append((name, loop, at, cost, found, error))
    return pd.DataFrame(rows, columns=["weighting", "loop", "rho", "cost", "simulated", "error"])


def draw(frame: pd.DataFrame) -> Figure:
    """A panel for each weighting; lines are the theory, points the simulated loops."""
    figure = style.page(style.WIDTH, 3.4)
    panels = figure.subplots(1, len(frame["weighting"].unique()), sharey=True, squeeze=False)[0]
    for axes, (name, rows) in zip(panels, groups(frame, "weighting"), strict=True):
        for loop, curve in groups(rows, "loop"):
            label, colour, dash, mark = LOOPS[str(loop)]
            axes.plot(curve["rho"], curve["cost"], color=colour, linestyle=dash, linewidth=1.2)
            at = curve.dropna(subset=["simulated"])
            look = {"markersize": 3.5, "linewidth": 1, "color": colour}
            axes.errorbar(at["rho"], at["simulated"], 1.96 * at["error"], fmt=mark, **look)
            axes.plot([], [], mark, linestyle=dash, label=label, **look)
        axes.set_xscale("logit")
        axes.set_xticks([0.01, 0.1, 0.5, 0.9], ["0.01", "0.1", "0.5", "0.9"])
        axes.minorticks_off()
        axes.set_yscale("log")
        style.panel(axes, style.label(str(name)), "success probability ρ", small=True)
    panels[0].set_ylabel("cost of a unit of log-odds", fontsize=8)
    style.legend_below(figure, panels[0], columns=3)
    return figure


def caption(frame: pd.DataFrame) -> str:
    """What is shown, with its numbers."""
    first, last = frame["rho"].min(), frame["rho"].max()
    ends: Any = frame.set_index(["weighting", "loop", "rho"])["cost"]
    falls = {loop: ends["grpo", loop, first] / ends["grpo", loop, last] for loop in LOOPS}
    drawn = frame.dropna(subset=["simulated"])
    apart = ((drawn["simulated"] - drawn["cost"]).abs() / drawn["error"]).max()
    return (
        f"Cost over progress of one prompt at success ρ, groups of {GROUP_SIZE}, progress in log-odds under the "
        f"weighting as published, without its rules for uniform groups where these are dropped; lines: clock over "
        f"expected speed, points: simulated loops that draw {STEPS} × {PROMPTS} groups, with 95 % intervals; "
        f"the largest of {len(drawn)} deviations is {apart:.1f} standard errors. Tokens are in "
        f"units of a wrong answer's {LENGTHS.wrong:.0f}, right ones have {LENGTHS.right:.0f}. "
        f"At ρ = {first:.2f} GRPO pays {falls['regular']:.1f} times what it pays at {last:.2f} in groups of a fixed "
        f"batch, {falls['tokens']:.0f} times in tokens, {falls['refill']:.1f} times with refilling where drawing a "
        f"group costs as much as training on it, {falls['updates']:.2f} times where updates alone cost, and "
        f"{falls['effective']:.0f} times where one draws until a success. A table is optimal for the loop it was "
        f"made for; which loop is whose: [problems](problems.md)."
    )
