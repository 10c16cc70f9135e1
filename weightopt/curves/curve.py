"""The direct solver for weight curves: √f̂ scaled to the budget, with bounds by water-filling.

For minimising ∫ f/ω under ∫ω = B the optimum is ω = clip(μ√f̂, a, b), where f̂ is f or, for a monotone ω, its isotonic
regression (bounds and monotonicity together: the clipped monotone optimum). Only the multiplier μ has to be found.
Constraints that have no such form go to the solvers that have a method for them.
"""

from __future__ import annotations

import math

import numpy as np

from theory.closed_forms import optimal_antiderivative
from theory.dynamics import NATURAL
from theory.quadrature import log_odds_distance
from weightopt.curves.bins import bin_program
from weightopt.curves.cell_program import rising_root, solve_cells, water_level
from weightopt.curves.certificate import CHECK_WIDTH, Certificate, certify, violation
from weightopt.curves.monotone import Envelope, envelope, find_root
from weightopt.errors import SolverError
from weightopt.curves.problem import Problem
from weightopt.curves.lipschitz import solve_slopes
from weightopt.curves.weighting import LinearWeighting, Solution, SolvedWeighting, Status, StepWeighting

TOLERANCE = 1e-10
ITERATIVE = 1e-9
WIDE = 1.0  # log-odds between start and target from where an antiderivative's difference is as good as quadrature
SLOPE_NOISE = 1e-12  # violation of a Lipschitz bound, relative to the largest weight, that is rounding


def solve(problem: Problem, *, throw: bool = True) -> Solution:
    """The time-optimal weighting of a problem, with its certificate.

    Unconstrained: ω = B√f/∫√f. Bounds: water-filling, the multiplier exact to rounding; a bound on the ratio of weights
    is bounds whose level is solved for. Monotone: the monotone envelope of f in place of f. Integrals are by
    Gauss-Legendre panels split at every kink, so nothing depends on a grid. Constant on bins: a finite program
    (`weightopt.curves.cell_program`). A Lipschitz bound: knots and the interior-point method (`weightopt.curves.lipschitz`).

    Parameters
    ----------
    problem : Problem
    throw : bool
        Raise when the certified gap exceeds `tolerance` or a constraint is violated by more than 1e-9; otherwise the
        status says so.

    Returns
    -------
    Solution

    Raises
    ------
    SolverError
        See `throw`.
    """
    weighting, certificate, method = _solve(problem)
    feasible = abs(certificate.budget_error) <= 1e-9 and certificate.violation <= 1e-9
    status = Status.OPTIMAL if feasible and certificate.gap <= tolerance(problem) else Status.UNCERTIFIED
    if throw and status is not Status.OPTIMAL:
        cause = "; 1-ρ has too few digits so close to 1, lower the target" if problem.target > 1 - 1e-6 else ""
        raise SolverError(f"{status.value} (gap {certificate.gap:.1e}, tolerance {tolerance(problem):g}{cause})")
    return Solution(problem, status, weighting, certificate, method)


def tolerance(problem: Problem) -> float:
    """The certified gap that `solve` promises: 1e-10, and 1e-9 where the interior-point method is needed."""
    return ITERATIVE if math.isfinite(problem.lipschitz) or problem.bins is not None else TOLERANCE


def _solve(problem: Problem) -> tuple[SolvedWeighting | LinearWeighting | StepWeighting, Certificate, str]:
    if problem.bins is not None:
        found = solve_cells(bin_program(problem))
        weighting = StepWeighting(problem.bins, tuple(found.weight.tolist()))
        return weighting, certify(problem, weighting, weighting.kinks, found.prices), f"{found.method} on bins"
    if math.isfinite(problem.lipschitz):
        # Where the bound does not bind, the answer without it is the answer, and its certificate the certificate.
        weighting, certificate, method = _solve(problem.without_slopes)
        steepest = violation(problem, problem.panels(weighting.kinks, CHECK_WIDTH).rho, weighting)
        if steepest <= SLOPE_NOISE:
            return weighting, certificate, method
        return *solve_slopes(problem), "interior point on knots"
    shape = envelope(problem)
    method = "isotonic regression" if problem.monotone else "quadrature"
    if problem.bounded or math.isfinite(problem.max_ratio):
        method = "water-filling" if problem.monotone is None else f"{method} and water-filling"
    weighting = _within_ratio(shape) if math.isfinite(problem.max_ratio) else _water_fill(shape)
    return weighting, certify(problem, weighting, weighting.kinks), method


def _closed_form(problem: Problem) -> float | None:
    """∫√f from its antiderivative where that is elementary and a difference of it keeps its digits."""
    plain = problem.mobility == NATURAL and problem.budget_density is None and problem.monotone is None
    primitive = optimal_antiderivative(problem.clock) if plain else None
    if primitive is None or log_odds_distance(problem.start, problem.target) < WIDE:
        return None
    start, target = primitive(np.array([problem.start, problem.target]))
    return float(target - start)


def _within_ratio(shape: Envelope) -> SolvedWeighting:
    """Bounds s and R s with the s at which raising it neither gains nor loses time: ∫α = R ∫β (see `certificate`)."""
    problem = shape.problem
    ratio, mean = problem.max_ratio, problem.budget / problem.extent
    free = _water_fill(shape)
    ends = free(np.array([problem.start, *shape.turns, *free.kinks, problem.target]))
    if float(np.max(ends)) <= ratio * float(np.min(ends)):
        return free

    def filled(share: float) -> SolvedWeighting:
        least = mean * ratio**-share
        return _water_fill(shape, max(problem.min_weight, least), min(problem.max_weight, ratio * least))

    def gain(share: float) -> float:
        least, weighting = mean * ratio**-share, filled(share)
        points = problem.panels((*shape.breaks, *weighting.kinks))
        level = shape(points.rho)
        price = 1 / weighting.multiplier**2
        low = np.maximum(price - level / least**2, 0) if least > problem.min_weight else 0.0
        top = ratio * least
        high = np.maximum(level / top**2 - price, 0) if top < problem.max_weight else 0.0
        return float(np.sum(points.weight * (ratio * high - low))) / price

    left, right = 1e-9, 1 - 1e-9
    if ratio == 1 or gain(left) >= 0:
        return filled(left)
    if gain(right) <= 0:
        return filled(right)
    # The time is flat at the best s.
    return filled(find_root(gain, left, right, 1e-13))


def _water_fill(shape: Envelope, low: float | None = None, high: float | None = None) -> SolvedWeighting:
    """Find μ with ∫ clip(μ√f̂, a, b) dρ = B: Newton on a rising function, kept inside a bracket.

    First on points that stay as they are, which is cheap, then with panels split where a bound starts to bind.
    """
    problem = shape.problem
    a = problem.min_weight if low is None else low
    b = problem.max_weight if high is None else high
    points = problem.panels(shape.breaks)
    root, measure = np.sqrt(shape(points.rho)).ravel(), points.weight.ravel()
    kinks = shape.breaks
    if a == 0 and math.isinf(b):
        total = _closed_form(problem) or float(measure @ root)
        return SolvedWeighting(shape, problem.budget / total, a, b, kinks)

    def kinks_at(mu: float) -> tuple[float, ...]:
        # f̂ crosses (bound/μ)² where a bound starts to bind; splitting the panels there keeps the integrals exact.
        bounds = [bound for bound in (a, b) if 0 < bound < math.inf]
        return tuple(sorted({*kinks, *(x for bound in bounds for x in shape.crossings((bound / mu) ** 2))}))

    def excess(mu: float) -> tuple[float, float]:
        points = problem.panels(kinks_at(mu))
        root = np.sqrt(shape(points.rho))
        weight = np.clip(mu * root, a, b)
        slope = float(np.sum(points.weight * root * ((weight > a) & (weight < b))))
        return float(np.sum(points.weight * weight)) - problem.budget, slope

    mu = rising_root(excess, water_level(root, measure, problem.budget, a, b), 2e-15 * problem.budget)
    return SolvedWeighting(shape, mu, a, b, kinks_at(mu))
