"""Predicted against measured: every rung of the ladder of studies/ladder, which says how its rows are made."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

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
IN_ROWS = (4, 5)  # rungs of trained models, whose intervals are so wide that they need a row each
POINT: dict[str, Any] = {"markersize": 3.6, "markeredgewidth": 0.9, "linewidth": 0.9}
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
    "curve": "#882255",
    "population": "#000000",
    "single": "#56B4E9",
    "maxrl": "#8C6D31",
    "push-0.5": "#C9B3D9",
    "push-0.3": "#9B72B8",
    "push-0.15": "#5E3C82",
    "gradient-0.5": "#E4508F",
}


def data() -> pd.DataFrame:
    """Columns rung, setting, method, measure, predicted, measured, low, high, replicas, tau.

    low and high are at 95 %; tau is Kendall's τ of all methods of the setting, the reference among them.

    Raises
    ------
    FileNotFoundError
        Where there are no results of the ladder.
    """
    if not ROWS.exists():
        raise FileNotFoundError("no results of the ladder, which `python -m studies.ladder` makes in the repository")
    frame: Any = pd.read_csv(ROWS)
    ranks: Any = pd.read_csv(ROWS.with_name("ranks.csv"))
    where = ["rung", "setting", "measure"]
    frame = frame.merge(ranks[[*where, "tau"]], on=where, how="left")
    return frame[~frame["measure"].str.startswith(HIDDEN)].reset_index(drop=True)


def draw(frame: pd.DataFrame) -> Figure:
    """A panel for each rung: measured over predicted, on the line a prediction came true; of models, a row a method."""
    rungs = list(groups(frame, "rung"))
    columns = min(ACROSS, len(rungs))
    lines = math.ceil(len(rungs) / columns)
    figure = style.page(style.WIDTH, 0.7 + 2.7 * lines)
    grid = figure.subplots(lines, columns, squeeze=False)
    tints = _tints(list(dict.fromkeys(frame["method"])))
    for axes, (rung, rows) in zip(grid.flat, rungs, strict=False):
        settings = list(dict.fromkeys(rows["setting"]))
        marks = {name: MARKERS[at % len(MARKERS)] for at, name in enumerate(settings)}
        measure = str(rows["measure"].iloc[0]).removesuffix(f" {PILOT}").removesuffix(",")
        reads = SAYS.get(measure) or measure
        if int(rung) in IN_ROWS:
            _rows(axes, rows, marks, tints)
            style.panel(axes, READS[int(rung)], f"{reads}; hollow: {PILOT}", small=True)
        else:
            _points(axes, rows, marks, tints)
            style.panel(axes, READS[int(rung)], "predicted", reads, small=True)
        handles = [
            Line2D([], [], color=style.INK, marker=mark, linestyle="", markersize=3.6, label=name)
            for name, mark in marks.items()
        ]
        look = {"frameon": False, "fontsize": style.SMALL, "loc": "lower right", "handletextpad": 0.1}
        axes.legend(handles=handles, **look)
        if int(rung) not in IN_ROWS and rows["measure"].str.endswith(PILOT).any():
            note = f"hollow: {PILOT}\nλ: rate of skills\nη: step size"
            axes.text(0.03, 0.98, note, transform=axes.transAxes, va="top", fontsize=style.SMALL, color=style.INK)
    for axes in grid.flat[len(rungs) :]:
        axes.set_axis_off()
    named = dict.fromkeys(frame[~frame["rung"].isin(IN_ROWS)]["method"])
    shown = [
        Line2D([], [], color=tints[method], marker="o", linestyle="", markersize=4, label=_label(method))
        for method in named
    ]
    figure.legend(handles=shown, loc="outside lower center", ncols=4, frameon=False, fontsize=style.SMALL + 0.5)
    return figure


def _points(axes: Axes, rows: pd.DataFrame, marks: dict[str, str], tints: dict[str, str]) -> None:
    """Measured over predicted, a point each; hollow where it was predicted from a pilot."""
    ends = np.array([rows[["predicted", "low"]].min().min(), rows[["predicted", "high"]].max().max()])
    ends += np.array([-0.04, 0.04]) * np.ptp(ends)
    axes.plot(ends, ends, color=style.FAINT, linewidth=0.8, zorder=0)
    for row in rows.to_dict(orient="records"):
        axes.errorbar(
            row["predicted"],
            row["measured"],
            _reach(row),
            fmt=marks[row["setting"]],
            color=tints[row["method"]],
            markerfacecolor="white" if PILOT in row["measure"] else tints[row["method"]],
            **POINT,
        )


def _rows(axes: Axes, rows: pd.DataFrame, marks: dict[str, str], tints: dict[str, str]) -> None:
    """A row for each method: what was predicted, hollow, and what was measured, of each setting."""
    methods = list(dict.fromkeys(rows["method"]))
    settings = list(marks)
    for row in rows.to_dict(orient="records"):
        at = methods.index(row["method"]) + 0.7 * ((settings.index(row["setting"]) + 0.5) / len(settings) - 0.5)
        look = {"fmt": marks[row["setting"]], "color": tints[row["method"]], **POINT}
        axes.errorbar(row["measured"], at, xerr=_reach(row), **look)
        axes.errorbar(row["predicted"], at, markerfacecolor="white", **look)
    axes.set_yticks(range(len(methods)), [_label(method).replace(" (reconstruction)", "*") for method in methods])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(methods) - 0.5 + 0.8 * len(settings), -0.5)  # below the rows there is room for the key


def _reach(row: Mapping[Any, Any]) -> Sequence[Sequence[float]]:
    """How far the interval reaches below and above what was measured."""
    return [[max(0.0, row["measured"] - row["low"])], [max(0.0, row["high"] - row["measured"])]]


def caption(frame: pd.DataFrame) -> str:
    """What is shown, with its numbers."""
    parts = []
    for rung, rows in groups(frame, "rung"):
        for pilot, of in groups(rows.assign(pilot=rows["measure"].str.contains(PILOT)), "pilot"):
            inside = ((of["low"] <= of["predicted"]) & (of["predicted"] <= of["high"])).sum()
            apart = (of["measured"] - of["predicted"]).abs()
            worst = of.loc[apart.idxmax()]
            orders = [float(each["tau"].iloc[0]) for _, each in groups(of, "setting")]
            source = f" {PILOT}" if pilot else ""
            parts.append(
                f"rung {rung}{source}: {inside} of {len(of)} predictions lie in the interval, the median distance is "
                f"{apart.median():.3f} and the largest {apart.max():.3f} ({_label(worst['method'])}, "
                f"{worst['setting']}); Kendall's τ by setting {', '.join(f'{tau:.2f}' for tau in orders)}"
            )
    return (
        "Each point is one method in one setting: predicted before the runs, measured with its 95 % interval; on the "
        f"line a prediction came true. R{'; '.join(parts)[1:]}. Rung 1 is plain SGD on independent prompts under one "
        "accumulated budget, rung 2 the same prompts with normalised steps and with AdamW, rung 3 kinds of prompts "
        f"that share habits, predicted by a mean field that knows the world (filled) and {PILOT} of 40 updates with "
        "GRPO (hollow): λ is the rate at which skills and execution are learned, as a multiple of the habit's, and η "
        "the step size. Rung 4 is small language models, a row a method: hollow what was predicted, filled what was "
        "measured. Settings and rules of judgement: [protocol](../studies/ladder/protocol.md)."
    )


def _tints(methods: list[str]) -> dict[str, str]:
    """Colours of the house; black for what stands for the optimum."""
    return style.colours(methods) | {method: TINTS[method] for method in methods if method in TINTS}


def _label(method: str) -> str:
    return SOLVED.get(method) or (EVERYTHING[method].label if method in EVERYTHING else method)
