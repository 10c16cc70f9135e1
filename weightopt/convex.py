"""The convex-programming road: the same problems through cvxpy, sharing no code with the direct solver.

Unknown are the weights at Gauss-Legendre nodes; the integrals are the quadrature sums. Slower and only as accurate as
the interior-point method, it is here to check the direct solver and to carry constraints that have no direct method.
"""

from __future__ import annotations

import dataclasses
import math
import warnings

import cvxpy as cp
import numpy as np
from numpy.typing import NDArray

from theory.finite_group import binomial
from weightopt.errors import SolverError
from weightopt.groups.group import GroupProblem
from weightopt.curves.problem import Problem


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
    points = problem.panels(problem.bins or (), width=panel_width)
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
    # Neighbouring weights relative to their scale, so that rows are of order one.
    change = (cp.multiply(unit[1:], z[1:]) - cp.multiply(unit[:-1], z[:-1])) * (total / problem.budget)
    scale = np.sqrt(unit[1:] * unit[:-1]) * (total / problem.budget)
    if problem.monotone is not None:
        constraints.append(change / scale <= 0 if problem.monotone == "decreasing" else change / scale >= 0)
    owner = np.searchsorted(np.array(problem.bins or ()), rho, side="right")
    if problem.bins is not None:
        same = owner[1:] == owner[:-1]
        constraints.append(change[same] / scale[same] == 0)
    if math.isfinite(problem.lipschitz):
        x = problem.coordinate(rho)
        if problem.bins is not None:  # between the middles of neighbouring bins
            edges = problem.coordinate(np.array([problem.start, *problem.bins, problem.target]))
            x = ((edges[1:] + edges[:-1]) / 2)[owner]
        apart = np.diff(x) > 0
        bound = problem.lipschitz * np.diff(x)[apart] * (total / problem.budget)
        constraints.append(cp.abs(change[apart] / scale[apart]) <= bound / scale[apart])
    if math.isfinite(problem.max_ratio):
        smallest = cp.Variable()
        constraints += [z >= smallest / unit, z <= problem.max_ratio * smallest / unit]
    value, status = _run(cp.Problem(cp.Minimize(mass @ cp.inv_pos(z)), constraints), tolerance)
    return ConvexSolution(status, value * total**2 / problem.budget, rho, np.asarray(z.value) * unit)


def solve_convex_group(problem: GroupProblem, *, panel_width: float = 0.5, tolerance: float = 1e-10) -> ConvexSolution:
    """The time-optimal table of a finite group with cvxpy and Clarabel.

    Parameters, errors as `solve_convex`. Centred tables only; ``rho`` is K/M and ``weight`` is ω_K, K = 1..M-1.
    """
    if not problem.centred:
        raise SolverError("the convex road covers centred tables only")
    curve, size = problem.curve, problem.group_size
    points = curve.panels(width=panel_width)
    rho, measure = points.rho.ravel(), points.weight.ravel()
    k = np.arange(1, size) / size
    groups = binomial(rho, size)[:, 1:-1]
    # From the definition of the step models, not through the Bernstein identity that the direct method uses.
    share = k * (1 - k) / (rho * (1 - rho))[:, None] if problem.step_model == "ratio" else 1.0
    w = cp.Variable(size - 1, nonneg=True)
    # In units of the curve's optimum the speed at every node is of order one.
    root = np.sqrt(curve.cost_density(rho))
    total = float(measure @ root)
    u = cp.multiply(1 / root, (groups * share) @ w)
    mass = measure * root / total
    if problem.budget_kind == "drift":
        constraints: list[cp.Constraint] = [mass @ u <= 1]
    else:
        per_time = measure * curve.cost_density(rho) / curve.clock(rho)  # dρ/κ
        noise = np.sqrt(groups * k * (1 - k) * (per_time / (root * total))[:, None])
        spent = cp.sum([cp.quad_over_lin(cp.multiply(noise[j], w), u[j]) for j in range(rho.size)])
        constraints = [cp.NonNeg(1 - spent)]
    if problem.shape == "nonincreasing" and size > 2:
        constraints.append(cp.diff(w) <= 0)
    if problem.shape == "convex" and size > 3:
        constraints.append(cp.diff(w, 2) >= 0)
    value, status = _run(cp.Problem(cp.Minimize(mass @ cp.inv_pos(u)), constraints), tolerance)
    return ConvexSolution(status, value * total**2 / curve.budget, k, np.asarray(w.value) * curve.budget / total)


def _run(program: cp.Problem, tolerance: float) -> tuple[float, str]:
    try:
        with warnings.catch_warnings():
            # "Solution may be inaccurate": the status that is returned says so.
            warnings.simplefilter("ignore", UserWarning)
            program.solve(
                solver=cp.CLARABEL, tol_gap_abs=tolerance, tol_gap_rel=tolerance, tol_feas=tolerance, max_iter=500
            )
    except cp.SolverError as error:
        raise SolverError(f"the convex program failed: {error}") from None
    if not isinstance(program.value, float | np.floating):
        raise SolverError(f"the convex program ended with status {program.status!r}")
    return float(program.value), str(program.status)
