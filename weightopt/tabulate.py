"""From weights to a table: the grid of a curve, the rules at the ends, and the versions that made the numbers."""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray
from scipy.special import expit

from theory.clocks import Clock, made_for
from theory.quadrature import log_odds
from weightopt.table import TableError, WeightTable, group_table

GRID_POINTS = 1025
GRID_EDGE = 1 / 1024


def even_grid(low: float, high: float, points: int = GRID_POINTS) -> NDArray[np.float64]:
    """Success probabilities from `low` to `high`, both exact, evenly spaced in log-odds; shape (points,)."""
    theta = np.linspace(log_odds(low), log_odds(high), points)
    rho = expit(theta)
    rho[0], rho[-1] = low, high
    return rho


def tabulate(
    weighting: Any,
    grid: Any,
    group_size: int | None,
    *,
    limits: tuple[float, float],
    given: tuple[float | None, float | None],
    rule: str = "limit",
    **fields: Any,
) -> WeightTable:
    """The table of a weighting: a curve on `grid`, or its values at K/M.

    Parameters
    ----------
    weighting
        ω on arrays of success probabilities.
    grid
        Success probabilities of a curve.
    group_size
        M; None makes a curve.
    limits, given
        Advantage in all-wrong and all-right groups: what the weighting implies, and what is stated instead.
    rule
        What the implied advantages are called in the file.
    **fields
        Whatever else the table holds; see `WeightTable`.

    Raises
    ------
    TableError
        If a limit is infinite and not overridden, a curve is not positive, or the group size is out of range.
    """
    rules = []
    for side, limit, stated in zip(("wrong", "right"), limits, given, strict=True):
        advantage = limit if stated is None else stated
        if stated is not None and not math.isfinite(stated):
            raise TableError(f"--all-{side} must be a finite number, got {stated}.")
        if not math.isfinite(advantage):
            limit_of = "-ρω at ρ = 0" if side == "wrong" else "(1-ρ)ω at ρ = 1"
            raise TableError(
                f"the all-{side} advantage has no finite limit (that of {limit_of}); state one with --all-{side}, "
                "any finite number."
            )
        rules.append(float(advantage))
    fields["provenance"] = _provenance(fields["provenance"], rule, given)
    fields["all_wrong_advantage"], fields["all_right_advantage"] = rules
    if group_size is not None:
        return group_table(weighting, group_size, **fields)
    rho = np.asarray(grid)
    weight = weighting(rho)
    if not np.all(weight > 0):
        at = float(rho[np.argmin(weight)])
        raise TableError(
            f"the weight of {fields['name']} rounds to 0 at ρ = {at:.3g}, where a curve must be positive; "
            "choose milder parameters, or tabulate it with --group-size."
        )
    return WeightTable(group_size=None, rho=tuple(rho.tolist()), weight=tuple(weight.tolist()), **fields)


def tabulate_advantages(
    weight: Sequence[float],
    correct: Sequence[float],
    wrong: Sequence[float],
    *,
    given: tuple[float | None, float | None],
    rule: str,
    **fields: Any,
) -> WeightTable:
    """The table of advantages for groups of M.

    Parameters
    ----------
    weight
        Length M-1.
    correct, wrong
        Length M+1. Advantage of a correct and of a wrong response by the number correct.
    given, rule, **fields
        As in `tabulate`.

    Raises
    ------
    TableError
        If an advantage in uniform groups is not finite.
    """
    size, correct, wrong = len(weight) + 1, list(correct), list(wrong)
    wrong[0] = wrong[0] if given[0] is None else float(given[0])
    correct[-1] = correct[-1] if given[1] is None else float(given[1])
    for side, advantage in (("wrong", wrong[0]), ("right", correct[-1])):
        if not math.isfinite(advantage):
            raise TableError(f"--all-{side} must be a finite number, got {advantage}.")
    fields["provenance"] = _provenance(fields["provenance"], rule, given)
    return WeightTable(
        group_size=size,
        rho=tuple((np.arange(1, size) / size).tolist()),
        weight=tuple(weight),
        all_wrong_advantage=wrong[0],
        all_right_advantage=correct[-1],
        advantage_correct=tuple(correct),
        advantage_wrong=tuple(wrong),
        **fields,
    )


def _provenance(known: dict[str, Any], rule: str, given: tuple[float | None, float | None]) -> dict[str, Any]:
    return {
        **known,
        "end_rules": [rule if stated is None else "given" for stated in given],
        "versions": versions(),
    }


def loop_stated(clock: Clock, group_size: int | None = None) -> dict[str, Any]:
    """What the provenance of a solved table says of the loop that it is made for; arguments as `made_for`."""
    loops, line = made_for(clock, group_size)
    return {"loops": list(loops), "made_for": line}


def versions() -> dict[str, str]:
    """Versions that a table's numbers depend on."""
    try:
        ours = importlib.metadata.version("weightopt")
    except importlib.metadata.PackageNotFoundError:
        ours = "not installed"
    return {"weightopt": ours, "numpy": np.__version__, "scipy": scipy.__version__}
