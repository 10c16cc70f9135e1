"""Held-out success against responses sampled, for runs trained from different tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from figures import style
from rl.metrics import METRICS_FILE, read_metrics


def data(runs: Path) -> pd.DataFrame:
    """Columns table, seed, step, responses, success, low, high of every run in ``runs/TABLE/SEED``.

    Raises
    ------
    FileNotFoundError
        If there is no run.
    ValueError
        If a metrics file cannot be understood.
    """
    rows = []
    for path in sorted(runs.glob(f"*/*/{METRICS_FILE}")):
        table, seed = path.parts[-3], path.parts[-2]
        rows += [
            (table, seed, e.step, e.responses_so_far, e.success, e.success_low, e.success_high)
            for e in read_metrics(path).evaluations
        ]
    if not rows:
        raise FileNotFoundError(f"no runs (TABLE/SEED/{METRICS_FILE}) under {runs}")
    return pd.DataFrame(rows, columns=["table", "seed", "step", "responses", "success", "low", "high"])


def draw(frame: pd.DataFrame) -> Figure:
    """Mean over seeds, a band over their range, and every seed as a thin line."""
    figure = style.page(6.0, 3.4)
    axes = figure.subplots()
    for table, rows in frame.groupby("table", sort=True):
        look: dict[str, Any] = style.line(str(table)) | {"linestyle": "solid", "linewidth": 1.8}
        curves = rows.pivot_table(index="responses", columns="seed", values="success").dropna()
        x = curves.index.to_numpy() / 1000
        axes.fill_between(x, curves.min(axis=1), curves.max(axis=1), color=look["color"], alpha=0.18, linewidth=0)
        axes.plot(x, curves.to_numpy(), color=look["color"], linewidth=0.5, alpha=0.6)
        look["label"] = f"{look['label']}, {curves.shape[1]} seeds"
        axes.plot(x, np.mean(curves.to_numpy(), axis=1), **look)
    axes.set_ylim(0, 1)
    axes.set_xlim(left=0)
    style.panel(axes, "held-out success (mean, range over seeds)", "responses sampled, thousands")
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    return figure
