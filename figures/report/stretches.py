"""Long series as a few hundred stretches of steps: mean, and smallest and largest value, so that no spike is lost."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST = 120  # stretches of a series: more than a page has room to show apart


def edges(count: int, most: int = MOST) -> NDArray[np.int64]:
    """Where stretches of `count` steps begin, and the end: as equal as whole steps allow; shape (stretches + 1,)."""
    stretches = min(count, most)
    return np.linspace(0, count, stretches + 1).round().astype(np.int64) if count else np.zeros(1, dtype=np.int64)


def spans(steps: Sequence[int], most: int = MOST) -> tuple[list[int], list[int]]:
    """First and last step of each stretch."""
    ends = edges(len(steps), most)
    return [int(steps[i]) for i in ends[:-1]], [int(steps[i - 1]) for i in ends[1:]]


def reduced(values: Sequence[Any], most: int = MOST) -> dict[str, list[float | None]] | None:
    """Mean, smallest and largest value of each stretch; None in a stretch, or for all, without any number.

    Parameters
    ----------
    values
        One a step; what is no finite number is left out.
    most
        Stretches at most.
    """
    numbers = np.array([math.nan if value is None else float(value) for value in values])
    numbers[~np.isfinite(numbers)] = math.nan
    if not np.isfinite(numbers).any():
        return None
    found: dict[str, list[float | None]] = {"mean": [], "low": [], "high": []}
    ends = edges(len(numbers), most)
    for begin, end in itertools.pairwise(ends):
        part = numbers[begin:end]
        part = part[np.isfinite(part)]
        for name, function in (("mean", np.mean), ("low", np.min), ("high", np.max)):
            found[name].append(_short(function(part)) if part.size else None)
    return found


def shares(counts: NDArray[np.float64], most: int = MOST) -> list[list[float]]:
    """Columns of a heat map: the share of each class among all that a stretch counts.

    Parameters
    ----------
    counts
        Shape (steps, classes).

    Returns
    -------
    list of list of float
        Shape (classes, stretches).
    """
    ends = edges(len(counts), most)
    columns = []
    for begin, end in itertools.pairwise(ends):
        total = counts[begin:end].sum(axis=0)
        columns.append(total / max(total.sum(), 1))
    return [[_short(share) for share in row] for row in np.array(columns).T] if columns else []


def _short(number: Any) -> float:
    """Six digits: more than can be seen, and half the bytes."""
    return float(f"{float(number):.6g}")
