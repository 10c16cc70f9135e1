"""The convex-programming road: the same problems through cvxpy, sharing no code with the direct solver.

Unknown are the weights at Gauss-Legendre nodes; the integrals are the quadrature sums. Slower and only as accurate as
the interior-point method, it is here to check the direct solver and to carry constraints that have no direct method.
"""

from __future__ import annotations

import dataclasses
import math

import cvxpy as cp
import numpy as np
from numpy.typing import NDArray

from theory.quadrature import panels
from weightopt.errors import SolverError
from weightopt.problem import Problem


@dataclasses.dataclass(frozen=True)
class ConvexSolution:
    """Answer of the convex program: ω at nodes, shape (n,), and T with the relative tolerance of the method.

    ``status`` is cvxpy's word, "optimal" unless the interior-point method stopped early.
    """

    status: str
    time: float
    rho: NDArray[np.float64]
    weight: NDArray[np.float64]


def solve_convex(problem: Problem, *, panel_width: float = 0.25, tolerance: float = 1e-10) -> ConvexSolution:
    """Solve a problem with cvxpy and Clarabel.

    Parameters
    ----------
    problem : Problem
    panel_width : float
        Width in log-odds of the panels of 16 nodes; kinks of the answer inside a panel cost accuracy.
    tolerance : float
        Asked of the interior-point method (absolute and relative gap, feasibility).

    Raises
    ------
    SolverError
        If the method finds no solution.
    """
    points = panels(problem.start, problem.target, width=panel_width)
    rho, measure = points.rho.ravel(), points.weight.ravel()
    # In units of the unconstrained optimum √f·B/∫√f every quantity is of order one.
    root = np.sqrt(problem.cost_density(rho))
    total = float(measure @ root)
    mass, unit = measure * root / total, root * (problem.budget / total)
    z = cp.Variable(rho.size)
    constraints: list[cp.Constraint] = [mass @ z == 1]
    if problem.min_weight > 0:
        constraints.append(z >= problem.min_weight / unit)
    if math.isfinite(problem.max_weight):
        constraints.append(z <= problem.max_weight / unit)
    if problem.monotone is not None:
        change = cp.multiply(unit[1:] / unit[:-1], z[1:]) - z[:-1]
        constraints.append(change <= 0 if problem.monotone == "decreasing" else change >= 0)
    program = cp.Problem(cp.Minimize(mass @ cp.inv_pos(z)), constraints)
    try:
        program.solve(
            solver=cp.CLARABEL, tol_gap_abs=tolerance, tol_gap_rel=tolerance, tol_feas=tolerance, max_iter=500
        )
    except cp.SolverError as error:
        raise SolverError(f"the convex program failed: {error}") from None
    if z.value is None or not isinstance(program.value, float | np.floating):
        raise SolverError(f"the convex program ended with status {program.status!r}")
    time = float(program.value) * total**2 / problem.budget
    return ConvexSolution(str(program.status), time, rho, z.value * unit)
