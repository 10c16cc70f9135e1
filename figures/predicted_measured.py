"""Predicted against measured: every rung of the ladder of studies/ladder, which says how its rows are made."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy import stats

from figures import style
from figures.frames import groups
from theory.catalogue import EVERYTHING

TITLE = "Predicted against measured, rung by rung"
ROWS = Path(__file__).resolve().parent.parent / "studies" / "ladder" / "results" / "rows.csv"
READS = {
    1: "1: independent, SGD",
    2: "2: a budget every step",
    3: "3: shared habits",
    4: "4: small models",
    5: "5: language models",
}
HIDDEN = ("budget", "kinds lost", "success at step", "mean over the run")  # beginnings of measures that are not drawn
PILOT = "from a pilot"
SAYS = {"cost": "cost / that of the solved table", "success at the end": "success at the end"}
MARKERS = "osD^vP"
ACROSS = 2  # panels
SOLVED = {
    "table": "solved table",
    "curve": "solved curve at K/M",
    "population": "population table",
    "single": "table for one start",
    "push-0.5": "push limit 0.5",
    "push-0.3": "push limit 0.3",
    "push-0.15": "push limit 0.15",
    "gradient-0.5": "gradient limit 0.5",
}
TINTS = {
    "table": "#000000",
    "curve": "#666666",
    "population": "#000000",
    "single": "#56B4E9",
    "maxrl": "#8C6D31",
    "push-0.5": "#C9B3D9",
    "push-0.3": "#9B72B8",
    "push-0.15": "#5E3C82",
    "gradient-0.5": "#B0A000",
}


def data() -> pd.DataFrame:
    """Columns rung, setting, method, measure, predicted, measured, low, high, replicas; low and high at 95 %.

    Raises
    ------
    FileNotFoundError
        Where there are no results of the ladder.
    """
    if not ROWS.exists():
        raise FileNotFoundError("no results of the ladder, which `python -m studies.ladder` makes in the repository")
    frame: Any = pd.read_csv(ROWS)
    return frame[~frame["measure"].str.startswith(HIDDEN)].reset_index(drop=True)


def draw(frame: pd.DataFrame) -> Figure:
    """A panel for each rung; on the line a prediction came true. Hollow: predicted from a pilot."""
    rungs = list(groups(frame, "rung"))
    columns = min(ACROSS, len(rungs))
    lines = math.ceil(len(rungs) / columns)
    figure = style.page(style.WIDTH, 0.9 + 2.3 * lines)
    grid = figure.subplots(lines, columns, squeeze=False)
    methods = list(dict.fromkeys(frame["method"]))
    tints = _tints(methods)
    for axes, (rung, rows) in zip(grid.flat, rungs, strict=False):
        settings = list(dict.fromkeys(rows["setting"]))
        ends = np.array([rows[["predicted", "low"]].min().min(), rows[["predicted", "high"]].max().max()])
        ends += np.array([-0.04, 0.04]) * np.ptp(ends)
        axes.plot(ends, ends, color=style.FAINT, linewidth=0.8, zorder=0)
        for _, row in rows.iterrows():
            colour, pilot = tints[row["method"]], PILOT in row["measure"]
            reach = [[row["measured"] - row["low"]], [row["high"] - row["measured"]]]
            axes.errorbar(
                row["predicted"],
                row["measured"],
                np.maximum(0, reach),
                fmt=MARKERS[settings.index(row["setting"]) % len(MARKERS)],
                color=colour,
                markerfacecolor="white" if pilot else colour,
                markersize=3.6,
                markeredgewidth=0.9,
                linewidth=0.9,
            )
        marks = [
            Line2D([], [], color=style.INK, marker=MARKERS[at % len(MARKERS)], linestyle="", markersize=3.6, label=name)
            for at, name in enumerate(settings)
        ]
        axes.legend(handles=marks, frameon=False, fontsize=style.SMALL, loc="lower right", handletextpad=0.1)
        measure = str(rows["measure"].iloc[0]).removesuffix(f" {PILOT}").removesuffix(",")
        style.panel(axes, READS[int(rung)], "predicted", SAYS.get(measure) or measure, small=True)
    for axes in grid.flat[len(rungs) :]:
        axes.set_axis_off()
    shown = [
        Line2D([], [], color=tints[method], marker="o", linestyle="", markersize=4, label=_label(method))
        for method in methods
    ]
    figure.legend(handles=shown, loc="outside lower center", ncols=4, frameon=False, fontsize=style.SMALL + 0.5)
    return figure


def caption(frame: pd.DataFrame) -> str:
    """What is shown, with its numbers."""
    parts = []
    for rung, rows in groups(frame, "rung"):
        for pilot, of in groups(rows.assign(pilot=rows["measure"].str.contains(PILOT)), "pilot"):
            inside = ((of["low"] <= of["predicted"]) & (of["predicted"] <= of["high"])).sum()
            apart = (of["measured"] - of["predicted"]).abs()
            worst = of.loc[apart.idxmax()]
            orders = [_tau(each) for _, each in groups(of, "setting")]
            source = f" {PILOT}" if pilot else ""
            parts.append(
                f"rung {rung}{source}: {inside} of {len(of)} predictions lie in the interval, the median distance is "
                f"{apart.median():.3f} and the largest {apart.max():.3f} ({_label(worst['method'])}, "
                f"{worst['setting']}); Kendall's τ by setting {', '.join(f'{tau:.2f}' for tau in orders)}"
            )
    return (
        "Each point is one method in one setting: predicted before the runs, measured with its 95 % interval; on the "
        f"line a prediction came true. {'; '.join(parts)}. Rung 1 is plain SGD on independent prompts under one "
        "accumulated budget, rung 2 the same prompts with normalised steps and with AdamW, rung 3 kinds of prompts "
        f"that share habits, predicted by a mean field that knows the world (filled) and {PILOT} of 40 updates with "
        "GRPO (hollow). Settings and rules of judgement: [protocol](../studies/ladder/protocol.md)."
    )


def _tau(rows: pd.DataFrame) -> float:
    found: Any = stats.kendalltau(rows["predicted"], rows["measured"])
    return float(found.statistic)


def _tints(methods: list[str]) -> dict[str, str]:
    """Colours of the house; black for what stands for the optimum."""
    return style.colours(methods) | {method: TINTS[method] for method in methods if method in TINTS}


def _label(method: str) -> str:
    return SOLVED.get(method) or (EVERYTHING[method].label if method in EVERYTHING else method)
