"""What figures say of several seeds: intervals and crossings."""

from __future__ import annotations

import numpy as np
from scipy import stats


def interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and 95 % t-interval over the first axis, which holds the seeds, at least 2."""
    mean, seeds = values.mean(axis=0), values.shape[0]
    half = stats.t.ppf(0.975, seeds - 1) * values.std(axis=0, ddof=1) / np.sqrt(seeds)
    return mean, mean - half, mean + half


def crossing(x: np.ndarray, y: np.ndarray, level: float) -> float:
    """The x at which y first reaches a level, linear between points; NaN if it never does. Both have shape (n,)."""
    reached = np.flatnonzero(y >= level)
    if reached.size == 0:
        return float("nan")
    j = int(reached[0])
    if j == 0:
        return float(x[0])
    return float(x[j - 1] + (level - y[j - 1]) / (y[j] - y[j - 1]) * (x[j] - x[j - 1]))
