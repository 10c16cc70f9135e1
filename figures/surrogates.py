"""Surrogates: the objective whose gradient a weighting follows, and where on the way it spends its budget."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from figures import style
from figures.frames import part
from theory.catalogue import WEIGHTINGS
from weightopt.tabulate import even_grid

TITLE = "Surrogates"
START, TARGET = 0.01, 0.9
LOW, HIGH = 0.002, 0.998
QUOTED = 0.1


def data() -> pd.DataFrame:
    """Columns weighting, rho, surrogate (0 at ρ = ½), spent (share of the budget from start to target spent by ρ)."""
    rho = np.unique(np.concatenate([even_grid(LOW, HIGH, 201), [START, QUOTED, 0.5, TARGET]]))
    first, last = np.searchsorted(rho, [START, TARGET])
    on_the_way = (rho >= START) & (rho <= TARGET)
    frames = []
    for name in style.NAMES:
        surrogate = WEIGHTINGS[name].surrogate
        assert surrogate is not None
        h = surrogate(rho)
        middle = h[np.searchsorted(rho, 0.5)]
        spent = np.where(on_the_way, (h - h[first]) / (h[last] - h[first]), np.nan)
        frames.append(pd.DataFrame({"weighting": name, "rho": rho, "surrogate": h - middle, "spent": spent}))
    return pd.concat(frames, ignore_index=True)


def draw(frame: pd.DataFrame) -> Figure:
    """The surrogate itself, and as a share of its gain from start to target."""
    figure = style.page(style.WIDTH, 2.6)
    left, right = figure.subplots(1, 2)
    right.set_xscale("logit")
    for name, rows in frame.groupby("weighting", sort=False):
        left.plot(rows["rho"], rows["surrogate"], **style.line(str(name)))
        right.plot(rows["rho"], rows["spent"], **style.line(str(name)))
    left.set_xlim(0, 1)
    left.set_ylim(-5, 3)
    right.set_xlim(START, TARGET)
    right.set_ylim(0, 1)
    right.set_xticks([0.01, 0.05, 0.2, 0.5, 0.9], ["0.01", "0.05", "0.2", "0.5", "0.9"])
    right.minorticks_off()
    style.panel(left, "surrogate h, with h(½) = 0", "success probability ρ", small=True)
    style.panel(right, "share of the budget ∫ω dρ spent", "success probability ρ (log-odds)", small=True)
    style.legend_below(figure, left, columns=3)
    return figure


def caption(frame: pd.DataFrame) -> str:
    """What is shown, with its numbers."""
    order = part(frame, rho=QUOTED).set_index("weighting")["spent"].sort_values(ascending=False)
    shares = ", ".join(f"{style.short(str(name))} {share:.0%}" for name, share in order.items())
    return (
        f"Left: h with h' = ω, what a weighting ascends, shifted to 0 at ρ = ½. Right: (h(ρ) - h({START:g}))/"
        f"(h({TARGET:g}) - h({START:g})), the share of the update budget from {START:g} to {TARGET:g} that is spent "
        f"below ρ. Below {QUOTED:g} that is: {shares}."
    )
