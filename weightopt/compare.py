"""Named weightings against the optimum at equal budget."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence

import numpy as np

from theory import catalogue
from weightopt.build import catalogue_table, group_solved_table, solved_table
from weightopt.curve import solve
from weightopt.finite_group import GroupProblem, GroupSolution, solve_group, time_and_budget
from weightopt.problem import EDGE, Problem
from weightopt.solution import Solution
from weightopt.table import TableError, WeightTable

NAMES = ("rloo", "grpo", "linear-r", "sqrt-r", "uniform-r", "plateau-r")
GROUP_NAMES = (*NAMES, "maxrl")
FACTORS = (0.1, 1 / 3, 3.0, 10.0)


@dataclasses.dataclass(frozen=True)
class Row:
    """Time of one weighting, scaled to the problem's budget, and its ratio to the optimal time (≥ 1)."""

    weighting: str
    label: str
    time: float
    ratio: float


def compare(problem: Problem, names: Sequence[str] = NAMES) -> tuple[Solution, list[Row]]:
    """Time of every named weighting relative to the optimum, ∫ω dρ = B for all of them.

    Parameters
    ----------
    problem : Problem
        Without bounds or monotonicity: a named weighting has no reason to meet them.
    names : sequence of str
        Keys of `theory.catalogue.WEIGHTINGS`.

    Returns
    -------
    solution : Solution
    rows : list of Row
        The named ones in the order of `names`, then ``optimal``.
    """
    solution = solve(problem)
    rows = []
    for name in names:
        w = catalogue.WEIGHTINGS[name]
        points = problem.panels(w.kinks)
        spent = float(np.sum(points.weight * w(points.rho)))
        time = float(np.sum(points.weight * problem.cost_density(points.rho) / w(points.rho)))
        time *= spent / problem.budget  # scaling ω by B/spent divides the time by it
        rows.append(Row(name, w.label, time, time / solution.time))
    return solution, [*rows, Row("optimal", "Time-optimal", solution.time, 1.0)]


@dataclasses.dataclass(frozen=True)
class GroupRow:
    """A table for groups against the best table for its start.

    Parameters
    ----------
    weighting, label : str
    all_wrong_advantage : float
        Its rule for groups without a correct response.
    time : float
        At the problem's budget; ∞ if its drift is not positive all the way.
    ratio : float
        To the best table, ≥ 1 for tables of the problem's shape without a rule for uniform groups.
    robustness : dict of float to float or None
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
) -> tuple[GroupSolution, list[GroupRow]]:
    """Named weightings read at K/M, with their all-wrong rules, against the best table, and from other starts.

    Parameters
    ----------
    problem : GroupProblem
        Its shape is what the best tables must have; the named ones have the shape they have.
    names : sequence of str
        Keys of `theory.catalogue.EVERYTHING`, curves and rules for groups. One that cannot be tabulated for this group
        size is left out.
    factors : sequence of float
        What the true start may be of the one that the best table was designed for.

    Returns
    -------
    solution : GroupSolution
    rows : list of GroupRow
        The named ones in the order of `names`, the optimal curve read at K/M (``plug-in``), then ``optimal``.
    """
    solution = solve_group(problem)
    size, curve = problem.group_size, problem.curve
    tables = []
    for name in names:
        with contextlib.suppress(TableError):
            tables.append(catalogue_table(catalogue.EVERYTHING[name], size))
    with contextlib.suppress(TableError):  # a limit of the curve's weights may be infinite
        plugged = solved_table(solve(curve), size)
        tables.append(dataclasses.replace(plugged, name="plug-in", label="Optimal curve at K/M"))
    tables.append(group_solved_table(solution))
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
        rows.append(GroupRow(table.name, label, table.all_wrong_advantage, time, time / solution.time, robustness))
    return solution, rows


def _at_budget(problem: GroupProblem, table: WeightTable) -> float:
    """Time of a table at the problem's budget."""
    time, spent = time_and_budget(problem, np.array(table.advantage_correct), np.array(table.advantage_wrong))
    return time * spent / problem.curve.budget
