"""Simulations for figures: what ``weightopt simulate`` gives, small and with fixed seeds, kept nowhere."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from figures.estimates import interval
from sim.config import load_config
from sim.sweep import sweep


class Simulated(NamedTuple):
    """The tables ``trajectories`` and ``summary`` of a sweep, see `sim.sweep`."""

    trajectories: pd.DataFrame
    summary: pd.DataFrame


def simulate(settings: dict[str, Any]) -> Simulated:
    """Run a sweep of these settings, the keys of `sim.config.Config`."""
    with tempfile.TemporaryDirectory() as folder:
        summary = sweep(load_config(None, settings), Path(folder) / "sweep")
        return Simulated(pd.read_csv(Path(folder) / "sweep" / "trajectories.csv"), summary)


def curves(trajectories: pd.DataFrame, column: str = "success") -> pd.DataFrame:
    """Columns step, mean, low, high over seeds (95 % t-interval, pointwise) of one weighting's trajectories."""
    table = trajectories.pivot_table(index="step", columns="seed", values=column)
    mean, low, high = interval(table.to_numpy().T)
    return pd.DataFrame({"step": table.index, "mean": mean, "low": low, "high": high})
