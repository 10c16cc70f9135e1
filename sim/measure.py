"""Measures of a run, and their intervals over seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from sim.trajectory import Trajectory

COSTS = {"updates": "step", "responses": "responses", "groups": "groups"}
RESAMPLES = 2000


def time_to(trajectory: Trajectory, column: str, level: float, cost: str) -> float:
    """What it cost until a column first reached a level; inf if it never did.

    Between the last record below and the first at or above the level, cost and column are taken as linear. A start at
    or above the level costs 0.

    Parameters
    ----------
    trajectory : Trajectory
    column : {"success", "quantile"}
    level : float
    cost : {"updates", "responses", "groups"}
    """
    value, paid = trajectory[column], trajectory[COSTS[cost]]
    reached = np.flatnonzero(value >= level)
    if reached.size == 0:
        return math.inf
    j = int(reached[0])
    if j == 0:
        return 0.0
    part = (level - value[j - 1]) / (value[j] - value[j - 1])
    return float(paid[j - 1] + part * (paid[j] - paid[j - 1]))


def area(trajectory: Trajectory, cost: str) -> float:
    """Mean success over a run, ∫ success dcost / total cost, by trapezia between records."""
    paid = trajectory[COSTS[cost]]
    return float(np.trapezoid(trajectory["success"], paid) / (paid[-1] - paid[0]))


def measures(
    trajectory: Trajectory, targets: Sequence[float], quantile: float, quantile_target: float
) -> dict[str, float]:
    """All measures of a run by name: times to targets in each cost, areas, prompts never lifted, success at the end."""
    found = {}
    for cost in COSTS:
        for target in targets:
            found[f"{cost} to mean success {target:g}"] = time_to(trajectory, "success", target, cost)
        name = f"{cost} to {quantile:g}-quantile {quantile_target:g}"
        found[name] = time_to(trajectory, "quantile", quantile_target, cost)
    found |= {f"mean success over {cost}": area(trajectory, cost) for cost in ("updates", "responses")}
    found["prompts never lifted"] = float(trajectory["never_lifted"][-1])
    found["success at the end"] = float(trajectory["success"][-1])
    return found


def bootstrap_interval(
    strata: Sequence[NDArray[np.float64]],
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    rng: np.random.Generator,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile interval of a statistic of means, from 2000 stratified resamples.

    Within each stratum (such as a start distribution) its seeds are drawn with replacement; means over the drawn seeds
    are averaged over strata, each with the same weight, and handed to the statistic. Columns of one seed stay together,
    so a ratio of two columns is a paired comparison.

    Parameters
    ----------
    strata : sequence of ndarray, shape (seeds, columns) each
        Finite; at least one seed each, which gives an interval of width 0.
    statistic : callable
        From means, shape (resamples, columns), to shape (resamples,).
    rng : numpy.random.Generator
    level : float
        Coverage, in (0, 1).
    """
    total = np.zeros((RESAMPLES, strata[0].shape[1]))
    for values in strata:
        total += values[rng.integers(0, len(values), (RESAMPLES, len(values)))].mean(axis=1)
    low, high = np.quantile(statistic(total / len(strata)), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
