"""Held-out success of trained models against responses, tokens and updates, for runs trained from different tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from figures import style
from figures.estimates import crossing, interval
from figures.runs import load_runs

TITLE = "Training curves of real models"
LEVELS = (0.3, 0.5, 0.7)
CROWD = 4  # tables, from which on only means are drawn
COSTS = {
    "responses": (1e3, "responses sampled, thousands"),
    "tokens": (1e6, "tokens sampled, millions"),
    "updates": (1, "updates"),
}


def data(runs: Path) -> pd.DataFrame:
    """Columns table, seed, step, responses, tokens, success, low, high of every run; see `figures.runs`.

    Raises
    ------
    FileNotFoundError
        If there is no run.
    ValueError
        If a metrics file cannot be understood.
    """
    runs_of: Any = pd.concat(
        [run.evaluations.assign(table=run.table, seed=run.seed) for run in load_runs(runs)], ignore_index=True
    )
    return runs_of[["table", "seed", "step", "responses", "tokens", "success", "low", "high"]]


def draw(frame: pd.DataFrame) -> Figure:
    """One panel per cost: the mean over seeds and, for few tables, their range as a band and seeds as thin lines."""
    figure = style.page(style.WIDTH, 2.9)
    panels = figure.subplots(1, len(COSTS), sharey=True)
    tints = style.colours(list(dict.fromkeys(frame["table"])))
    ends = {}
    for axes, (cost, (unit, reading)) in zip(panels, COSTS.items(), strict=True):
        for table, rows in frame.groupby("table", sort=True):
            name, tint = str(table), tints[str(table)]
            success = rows.pivot_table(index="step", columns="seed", values="success").dropna()
            column = "step" if cost == "updates" else cost
            paid = (
                rows.assign(paid=rows[column])
                .pivot_table(index="step", columns="seed", values="paid")
                .loc[success.index]
                / unit
            )
            mean, x = success.mean(axis=1), paid.mean(axis=1)
            if len(tints) < CROWD:
                axes.fill_between(x, success.min(axis=1), success.max(axis=1), color=tint, alpha=0.18, linewidth=0)
                for seed in success:
                    axes.plot(paid[seed], success[seed], color=tint, linewidth=0.5, alpha=0.6)
            axes.plot(x, mean, color=tint, linewidth=1.8, label=f"{style.label(name)}, {success.shape[1]} seeds")
            if not success.empty:
                ends[name] = float(x.iloc[-1]), float(mean.iloc[-1])
        axes.set_xlim(left=0)
        axes.set_ylim(0, 1)
        axes.locator_params(axis="x", nbins=5)
        style.panel(axes, "", reading, small=True)
    style.label_ends(panels[-1], ends, tints)
    panels[0].set_ylabel("held-out success", fontsize=8)
    return figure


def caption(frame: pd.DataFrame) -> str:
    """What is shown, with its numbers."""
    last = frame.sort_values("step").groupby(["table", "seed"]).last()
    ends = [
        f"{style.label(str(table))} {_interval(of['success'].to_numpy(), '{:.1%}')} ({len(of)} seeds)"
        for table, of in last.groupby("table")
    ]
    spread = ", seeds (thin) and their range (band)" if len(set(frame["table"])) < CROWD else ""
    return (
        f"Held-out success of language models trained from weight tables: mean over seeds{spread}, against three "
        f"clocks: responses and tokens sampled, and updates. At the end, with 95 % t-interval over seeds: "
        f"{'; '.join(ends)}."
    )


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """Responses until a held-out success is reached, interpolated between evaluations, mean and 95 % t-interval."""
    found: dict[str, dict[str, str]] = {}
    for table, rows in frame.groupby("table"):
        runs = [run.sort_values("step") for _, run in rows.groupby("seed")]
        for level in LEVELS:
            reached = np.array([crossing(r["responses"].to_numpy(), r["success"].to_numpy(), level) for r in runs])
            arrived = int(np.isfinite(reached).sum())
            text = f"reached by {arrived} of {len(runs)} seeds"
            if arrived == len(runs):
                text = _interval(reached, "{:,.0f}")
            found.setdefault(style.label(str(table)), {})[f"{level:.0%}"] = text
    return pd.DataFrame(found).T.rename_axis("responses to held-out success")


def _interval(values: np.ndarray, form: str) -> str:
    if values.size < 2:
        return form.format(values.mean())
    mean, low, high = interval(values)
    low = max(low, 0.0)
    return f"{form.format(mean)} [{form.format(low)}, {form.format(high)}]"
