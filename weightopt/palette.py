"""A colour and a dash pattern for each named weighting, the same in every picture and page.

Colours are those of Okabe and Ito, told apart by colour-blind readers; the dashes tell them apart in grey print.
"""

from __future__ import annotations

from typing import Any

INK, FAINT = "#222222", "#999999"
COLOURS = {
    "rloo": "#8A8A8A",
    "grpo": "#0072B2",
    "linear-r": "#E69F00",
    "sqrt-r": "#D55E00",
    "uniform-r": "#009E73",
    "plateau-r": "#CC79A7",
    "optimal": "#000000",
    "advised": "#000000",
}
SPARE = ("#56B4E9", "#7A5195", "#8C6D31", "#B0A000")  # for tables that are not of the house, in order
DASHES: dict[str, Any] = {
    "rloo": (0, (1, 1.2)),
    "grpo": "solid",
    "linear-r": (0, (5, 1.5)),
    "sqrt-r": "solid",
    "uniform-r": (0, (3, 1, 1, 1)),
    "plateau-r": (0, (6, 1, 1, 1, 1, 1)),
    "optimal": (0, (1, 2.2)),
}
