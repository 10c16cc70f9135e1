"""Held-out success of trained models against what was sampled, for runs trained from different tables."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from figures import style
from figures.estimates import crossing, interval
from figures.frames import part
from figures.runs import LAST, load_runs

TITLE = "Training curves of real models"
LEVELS = (0.3, 0.5, 0.7)
CROWD = 4  # tables, from which on each has a panel of its own
REFERENCE = "grpo"
COLUMNS, TITLE_WIDTH = 3, 26
COSTS = {"responses": (1e3, "responses sampled, thousands"), "tokens": (1e6, "tokens sampled, millions")}


def data(runs: Path) -> pd.DataFrame:
    """Columns table, label, seed, step, responses, tokens, success, low, high of every run; see `figures.runs`.

    Raises
    ------
    FileNotFoundError
        If there is no run.
    ValueError
        If a metrics file cannot be understood.
    """
    runs_of: Any = pd.concat(
        [run.evaluations.assign(table=run.table, label=run.label, seed=run.seed) for run in load_runs(runs)],
        ignore_index=True,
    )
    return runs_of[["table", "label", "seed", "step", "responses", "tokens", "success", "low", "high"]]


def draw(frame: pd.DataFrame) -> Figure:
    """Mean over seeds with its 95 % t-interval: few tables in one panel for each cost, many in a panel each."""
    tables = list(dict.fromkeys(frame["table"]))
    return _one_panel_each(frame, tables) if len(tables) >= CROWD else _together(frame, tables)


def _together(frame: pd.DataFrame, tables: list[str]) -> Figure:
    figure = style.page(style.WIDTH, 2.9)
    panels = figure.subplots(1, len(COSTS), sharey=True)
    tints = style.colours(tables)
    ends = {}
    for axes, (cost, (unit, reading)) in zip(panels, COSTS.items(), strict=True):
        for table in tables:
            curve = _curve(part(frame, table=table), cost)
            x = curve["paid"] / unit
            axes.fill_between(x, curve["low"], curve["high"], color=tints[table], alpha=0.18, linewidth=0)
            axes.plot(x, curve["mean"], **{**style.line(table), "color": tints[table]})
            if len(curve):
                ends[table] = float(x.iloc[-1]), float(curve["mean"].iloc[-1])
        axes.set_xlim(left=0)
        axes.set_ylim(0, _top(frame))
        axes.locator_params(axis="x", nbins=5)
        style.panel(axes, "", reading, small=True)
    style.label_ends(panels[-1], ends, tints)
    panels[0].set_ylabel("held-out success", fontsize=8)
    return figure


def _one_panel_each(frame: pd.DataFrame, tables: list[str]) -> Figure:
    unit, reading = COSTS["responses"]
    last = at_the_end(frame).groupby("table").mean()
    tables = sorted(tables, key=lambda table: -float(last[table]))
    tints = style.colours(sorted(tables))
    rows = -(-len(tables) // COLUMNS)
    figure = style.page(style.WIDTH, 0.35 + 1.75 * rows)
    grid = figure.subplots(rows, COLUMNS, sharex=True, sharey=True, squeeze=False)
    reference = _curve(part(frame, table=REFERENCE), "responses")
    for number, (axes, table) in enumerate(zip(grid.flat, tables, strict=False)):
        of = part(frame, table=table)
        curve = _curve(of, "responses")
        x = curve["paid"] / unit
        if table != REFERENCE and len(reference):
            axes.plot(reference["paid"] / unit, reference["mean"], color=style.COLOURS[REFERENCE], linewidth=0.8)
        axes.fill_between(x, curve["low"], curve["high"], color=tints[table], alpha=0.2, linewidth=0)
        axes.plot(x, curve["mean"], color=tints[table], linewidth=1.8)
        axes.set_xlim(left=0)
        axes.set_ylim(0, _top(frame))
        axes.locator_params(axis="x", nbins=5)
        label = textwrap.fill(str(of["label"].iloc[0]).replace(" (reconstruction)", "*"), TITLE_WIDTH)
        style.panel(axes, label, reading if number >= len(tables) - COLUMNS else "", small=True)
        axes.text(
            0.97, 0.05, f"{last[table]:.0%} at the end", transform=axes.transAxes, ha="right", fontsize=style.SMALL
        )
    for axes in grid.flat[len(tables) :]:
        axes.set_axis_off()
    for axes in grid[:, 0]:
        axes.set_ylabel("held-out success", fontsize=8)
    thin = f"thin line: {style.label(REFERENCE)}" if len(reference) else ""
    star = style.STAR if any("(reconstruction)" in label for label in frame["label"]) else ""
    style.foot(figure, "; ".join(text for text in (thin, star) if text))
    return figure


def at_the_end(frame: pd.DataFrame) -> Any:
    """Success at the end of each run by table and seed: the mean of the last `LAST` evaluations."""
    return frame.sort_values("step").groupby(["table", "seed"])["success"].apply(lambda run: run.iloc[-LAST:].mean())


def _curve(rows: pd.DataFrame, cost: str) -> pd.DataFrame:
    """Columns paid, mean, low, high at the steps that all seeds have: of success, with its 95 % t-interval."""
    if not len(rows):
        return pd.DataFrame(columns=["paid", "mean", "low", "high"])
    success = rows.pivot_table(index="step", columns="seed", values="success").dropna()
    paid = rows.pivot_table(index="step", columns="seed", values=cost).loc[success.index].mean(axis=1)
    found = np.array([interval(values) if len(values) > 1 else (values[0],) * 3 for values in success.to_numpy()])
    mean, low, high = found.reshape(-1, 3).T
    return pd.DataFrame({"paid": paid, "mean": mean, "low": np.maximum(low, 0), "high": np.minimum(high, 1)})


def _top(frame: pd.DataFrame) -> float:
    """The end of the axis of success: the highest one, and a little."""
    return min(1.0, 0.1 * np.ceil(10 * float(frame["success"].to_numpy().max()) + 0.5))


def caption(frame: pd.DataFrame) -> str:
    """What is shown, with its numbers."""
    last = at_the_end(frame)
    names = dict(zip(frame["table"], frame["label"], strict=True))
    ends = [
        f"{names[table]} {_interval(of.to_numpy(), '{:.1%}')} ({len(of)} seeds)" for table, of in last.groupby("table")
    ]
    crowded = len(set(frame["table"])) >= CROWD
    against = "responses sampled, best at the end first" if crowded else "responses and against tokens sampled"
    return (
        f"Held-out success of language models trained from weight tables, against {against}: mean over seeds and its "
        f"95 % t-interval (band). At the end, the mean of the last "
        f"{LAST} evaluations, with that interval: {'; '.join(ends)}."
    )


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """Responses until a held-out success is reached, interpolated between evaluations, mean and 95 % t-interval."""
    found: dict[str, dict[str, str]] = {}
    for _, rows in frame.groupby("table"):
        runs = [run.sort_values("step") for _, run in rows.groupby("seed")]
        for level in LEVELS:
            reached = np.array([crossing(r["responses"].to_numpy(), r["success"].to_numpy(), level) for r in runs])
            arrived = int(np.isfinite(reached).sum())
            text = f"reached by {arrived} of {len(runs)} seeds"
            if arrived == len(runs):
                text = _interval(reached, "{:,.0f}")
            found.setdefault(str(rows["label"].iloc[0]), {})[f"{level:.0%}"] = text
    return pd.DataFrame(found).T.rename_axis("responses to held-out success")


def _interval(values: np.ndarray, form: str) -> str:
    if values.size < 2:
        return form.format(values.mean())
    mean, low, high = interval(values)
    low = max(low, 0.0)
    return f"{form.format(mean)} [{form.format(low)}, {form.format(high)}]"
