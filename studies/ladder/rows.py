"""What every rung reports: rows of predicted and measured, rank correlations, and the files that hold them.

``rows.csv`` has the columns rung, setting, method, measure, predicted, measured, low, high, replicas: low and high are
the 95 % interval of what was measured over so many replicas. ``ranks.csv`` has Kendall's τ between the predicted and
the measured order of the methods, with its interval.
"""

from __future__ import annotations

import lzma
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from weightopt.files import replace_file

Array = NDArray[np.float64]
RESULTS = Path(__file__).parent / "results"
ROWS, RANKS, PREDICTIONS = "rows.csv", "ranks.csv", "predictions.csv"
CONFIDENCE = 0.95
RESAMPLES = 2000


class Row(NamedTuple):
    """One prediction and what was measured.

    Parameters
    ----------
    rung
        1 to 5.
    setting, method, measure
        What was predicted of what.
    predicted, measured
        In the unit of the measure.
    low, high
        95 % interval of what was measured.
    replicas
        Seeds, networks or replicas behind it.
    """

    rung: int
    setting: str
    method: str
    measure: str
    predicted: float
    measured: float
    low: float
    high: float
    replicas: int


class Rank(NamedTuple):
    """Kendall's τ between predicted and measured order of so many methods, with its 95 % interval over replicas."""

    rung: int
    setting: str
    measure: str
    tau: float
    low: float
    high: float
    methods: int


def interval(values: Array, comparisons: int = 1) -> tuple[float, float, float]:
    """Mean of values of shape (replicas,), with its t-interval, at 95 % for all of so many comparisons at once."""
    mean = float(values.mean())
    level = (1 - CONFIDENCE) / comparisons
    half = float(stats.t.ppf(1 - level / 2, values.size - 1) * values.std(ddof=1) / np.sqrt(values.size))
    return mean, mean - half, mean + half


def wider(row: Row, comparisons: int) -> tuple[float, float]:
    """The interval of a row at 95 % for all of so many comparisons at once; of its logarithm where it is a ratio."""
    alone, all_ = (float(stats.t.ppf(1 - (1 - CONFIDENCE) / n / 2, row.replicas - 1)) for n in (1, comparisons))
    return row.measured - (row.measured - row.low) * all_ / alone, row.measured + (row.high - row.measured) * (
        all_ / alone
    )


def ratio_row(rung: int, setting: str, method: str, measure: str, predicted: float, logs: Array) -> Row:
    """The row of a ratio from its logarithms, shape (replicas,): geometric mean and interval."""
    mean, low, high = np.exp(interval(logs)).tolist()
    return Row(rung, setting, method, measure, predicted, mean, low, high, logs.size)


def mean_row(rung: int, setting: str, method: str, measure: str, predicted: float, values: Array) -> Row:
    """The row of a mean over replicas, shape (replicas,)."""
    return Row(rung, setting, method, measure, predicted, *interval(values), values.size)


def rank_correlation(
    rung: int, setting: str, measure: str, predicted: Mapping[str, float], measured: Mapping[str, Array], seed: int = 0
) -> Rank:
    """Kendall's τ of predicted against measured means.

    Parameters
    ----------
    predicted
        By method.
    measured
        By method, shape (replicas,), replica by replica paired; the interval is a bootstrap over replicas.
    """
    methods = list(predicted)
    told = np.array([predicted[method] for method in methods])
    found = np.stack([measured[method] for method in methods])
    replicas = found.shape[1]
    drawn = np.random.default_rng(seed).integers(0, replicas, (RESAMPLES, replicas))
    taus = _tau(told, found[:, drawn].mean(axis=-1).T)
    low, high = np.quantile(taus, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]).tolist()
    return Rank(rung, setting, measure, float(_tau(told, found.mean(axis=1))), low, high, len(methods))


def _tau(told: Array, found: Array) -> Array:
    """Kendall's τ_b of one order of shape (n,) with others of shape (..., n); 0 where all values of one are equal."""
    first, second = np.triu_indices(told.size, 1)
    a, b = np.sign(told[first] - told[second]), np.sign(found[..., first] - found[..., second])
    pairs = np.sqrt((a != 0).sum() * (b != 0).sum(axis=-1))
    return (a * b).sum(axis=-1) / np.maximum(pairs, 1)


def write_rows(rows: Iterable[Row], ranks: Iterable[Rank], folder: Path = RESULTS) -> None:
    """Write the rows and ranks of some rungs; those of other rungs stay as they are."""
    _replace(folder / ROWS, pd.DataFrame(list(rows), columns=list(Row._fields)))
    _replace(folder / RANKS, pd.DataFrame(list(ranks), columns=list(Rank._fields)))


def read_rows(folder: Path = RESULTS) -> list[Row]:
    """All rows that are kept."""
    return [Row(*row) for row in _read(folder / ROWS).itertuples(index=False)]


def read_ranks(folder: Path = RESULTS) -> list[Rank]:
    """All ranks that are kept."""
    return [Rank(*row) for row in _read(folder / RANKS).itertuples(index=False)]


def write_frame(path: Path, frame: pd.DataFrame) -> None:
    """A CSV file, whole or not at all; packed where its name ends in .xz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = frame.to_csv(index=False, float_format="%.8g", lineterminator="\n").encode()
    replace_file(path, lzma.compress(data) if path.suffix == ".xz" else data)


def _read(path: Path) -> Any:
    return pd.read_csv(path, dtype={"setting": str, "method": str, "measure": str})


def _replace(path: Path, fresh: Any) -> None:
    if path.exists():
        kept = _read(path)
        fresh = pd.concat([kept[~kept["rung"].isin(fresh["rung"].unique())], fresh])
    write_frame(path, fresh.sort_values("rung", kind="stable"))
