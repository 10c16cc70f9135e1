"""Weights and effective weights of the named weightings over success probability."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from figures import style
from theory.weightings import REGISTRY
from weightopt.solution import even_grid

LOW, HIGH = 0.002, 0.998


def data() -> pd.DataFrame:
    """Columns weighting, rho, weight, effective_weight; ω at scale 1."""
    # The kink of Plateau-R and the middle of every curve.
    rho = np.unique(np.concatenate([even_grid(LOW, HIGH, 201), [0.5]]))
    return pd.concat(
        pd.DataFrame(
            {
                "weighting": name,
                "rho": rho,
                "weight": REGISTRY[name](rho),
                "effective_weight": REGISTRY[name].effective(rho),
            }
        )
        for name in style.NAMES
    )


def draw(frame: pd.DataFrame) -> Figure:
    """Two panels: what multiplies the centred reward, and what multiplies the direction from wrong to correct."""
    figure = style.page(7.0, 3.4)
    left, right = figure.subplots(1, 2)
    for name, rows in frame.groupby("weighting", sort=False):
        left.plot(rows["rho"], rows["weight"], **style.line(str(name)))
        right.plot(rows["rho"], rows["effective_weight"], **style.line(str(name)))
    left.set_yscale("log")
    left.set_ylim(0.7, 200)
    right.set_ylim(0, 1.05)
    style.panel(left, "prompt weight ω(ρ)", "success probability ρ")
    style.panel(right, "effective weight ρ(1-ρ) ω(ρ)", "success probability ρ")
    style.legend_below(figure, left, columns=3)
    return figure
