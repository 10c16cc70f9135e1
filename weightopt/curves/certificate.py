"""Certificates: how far a weighting can be from the best possible, from the problem and the weighting alone.

Lagrangian duality. Let f = c/κ and let h ≥ 0 satisfy ∫hω ≤ ∫ω for every admissible shape ω (h = 1 always does). For
every λ ≥ 0 and every feasible ω,

    T[ω] = ∫ f/ω ≥ ∫ (f/ω + λhω) - λB ≥ ∫ min over w in [a, b] of (f/w + λhw) dρ - λB,

so the right side, evaluated by quadrature, is a lower bound on the time of *every* feasible weighting. For monotone
weightings h = f/f̂ with f̂ the monotone envelope makes it tight; a non-increasing ω is a mixture of the steps 1[ρ ≤ x],
so any h becomes admissible after division by sup over x of its mean over [start, x]. That supremum is computed (at
panel ends), not assumed: nothing here trusts whoever produced the weighting.

A bound R on the ratio of largest to smallest weight adds, for any densities α, β ≥ 0 with ∫α = R∫β, the term
(β - α)ω to the integrand: with s the smallest weight, ∫α(s - ω) + ∫β(ω - Rs) ≤ 0. A Lipschitz bound, low ≤ dω/dx ≤
high, adds a function S(x) that vanishes at both ends: ∫S ω' dx ≤ ∫max(low S, high S) dx and ∫S ω' dx = -∫ω dS, so

    T[ω] ≥ ∫ min over w of (f/w + (λ - dS/dm + β - α) w) dm - λB - ∫max(low S, high S) dx.

The best S has dS/dm = λ - f/ω² where the slope is at its bound and is 0 elsewhere; a solver says where that is, and
whatever it says the bound holds. Weights on bins are a finite program with a bound of its own (see
`weightopt.curves.cell_program`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from theory.quadrature import NODE_WEIGHTS, NODES, Panels
from weightopt.answer import TimeCertificate
from weightopt.curves.bins import bin_program
from weightopt.curves.cell_program import balanced, bound_cells
from weightopt.curves.interior_point import Prices
from weightopt.curves.monotone import Envelope, envelope, find_root
from weightopt.curves.problem import Problem

Weight = Callable[[NDArray[np.float64]], NDArray[np.float64]]
CHECK_WIDTH = 1 / 16  # panel width in log-odds, finer than the solver's own
CONSTANT = 1e-12  # bounds closer than this leave the constant weight alone
SMALLEST = 1e-300
AT_BOUND = 1e-6  # relative distance within which a run lies along a bound
PINNED = 1e-15  # relative slack of the budget over the lower bound on ω that is rounding: the bound is the one answer


# ∫ from -1 to node j of the polynomial that is 1 at node k and 0 at the others.
_LEGENDRE = np.polynomial.legendre.legvander(NODES, NODES.size)
_INTEGRALS = (_LEGENDRE[:, 2:] - _LEGENDRE[:, :-2]) / (2 * np.arange(1, NODES.size) + 1)  # of degree 1 and up
CUMULATIVE = np.column_stack([NODES + 1, _INTEGRALS]) @ np.linalg.inv(_LEGENDRE[:, :-1])


class SlopePrices(NamedTuple):
    """Where the slope of a weighting is at its bound.

    Attributes
    ----------
    budget : float
        λ.
    runs : ndarray, shape (k, 2)
        Intervals of success probability in order, at most touching, outside of which S = 0.
    """

    budget: float
    runs: NDArray[np.float64]


def certify(
    problem: Problem, weighting: Weight, breaks: Iterable[float] = (), prices: Prices | SlopePrices | None = None
) -> TimeCertificate:
    """Certify any weighting against a problem.

    Parameters
    ----------
    problem : Problem
    weighting : callable
        ω on arrays of success probabilities; must be positive on [start, target].
    breaks : iterable of float
        Kinks of ω. They sharpen the quadrature; leaving them out costs accuracy, which `quadrature_error` shows.
    prices : Prices or SlopePrices, optional
        Needed with bins and with a Lipschitz bound: what the bound is to be made from. Wrong ones make it weak, not
        wrong.

    Raises
    ------
    ValueError
        If the weighting is not positive and finite on [start, target].
    """
    breaks = tuple(breaks)
    if problem.bins is not None:
        assert isinstance(prices, Prices)
        coarse, fine = (_evaluate_bins(problem, weighting, prices, width) for width in (CHECK_WIDTH, CHECK_WIDTH / 2))
    elif math.isfinite(problem.lipschitz):
        assert isinstance(prices, SlopePrices)
        ends = (*breaks, *prices.runs.ravel().tolist())
        first = problem.panels(ends, CHECK_WIDTH)
        middles = first.rho[:, NODES.size // 2 - 1 : NODES.size // 2 + 1].mean(axis=1)
        halved = problem.panels((*first.edges[1:-1].tolist(), *middles.tolist()), CHECK_WIDTH)
        coarse, fine = (_evaluate_slopes(problem, weighting, prices, points) for points in (first, halved))
    else:
        shape = envelope(problem)
        coarse, fine = (
            _evaluate(problem, weighting, shape, problem.panels((*breaks, *shape.breaks), width))
            for width in (CHECK_WIDTH, CHECK_WIDTH / 2)
        )
    error = max(abs(coarse[key] - fine[key]) / max(fine[key], SMALLEST) for key in ("time", "lower_bound"))
    # A time below the bound by more than rounding would mean a wrong bound: it is charged, not called a gap of 0.
    bound = fine["lower_bound"]
    gap = abs(fine["time"] - bound) / bound + 2 * error if bound > 0 else math.inf
    return TimeCertificate(**fine, gap=gap, quadrature_error=error)


def _primal(problem: Problem, weighting: Weight, points: Panels) -> tuple[NDArray[np.float64], float, float]:
    """Weights at the points, time, and ∫ω; the time charged in proportion where ω spends more than the budget."""
    weight = np.asarray(weighting(points.rho), dtype=np.float64)
    if not np.all(np.isfinite(weight) & (weight > 0)):
        raise ValueError("the weighting must be positive and finite on [start, target]")
    spent = float(np.sum(points.weight * weight))
    time = float(np.sum(points.weight * problem.cost_density(points.rho) / weight))
    return weight, time * max(1.0, spent / problem.budget), spent


def _evaluate(problem: Problem, weighting: Weight, shape: Envelope, points: Panels) -> dict[str, float]:
    weight, time, spent = _primal(problem, weighting, points)
    cost = problem.cost_density(points.rho)
    h = _admissible(problem, points, cost / shape(points.rho))
    multiplier, lower_bound = _dual(problem, points, cost, h, float(np.min(weight)))
    return {
        "time": time,
        "lower_bound": lower_bound,
        "multiplier": multiplier,
        "budget_error": spent / problem.budget - 1,
        "violation": violation(problem, points.rho, weighting),
    }


def _evaluate_bins(problem: Problem, weighting: Weight, prices: Prices, width: float) -> dict[str, float]:
    """The finite program of the bins; its own bound, and the weights at the bins' left ends for its constraints."""
    program = bin_program(problem, width)
    weight, time, spent = _primal(problem, weighting, problem.panels(problem.bins or (), width))
    by_bin = np.asarray(weighting(np.array([problem.start, *(problem.bins or ())])))
    return {
        "time": time,
        "lower_bound": bound_cells(program, prices),
        "multiplier": prices.budget,
        "budget_error": spent / problem.budget - 1,
        "violation": max(program.violation(by_bin), float(np.ptp(weight, axis=1).max() / weight.max())),
    }


def _evaluate_slopes(problem: Problem, weighting: Weight, prices: SlopePrices, points: Panels) -> dict[str, float]:
    """The bound of a Lipschitz problem with dS = (λ - h) dm.

    h is f/ω² on runs along a slope, times a constant that lets S end at 0; λ f/f̂ on runs along a bound, with f̂ the
    isotonic regression of f there, as for monotone weightings without a slope; and λ elsewhere.
    """
    weight, time, spent = _primal(problem, weighting, points)
    cost, measure, lam = problem.cost_density(points.rho), points.weight, prices.budget
    least = float(np.min(weight))
    low, high = problem.min_weight, problem.max_weight
    if math.isfinite(problem.max_ratio):
        low, high = max(low, least), min(high, problem.max_ratio * least)
    smooth, pull = cost.copy(), np.full_like(cost, lam)  # f̂ and h
    sloped = np.zeros_like(cost, dtype=bool)
    for left, right in np.searchsorted(points.edges, prices.runs):
        run = slice(left, right)
        at_bound = any(np.all(np.abs(weight[run] / bound - 1) <= AT_BOUND) for bound in (low, high) if bound > 0)
        if at_bound and problem.monotone is not None:
            smooth[run] = isotonic_regression(
                cost[run].ravel(), weights=measure[run].ravel(), increasing=problem.monotone == "increasing"
            ).x.reshape(-1, NODES.size)
            pull[run] = lam * cost[run] / smooth[run]
        else:
            sloped[run] = True
            pull[run] = cost[run] / weight[run] ** 2
    # Runs along slopes that touch are one: S passes through 0 where they meet, and is made to end at 0.
    turns = np.diff(np.concatenate([[0], sloped[:, 0].astype(np.int8), [0]]))
    for left, right in zip(np.flatnonzero(turns == 1), np.flatnonzero(turns == -1), strict=True):
        run = slice(left, right)
        pull[run] *= lam * np.sum(measure[run]) / np.sum(measure[run] * pull[run])
    rise = lam - pull
    over_panel = np.sum(measure * rise, axis=1)
    s = (np.cumsum(over_panel) - over_panel)[:, None] + (measure * rise / NODE_WEIGHTS) @ CUMULATIVE.T
    along = measure if problem.budget_density is None else measure / problem.budget_density(points.rho)
    if problem.lipschitz_in == "log-odds":
        along = along / (points.rho * (1 - points.rho))
    falling, rising = problem.slopes
    support = float(np.sum(along * np.maximum(falling * s, rising * s)))
    if _ratio_binds(problem, least):
        ratio_low = np.where(sloped, 0, pull * np.maximum(1 - smooth / (lam * least**2), 0))
        ratio_high = np.where(sloped, 0, pull * np.maximum(smooth / (lam * (problem.max_ratio * least) ** 2) - 1, 0))
        ratio_low, ratio_high = balanced(ratio_low, ratio_high, problem.max_ratio, measure)
        pull = pull + ratio_high - ratio_low
    bound = 0.0
    if np.all(pull > 0):
        best = np.clip(np.sqrt(cost / pull), problem.min_weight, problem.max_weight)
        bound = float(np.sum(measure * (cost / best + pull * best))) - lam * problem.budget - support
    return {
        "time": time,
        "lower_bound": bound,
        "multiplier": lam,
        "budget_error": spent / problem.budget - 1,
        "violation": violation(problem, points.rho, weighting),
    }


def _admissible(problem: Problem, points: Panels, h: NDArray[np.float64]) -> NDArray[np.float64]:
    """h divided by the factor that proves ∫hω ≤ ∫ω for every monotone ω."""
    if problem.monotone is None:
        return np.ones_like(h)
    order = slice(None, None, -1) if problem.monotone == "increasing" else slice(None)
    mass = np.cumsum(np.sum(points.weight * h, axis=1)[order])
    length = np.cumsum(np.sum(points.weight, axis=1)[order])
    return h / max(1.0, float(np.max(mass / length)))


def _dual(
    problem: Problem, points: Panels, cost: NDArray[np.float64], h: NDArray[np.float64], least: float
) -> tuple[float, float]:
    """The multiplier that makes the dual bound largest, and the bound; any multiplier would be valid.

    `least`, the smallest weight, is where the prices of a ratio bound are read off; any would be valid.
    """
    low, high = problem.min_weight, problem.max_weight
    if math.isfinite(problem.max_ratio):
        low, high = max(low, least), min(high, problem.max_ratio * least)
    if low * problem.extent >= problem.budget * (1 - PINNED) and low == problem.min_weight:
        # The slope dT*/dB is so steep here that the rounding of B alone would be all that the bound shows.
        steepest = float(np.max(cost / h)) / low**2
        return steepest, float(np.sum(points.weight * cost)) / low
    best = _log_multiplier(points, cost, h, problem.budget, low, high)
    multiplier = math.exp(best)
    if not _ratio_binds(problem, least):
        w = np.clip(np.sqrt(cost / h) * math.exp(-best / 2), low, high)
        bound = float(np.sum(points.weight * (cost / w + multiplier * h * w))) - multiplier * problem.budget
        return multiplier, bound
    if high <= low * (1 + CONSTANT):
        multiplier = float(np.sum(points.weight * cost) / np.sum(points.weight * h)) / low**2
    ratio_low = h * np.maximum(multiplier - cost / h / least**2, 0)
    ratio_high = h * np.maximum(cost / h / (problem.max_ratio * least) ** 2 - multiplier, 0)
    ratio_low, ratio_high = balanced(ratio_low, ratio_high, problem.max_ratio, points.weight)
    pull = multiplier * h + ratio_high - ratio_low
    if np.any(pull <= 0):
        return multiplier, 0.0
    w = np.clip(np.sqrt(cost / pull), problem.min_weight, problem.max_weight)
    return multiplier, float(np.sum(points.weight * (cost / w + pull * w))) - multiplier * problem.budget


def _ratio_binds(problem: Problem, least: float) -> bool:
    """Whether the ratio bound, and not the upper bound, limits the largest weight when the smallest is `least`."""
    return problem.max_ratio * least <= problem.max_weight * (1 + CONSTANT) and math.isfinite(problem.max_ratio)


def _log_multiplier(
    points: Panels, cost: NDArray[np.float64], h: NDArray[np.float64], budget: float, low: float, high: float
) -> float:
    """ln λ at which the minimiser clip(√(f/λh), low, high) spends the budget in the measure h dm."""

    def excess(log_multiplier: float) -> float:
        root = np.sqrt(cost / h) * math.exp(-log_multiplier / 2)
        return float(np.sum(points.weight * h * np.clip(root, low, high))) / budget - 1

    # Without bounds the optimum is (∫√(f h)/B)². A lower bound on ω can only raise it, an upper bound only lower it,
    # and past the point where every weight sits at its bound the minimiser moves no more.
    free = 2 * math.log(float(np.sum(points.weight * np.sqrt(cost * h))) / budget)
    if low == 0 and math.isinf(high):
        return free
    log_cost = np.log(cost / h)
    left, right = free, free
    if high < math.inf:
        left = min(free, float(np.min(log_cost)) - 2 * math.log(high))
    if low > 0:
        right = max(free, float(np.max(log_cost)) - 2 * math.log(low))
    if excess(left) <= 0:
        return left
    if excess(right) >= 0:
        return right
    return find_root(excess, left, right)


def violation(problem: Problem, rho: NDArray[np.float64], weighting: Weight) -> float:
    """Largest violation of a constraint at points in order: bounds and ratio relatively, slopes over the weight."""
    rho = rho.ravel()
    weight = np.asarray(weighting(rho))
    least, most = float(np.min(weight)), float(np.max(weight))
    worst = [0.0, problem.min_weight / least - 1, most / problem.max_weight - 1, most / (least * problem.max_ratio) - 1]
    if problem.monotone is not None:
        rise = np.diff(weight) / weight[1:]
        worst.append(float(np.max(rise if problem.monotone == "decreasing" else -rise)))
    if math.isfinite(problem.lipschitz):
        beyond = np.abs(np.diff(weight)) - problem.lipschitz * np.diff(problem.coordinate(rho))
        worst.append(float(np.max(beyond)) / most)
    return max(worst)
