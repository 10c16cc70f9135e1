"""Named weightings against the optimum at equal budget."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from theory import catalogue
from weightopt.curve import solve
from weightopt.problem import Problem
from weightopt.solution import Solution

NAMES = ("rloo", "grpo", "linear-r", "sqrt-r", "uniform-r", "plateau-r")


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
        w = catalogue.WEIGHTINGS[name].weighting
        points = problem.panels(w.kinks)
        spent = float(np.sum(points.weight * w(points.rho)))
        time = float(np.sum(points.weight * problem.cost_density(points.rho) / w(points.rho)))
        time *= spent / problem.budget  # scaling ω by B/spent divides the time by it
        rows.append(Row(name, w.label, time, time / solution.time))
    return solution, [*rows, Row("optimal", "Time-optimal", solution.time, 1.0)]
