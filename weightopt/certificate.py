"""Certificates: how far a weighting can be from the best possible, from the problem and the weighting alone.

Lagrangian duality. Let f = c/κ and let h ≥ 0 satisfy ∫hω ≤ ∫ω for every admissible shape ω (h = 1 always does). For
every λ ≥ 0 and every feasible ω,

    T[ω] = ∫ f/ω ≥ ∫ (f/ω + λhω) - λB ≥ ∫ min over w in [a, b] of (f/w + λhw) dρ - λB,

so the right side, evaluated by quadrature, is a lower bound on the time of *every* feasible weighting. For monotone
weightings h = f/f̂ with f̂ the monotone envelope makes it tight; a non-increasing ω is a mixture of the steps 1[ρ ≤ x],
so any h becomes admissible after division by sup over x of its mean over [start, x]. That supremum is computed (at
panel ends), not assumed: nothing here trusts whoever produced the weighting.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from theory.quadrature import Panels
from weightopt.envelope import Envelope, envelope, find_root
from weightopt.problem import Problem

Weight = Callable[[NDArray[np.float64]], NDArray[np.float64]]
CHECK_WIDTH = 1 / 16  # panel width in log-odds, finer than the solver's own
PINNED = 1e-15  # relative slack of the budget over the lower bound on ω that is rounding: the bound is the one answer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Certificate:
    """Proof of how good a weighting is.

    Attributes
    ----------
    time : float
        T[ω], charged in proportion where ω spends more than the budget.
    lower_bound : float
        No feasible weighting is faster.
    gap : float
        (time - lower_bound)/lower_bound, with both quadrature errors charged against it; ≥ 0.
    quadrature_error : float
        Relative change of time and bound when the panels are halved.
    multiplier : float
        λ, the price of the budget: -dT*/dB.
    budget_error : float
        ∫ω/B - 1.
    violation : float
        Largest relative violation of the bounds and of monotonicity at the quadrature points.
    """

    time: float
    lower_bound: float
    gap: float
    quadrature_error: float
    multiplier: float
    budget_error: float
    violation: float

    def to_dict(self) -> dict[str, float]:
        """The certificate as JSON values."""
        return dataclasses.asdict(self)


def certify(problem: Problem, weighting: Weight, breaks: Iterable[float] = ()) -> Certificate:
    """Certify any weighting against a problem.

    Parameters
    ----------
    problem : Problem
    weighting : callable
        ω on arrays of success probabilities; must be positive on [start, target].
    breaks : iterable of float
        Kinks of ω. They sharpen the quadrature; leaving them out costs accuracy, which `quadrature_error` shows.

    Raises
    ------
    ValueError
        If the weighting is not positive and finite on [start, target].
    """
    breaks = tuple(breaks)
    shape = envelope(problem)
    halves = [
        _evaluate(problem, weighting, shape, problem.panels((*breaks, *shape.breaks), width))
        for width in (CHECK_WIDTH, CHECK_WIDTH / 2)
    ]
    coarse, fine = halves
    error = max(abs(coarse[key] / fine[key] - 1) for key in ("time", "lower_bound"))
    # A time below the bound by more than rounding would mean a wrong bound: it is charged, not called a gap of 0.
    gap = abs(fine["time"] - fine["lower_bound"]) / fine["lower_bound"] + 2 * error
    return Certificate(**fine, gap=gap, quadrature_error=error)


def _evaluate(problem: Problem, weighting: Weight, shape: Envelope, points: Panels) -> dict[str, float]:
    weight = np.asarray(weighting(points.rho), dtype=np.float64)
    if not np.all(np.isfinite(weight) & (weight > 0)):
        raise ValueError("the weighting must be positive and finite on [start, target]")
    cost = problem.cost_density(points.rho)
    spent = float(np.sum(points.weight * weight))
    time = float(np.sum(points.weight * cost / weight)) * max(1.0, spent / problem.budget)
    multiplier, lower_bound = _dual(problem, points, cost, _admissible(problem, points, cost / shape(points.rho)))
    return {
        "time": time,
        "lower_bound": lower_bound,
        "multiplier": multiplier,
        "budget_error": spent / problem.budget - 1,
        "violation": _violation(problem, weight.ravel()),
    }


def _admissible(problem: Problem, points: Panels, h: NDArray[np.float64]) -> NDArray[np.float64]:
    """h divided by the factor that proves ∫hω ≤ ∫ω for every monotone ω."""
    if problem.monotone is None:
        return np.ones_like(h)
    order = slice(None, None, -1) if problem.monotone == "increasing" else slice(None)
    mass = np.cumsum(np.sum(points.weight * h, axis=1)[order])
    length = np.cumsum(np.sum(points.weight, axis=1)[order])
    return h / max(1.0, float(np.max(mass / length)))


def _dual(problem: Problem, points: Panels, cost: NDArray[np.float64], h: NDArray[np.float64]) -> tuple[float, float]:
    """The multiplier that makes the dual bound largest, and the bound; any multiplier would be valid."""
    if problem.min_weight * problem.extent >= problem.budget * (1 - PINNED):
        # The slope dT*/dB is so steep here that the rounding of B alone would be all that the bound shows.
        steepest = float(np.max(cost / h)) / problem.min_weight**2
        return steepest, float(np.sum(points.weight * cost)) / problem.min_weight

    def minimiser(log_multiplier: float) -> NDArray[np.float64]:
        root = np.sqrt(cost / h) * math.exp(-log_multiplier / 2)
        return np.clip(root, problem.min_weight, problem.max_weight)

    def excess(log_multiplier: float) -> float:
        return float(np.sum(points.weight * h * minimiser(log_multiplier))) / problem.budget - 1

    # Without bounds the optimum is (∫√(f h)/B)². A lower bound on ω can only raise it, an upper bound only lower it,
    # and past the point where every weight sits at its bound the minimiser moves no more.
    free = 2 * math.log(float(np.sum(points.weight * np.sqrt(cost * h))) / problem.budget)
    log_cost = np.log(cost / h)
    low, high = free, free
    if problem.max_weight < math.inf:
        low = min(free, float(np.min(log_cost)) - 2 * math.log(problem.max_weight))
    if problem.min_weight > 0:
        high = max(free, float(np.max(log_cost)) - 2 * math.log(problem.min_weight))
    if excess(low) <= 0:
        best = low
    elif excess(high) >= 0:
        best = high
    else:
        best = find_root(excess, low, high)
    w = minimiser(best)
    multiplier = math.exp(best)
    bound = float(np.sum(points.weight * (cost / w + multiplier * h * w))) - multiplier * problem.budget
    return multiplier, bound


def _violation(problem: Problem, weight: NDArray[np.float64]) -> float:
    worst = [0.0, problem.min_weight / float(np.min(weight)) - 1, float(np.max(weight)) / problem.max_weight - 1]
    if problem.monotone is not None:
        rise = np.diff(weight) / weight[1:]
        worst.append(float(np.max(rise if problem.monotone == "decreasing" else -rise)))
    return max(worst)
