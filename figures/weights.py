"""Effective weights and advantages of the named weightings over the estimated success probability."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from figures import style
from theory.catalogue import WEIGHTINGS
from weightopt.tabulate import even_grid

TITLE = "Effective weights and advantages"
LOW, HIGH = 0.002, 0.998
LEAST = -3.0  # where the panel of wrong responses ends
QUOTED = 0.05


def data() -> pd.DataFrame:
    """Columns weighting, rho, weight, effective_weight, advantage_correct, advantage_wrong; ω at scale 1."""
    # The kink of Plateau-R and the middle of every curve; a point that the caption quotes.
    rho = np.unique(np.concatenate([even_grid(LOW, HIGH, 201), [QUOTED, 0.5]]))
    return pd.concat(
        [
            pd.DataFrame(
                {
                    "weighting": name,
                    "rho": rho,
                    "weight": WEIGHTINGS[name](rho),
                    "effective_weight": WEIGHTINGS[name].effective(rho),
                    "advantage_correct": (1 - rho) * WEIGHTINGS[name](rho),
                    "advantage_wrong": -rho * WEIGHTINGS[name](rho),
                }
            )
            for name in style.NAMES
        ],
        ignore_index=True,
    )


def draw(frame: pd.DataFrame) -> Figure:
    """The factor of the direction from wrong to correct, and those of ∇log π of a correct and a wrong response."""
    figure = style.page(style.WIDTH, 2.5)
    effective, correct, wrong = figure.subplots(1, 3)
    shown = {effective: "effective_weight", correct: "advantage_correct", wrong: "advantage_wrong"}
    for name, rows in frame.groupby("weighting", sort=False):
        for axes, column in shown.items():
            axes.plot(rows["rho"], rows[column], **style.line(str(name)))
    effective.set_ylim(0, 1.05)
    correct.set_yscale("log")
    correct.set_ylim(0.03, 300)
    wrong.set_ylim(LEAST, 0.1)
    style.panel(effective, "effective weight ρ(1-ρ)ω", "success probability ρ̂", small=True)
    style.panel(correct, "advantage if correct", "success probability ρ̂", small=True)
    style.panel(wrong, "advantage if wrong", "success probability ρ̂", small=True)
    for axes in shown:
        axes.set_xlim(0, 1)
        axes.set_xticks([0, 0.5, 1], ["0", "½", "1"])
    style.legend_below(figure, effective, columns=3)
    return figure


def caption(frame: pd.DataFrame) -> str:
    """What is shown, with its numbers."""
    at = frame[frame["rho"] == QUOTED].set_index("weighting")
    pushes = ", ".join(
        f"{style.short(name)} {at.loc[name, 'advantage_correct']:.2f} and {at.loc[name, 'advantage_wrong']:.2f}"
        for name in style.NAMES
    )
    ratio = at.loc["linear-r", "effective_weight"] / at.loc["grpo", "effective_weight"]
    return (
        f"Each weighting at scale 1, over the share ρ̂ of correct responses in a group; the last panel is cut at "
        f"{LEAST:g}. At ρ̂ = {QUOTED:g} the advantage of a correct and of a wrong response is: {pushes}. The "
        f"asymmetric weightings keep pushing down every wrong response as ρ̂ falls to 0, where their advantage goes to "
        f"-1, and there GRPO's goes to 0: at ρ̂ = {QUOTED:g} the effective weight of Linear-R is {ratio:.1f} times "
        f"GRPO's. {style.STAR[2:].capitalize()} (starred)."
    )
