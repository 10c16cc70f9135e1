"""Named weightings against the optimum at equal budget."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, TypeVar, overload

import numpy as np

from theory import catalogue
from weightopt.catalogue_tables import catalogue_table
from weightopt.curves.curve import CurveAnswer
from weightopt.curves.curve import solve as solve_curve
from weightopt.curves.problem import EDGE, Problem
from weightopt.errors import ProblemError
from weightopt.groups.group import GroupAnswer, GroupProblem, time_and_budget
from weightopt.groups.group import solve as solve_group
from weightopt.table import TableError, WeightTable

NAMES = ("rloo", "grpo", "linear-r", "sqrt-r", "uniform-r", "plateau-r")
GROUP_NAMES = (*NAMES, "maxrl")
FACTORS = (0.1, 1 / 3, 3.0, 10.0)


A = TypeVar("A")
R = TypeVar("R")


class Comparison(NamedTuple, Generic[A, R]):
    """The best answer, and a row for every named weighting, the optimum last."""

    answer: A
    rows: list[R]


@dataclasses.dataclass(frozen=True)
class Row:
    """Time of one weighting, scaled to the problem's budget, and its ratio to the optimal time (≥ 1)."""

    weighting: str
    label: str
    time: float
    ratio: float


@overload
def compare(problem: Problem, names: Sequence[str] | None = None) -> Comparison[CurveAnswer, Row]: ...
@overload
def compare(problem: GroupProblem, names: Sequence[str] | None = None) -> Comparison[GroupAnswer, GroupRow]: ...
def compare(problem: Any, names: Sequence[str] | None = None) -> Comparison[Any, Any]:
    """Named weightings against the optimum at equal budget.

    Parameters
    ----------
    problem
        A curve problem compares curves, a group problem tables for groups of its size, also from other starts.
    names
        Names of the catalogue; default the best known ones.

    Returns
    -------
    Comparison
        ``answer``, the optimum, and ``rows``, the named weightings and the optimum last.

    Raises
    ------
    ProblemError
        If the problem is of another kind.

    Examples
    --------
    >>> from weightopt import Problem, compare
    >>> answer, rows = compare(Problem(start=0.01, target=0.9, clock="effective"), ["grpo", "sqrt-r"])
    >>> [f"{row.weighting} {row.ratio:.3f}" for row in rows]
    ['grpo 1.555', 'sqrt-r 1.000', 'optimal 1.000']
    """
    methods: dict[str, Any] = {"curve": (compare_curves, NAMES), "group": (compare_groups, GROUP_NAMES)}
    if problem.kind not in methods:
        raise ProblemError("problem", f"to compare must be of kind {' or '.join(methods)}, got {problem.kind}")
    method, known = methods[problem.kind]
    return method(problem, known if names is None else names)


def compare_curves(problem: Problem, names: Sequence[str] = NAMES) -> Comparison[CurveAnswer, Row]:
    """Time of every named weighting relative to the best curve, ∫ω dρ = B for all of them.

    Parameters
    ----------
    problem
        Without bounds or monotonicity: a named weighting has no reason to meet them.
    names
        Keys of `theory.catalogue.WEIGHTINGS`.

    Returns
    -------
    Comparison
        Rows in the order of `names`, then ``optimal``.
    """
    answer = solve_curve(problem)
    rows = []
    for name in names:
        w = catalogue.WEIGHTINGS[name]
        points = problem.panels(w.kinks)
        spent = float(np.sum(points.weight * w(points.rho)))
        time = float(np.sum(points.weight * problem.cost_density(points.rho) / w(points.rho)))
        time *= spent / problem.budget  # scaling ω by B/spent divides the time by it
        rows.append(Row(name, w.label, time, time / answer.time))
    return Comparison(answer, [*rows, Row("optimal", "Time-optimal", answer.time, 1.0)])


@dataclasses.dataclass(frozen=True)
class GroupRow:
    """A table for groups against the best table for its start.

    Parameters
    ----------
    weighting, label
        Its name in the catalogue and its name in print.
    all_wrong_advantage
        Its rule for groups without a correct response.
    time
        At the problem's budget; ∞ if its drift is not positive all the way.
    ratio
        To the best table, ≥ 1 for tables of the problem's shape without a rule for uniform groups.
    robustness
        By what the true start is of the designed one: the ratio to the best table for the true start; None where that
        start is not below the target, or not a probability.
    """

    weighting: str
    label: str
    all_wrong_advantage: float
    time: float
    ratio: float
    robustness: dict[float, float | None]


def compare_groups(
    problem: GroupProblem, names: Sequence[str] = GROUP_NAMES, factors: Sequence[float] = FACTORS
) -> Comparison[GroupAnswer, GroupRow]:
    """Named weightings read at K/M, with their all-wrong rules, against the best table, and from other starts.

    Parameters
    ----------
    problem
        Its shape is what the best tables must have; the named ones have the shape they have.
    names
        Keys of `theory.catalogue.EVERYTHING`, curves and rules for groups. One that cannot be tabulated for this group
        size is left out.
    factors
        What the true start may be of the one that the best table was designed for.

    Returns
    -------
    Comparison
        Rows in the order of `names`, the optimal curve read at K/M (``plug-in``), then ``optimal``.
    """
    answer = solve_group(problem)
    size, curve = problem.group_size, problem.curve
    tables = []
    for name in names:
        with contextlib.suppress(TableError):
            tables.append(catalogue_table(catalogue.EVERYTHING[name], size))
    with contextlib.suppress(TableError):  # a limit of the curve's weights may be infinite
        plugged = solve_curve(curve).table(size)
        tables.append(dataclasses.replace(plugged, name="plug-in", label="Optimal curve at K/M"))
    tables.append(answer.table())
    starts = {factor: factor * curve.start for factor in factors}
    others = {
        factor: solve_group(problem.starting_at(start))
        for factor, start in starts.items()
        if EDGE <= start < curve.target
    }
    rows = []
    for table in tables:
        time = _at_budget(problem, table)
        robustness = {
            factor: _at_budget(others[factor].problem, table) / others[factor].time if factor in others else None
            for factor in factors
        }
        label = "Time-optimal table" if table.name == "optimal" else table.label
        rows.append(GroupRow(table.name, label, table.all_wrong_advantage, time, time / answer.time, robustness))
    return Comparison(answer, rows)


def _at_budget(problem: GroupProblem, table: WeightTable) -> float:
    """Time of a table at the problem's budget."""
    time, spent = time_and_budget(problem, np.array(table.advantage_correct), np.array(table.advantage_wrong))
    return time * spent / problem.curve.budget
