"""What the runs say: responses to a level, differences to the reference, silence and entropy, with intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from figures.estimates import crossing
from studies.weightings.plan import Plan

Array = NDArray[np.float64]
SMOOTH = 3  # evaluations over which held-out success is averaged
LAST = 3  # evaluations at the end that are averaged
RESAMPLES = 10_000
TAIL = 10  # silence and entropy are those of the last tenth of a run


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate with its 95 % interval."""

    mean: float
    low: float
    high: float


def smoothed(success: Array) -> Array:
    """Centred mean over `SMOOTH` evaluations, over fewer at the ends; shape (n,) both."""
    half = SMOOTH // 2
    return np.array([success[max(0, i - half) : i + half + 1].mean() for i in range(success.size)])


def responses_to(run: Any, level: float) -> float:
    """Responses at which smoothed held-out success first reaches a level; NaN if it never does, or begins above it."""
    run = run.sort_values("step")
    success = smoothed(run["success"].to_numpy(dtype=np.float64))
    if success[0] >= level:
        return math.nan
    return crossing(run["responses"].to_numpy(dtype=np.float64), success, level)


def measures(evaluations: Any, levels: Sequence[float]) -> pd.DataFrame:
    """A row for each run of one setting: its area (mean success), its end, and responses to each level."""
    rows = []
    for (method, seed), run in evaluations.groupby(["method", "seed"], sort=False):
        run = run.sort_values("step")
        success = run["success"].to_numpy(dtype=np.float64)
        row = {
            "method": method,
            "seed": seed,
            "start": success[0],
            "area": success.mean(),
            "end": success[-LAST:].mean(),
        }
        rows.append(row | {level: responses_to(run, level) for level in levels})
    return pd.DataFrame(rows)


def difference(runs: Any, method: str, reference: str, column: str) -> Interval:
    """Mean over seeds of a measure minus the reference's, seed by seed."""
    pairs = _pairs(runs, method, reference, column)
    return _bootstrap(pairs[:, 0] - pairs[:, 1])


def ratio(runs: Any, method: str, reference: str, level: float) -> Interval | None:
    """Responses to a level over the reference's, geometric mean over seeds; None unless all runs of both reach it."""
    pairs = _pairs(runs, method, reference, level)
    if not np.isfinite(pairs).all():
        return None
    logs = _bootstrap(np.log(pairs[:, 0] / pairs[:, 1]))
    return Interval(mean=math.exp(logs.mean), low=math.exp(logs.low), high=math.exp(logs.high))


def arrived(runs: Any, method: str, level: float) -> tuple[int, int]:
    """How many runs of a method reached a level, of how many."""
    of = runs[runs["method"] == method][level]
    return int(of.notna().sum()), len(of)


def tails(steps: Any, plan: Plan) -> Any:
    """By method, over the last tenth of its runs: entropy a token, shares of silent, all-wrong and all-right groups."""
    last = steps[steps["step"] > steps.groupby(["method", "seed"])["step"].transform("max") * (1 - 1 / TAIL)]
    groups = last[[f"k{k}" for k in range(plan.group_size + 1)]].sum(axis=1)
    shares = last.assign(all_wrong=last["k0"] / groups, all_right=last[f"k{plan.group_size}"] / groups)
    shares["silent"] = shares["all_wrong"] + shares["all_right"]
    return shares.groupby("method")[["entropy", "silent", "all_wrong", "all_right"]].mean()


def _pairs(runs: Any, method: str, reference: str, column: str | float) -> Array:
    """Shape (seeds, 2): the measure of the method and of the reference for the seeds that both have."""
    table = runs.pivot_table(index="seed", columns="method", values=column, dropna=False)
    return table[[method, reference]].to_numpy(dtype=np.float64)


def _bootstrap(values: Array) -> Interval:
    """Mean of values, shape (seeds,), with the percentile interval of its bootstrap over seeds."""
    rng = np.random.default_rng(0)
    means = values[rng.integers(values.size, size=(RESAMPLES, values.size))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(mean=float(values.mean()), low=float(low), high=float(high))
