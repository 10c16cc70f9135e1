"""The direct solver for weight curves: √f̂ scaled to the budget, with bounds by water-filling.

For minimising ∫ f/ω under ∫ω = B the optimum is ω = clip(μ√f̂, a, b), where f̂ is f or, for a monotone ω, its isotonic
regression (bounds and monotonicity together: the clipped monotone optimum). Only the multiplier μ has to be found.
"""

from __future__ import annotations

import math

import numpy as np

from weightopt.certificate import certify
from weightopt.envelope import Envelope, envelope
from weightopt.errors import SolverError
from weightopt.problem import Problem
from weightopt.solution import Solution, SolvedWeighting, Status

TOLERANCE = 1e-10


def solve(problem: Problem, *, throw: bool = True) -> Solution:
    """The time-optimal weighting of a problem, with its certificate.

    Unconstrained: ω = B√f/∫√f. Bounds: water-filling, the multiplier exact to rounding. Monotone: the monotone envelope
    of f in place of f. Integrals are by Gauss-Legendre panels split at every kink, so nothing depends on a grid.

    Parameters
    ----------
    problem : Problem
    throw : bool
        Raise when the certified gap exceeds 1e-10 or a constraint is violated by more than 1e-9; otherwise the status
        says so.

    Returns
    -------
    Solution

    Raises
    ------
    SolverError
        See `throw`.
    """
    shape = envelope(problem)
    weighting = _water_fill(shape)
    certificate = certify(problem, weighting, weighting.kinks)
    feasible = abs(certificate.budget_error) <= 1e-9 and certificate.violation <= 1e-9
    status = Status.OPTIMAL if feasible and certificate.gap <= TOLERANCE else Status.UNCERTIFIED
    bounded = problem.min_weight > 0 or math.isfinite(problem.max_weight)
    method = "isotonic regression" if problem.monotone else "water-filling" if bounded else "quadrature"
    if bounded and problem.monotone:
        method += " and water-filling"
    if throw and status is not Status.OPTIMAL:
        cause = "; 1-ρ has too few digits so close to 1, lower the target" if problem.target > 1 - 1e-6 else ""
        raise SolverError(f"{status.value} (gap {certificate.gap:.1e}, tolerance {TOLERANCE:g}{cause})")
    return Solution(problem, status, weighting, certificate, method)


def _water_fill(shape: Envelope) -> SolvedWeighting:
    """Find μ with ∫ clip(μ√f̂, a, b) dρ = B: Newton on a rising function, kept inside a bracket."""
    problem = shape.problem
    a, b, budget = problem.min_weight, problem.max_weight, problem.budget
    low, high = 0.0, math.inf
    points = problem.panels(shape.breaks)
    mu = budget / float(np.sum(points.weight * np.sqrt(shape(points.rho))))
    kinks = shape.breaks
    for _ in range(200):
        # f̂ crosses (bound/μ)² where a bound starts to bind; splitting the panels there keeps the integrals exact.
        bounds = [bound for bound in (a, b) if 0 < bound < math.inf]
        kinks = tuple(sorted({*shape.breaks, *(x for bound in bounds for x in shape.crossings((bound / mu) ** 2))}))
        points = problem.panels(kinks)
        root = np.sqrt(shape(points.rho))
        weight = np.clip(mu * root, a, b)
        excess = float(np.sum(points.weight * weight)) - budget
        if abs(excess) <= 2e-15 * budget:
            break
        low, high = (low, mu) if excess > 0 else (mu, high)
        slope = float(np.sum(points.weight * root * ((weight > a) & (weight < b))))
        step = mu - excess / slope if slope > 0 else math.nan
        if not low < step < high:
            step = math.sqrt(low * high) if low > 0 and high < math.inf else mu * (2.0 if excess < 0 else 0.5)
        if step == mu:
            break
        mu = step
    return SolvedWeighting(shape, mu, kinks)
