"""A problem whose weighting is constant on bins, as the finite program that it is."""

from __future__ import annotations

import numpy as np

from theory import quadrature
from weightopt.curves.cell_program import CellProgram
from weightopt.curves.problem import Problem


def bin_program(problem: Problem, width: float = quadrature.PANEL_WIDTH, pieces: int = 1) -> CellProgram:
    """Cost and mass of every bin by quadrature on `Problem.panels`, and the constraints between them.

    Parameters
    ----------
    problem
        With ``bins``. Its Lipschitz bound becomes one on neighbouring bins, over the distance of their middles.
    width
        Of the widest panel, in log-odds.
    pieces
        That every panel is cut into.
    """
    assert problem.bins is not None
    edges = np.array([problem.start, *problem.bins, problem.target])
    points = problem.panels(problem.bins, width, pieces=pieces)
    owner = np.searchsorted(edges, points.edges[:-1], side="right") - 1
    first = np.searchsorted(owner, np.arange(edges.size - 1))
    cost = np.add.reduceat(np.sum(points.weight * problem.cost_density(points.rho), axis=1), first)
    mass = np.add.reduceat(np.sum(points.weight, axis=1), first)
    x = problem.coordinate(edges)
    # The masses add up to the extent but for rounding, which must not push the mean weight over a bound that equals it.
    mean = problem.budget / float(np.sum(mass))
    return CellProgram(
        cost,
        mass,
        problem.budget,
        min(problem.min_weight, mean),
        max(problem.max_weight, mean),
        problem.monotone,
        problem.lipschitz * np.diff((x[1:] + x[:-1]) / 2) if np.isfinite(problem.lipschitz) else np.inf,
        problem.max_ratio,
    )
