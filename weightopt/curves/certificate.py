"""Certificates: how far a weighting can be from the best possible, from the problem and the weighting alone.

Lagrangian duality. Let f = c/κ and let h ≥ 0 satisfy ∫hω ≤ ∫ω for every admissible shape ω (h = 1 always does). For
every λ ≥ 0 and every feasible ω,

    T[ω] = ∫ f/ω ≥ ∫ (f/ω + λhω) - λB ≥ ∫ min over w in [a, b] of (f/w + λhw) dρ - λB,

so the right side, evaluated by quadrature, is a lower bound on the time of *every* feasible weighting. For monotone
weightings h = f/f̂ with f̂ the monotone envelope makes it tight; a non-increasing ω is a mixture of the steps 1[ρ ≤ x],
so any h becomes admissible after division by sup over x of its mean over [start, x]. That supremum is computed (at
panel ends), not assumed: nothing here trusts whoever produced the weighting. A crowding limit says the same of ωρ^m in
the measure ρ^-m dm on its range (`weightopt.curves.monotone`).

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
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from theory.quadrature import EPS, NODE_WEIGHTS, NODES, Panels
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


# ∫ from -1 to node j of the polynomial that is 1 at node k and 0 at the others.
_LEGENDRE = np.polynomial.legendre.legvander(NODES, NODES.size)
_INTEGRALS = (_LEGENDRE[:, 2:] - _LEGENDRE[:, :-2]) / (2 * np.arange(1, NODES.size) + 1)  # of degree 1 and up
CUMULATIVE = np.column_stack([NODES + 1, _INTEGRALS]) @ np.linalg.inv(_LEGENDRE[:, :-1])


class SlopePrices(NamedTuple):
    """Where the slope of a weighting is at its bound.

    Attributes
    ----------
    budget
        λ.
    runs
        Shape (k, 2). Intervals of success probability in order, at most touching, outside of which S = 0.
    """

    budget: float
    runs: NDArray[np.float64]


def certify(
    problem: Problem, weighting: Weight, breaks: Iterable[float] = (), prices: Prices | SlopePrices | None = None
) -> TimeCertificate:
    """Certify any weighting against a problem.

    Parameters
    ----------
    problem
        Its clock, budget and constraints count.
    weighting
        ω on arrays of success probabilities; must be positive on [start, target].
    breaks
        Kinks of ω. They sharpen the quadrature; leaving them out costs accuracy, which `quadrature_error` shows.
    prices
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
        coarse, fine = (_evaluate_bins(problem, weighting, prices, pieces) for pieces in (1, 2))
    elif math.isfinite(problem.lipschitz):
        assert isinstance(prices, SlopePrices)
        ends = (*breaks, *prices.runs.ravel().tolist())
        coarse, fine = (
            _evaluate_slopes(problem, weighting, prices, problem.panels(ends, CHECK_WIDTH, pieces=pieces))
            for pieces in (1, 2)
        )
    else:
        shape = envelope(problem)
        coarse, fine = (
            _evaluate(
                problem, weighting, shape, problem.panels((*breaks, *shape.breaks), CHECK_WIDTH, pieces=pieces), breaks
            )
            for pieces in (1, 2)
        )
    # What halving every panel changes is the error of the wider ones; twice that is charged for the narrower.
    spent_error = 2 * abs(fine.spent - coarse.spent) / problem.budget
    time_error = 2 * abs(fine.time - coarse.time) + fine.time_rounding + fine.time * spent_error
    bound_error = 2 * abs(fine.bound - coarse.bound) + fine.bound_rounding
    lower_bound = max(0.0, fine.bound - bound_error)
    # A time below the bound by more than the errors would mean a wrong bound: it is charged, not called a gap of 0.
    apart = abs(fine.time - fine.bound) + time_error + bound_error
    return TimeCertificate(
        time=fine.time,
        lower_bound=lower_bound,
        gap=apart / lower_bound if lower_bound > 0 else math.inf,
        quadrature_error=max(time_error / fine.time, bound_error / max(fine.bound, SMALLEST)),
        multiplier=fine.multiplier,
        budget_error=fine.spent / problem.budget - 1,
        violation=fine.violation,
    )


class _Found(NamedTuple):
    """What one set of panels says, and how far rounding and panels with few floats in them can have moved it."""

    time: float
    bound: float
    spent: float
    multiplier: float
    violation: float
    time_rounding: float
    bound_rounding: float


def _primal(
    problem: Problem, weighting: Weight, points: Panels, cost: NDArray[np.float64], unsure: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float, float, float]:
    """Weights at the points, time, ∫ω and the rounding of the time.

    The time is charged in proportion where ω spends more than the budget.
    """
    weight = np.asarray(weighting(points.rho), dtype=np.float64)
    if not np.all(np.isfinite(weight) & (weight > 0)):
        raise ValueError("the weighting must be positive and finite on [start, target]")
    spends, takes = (np.sum(points.weight * density, axis=1) for density in (weight, cost / weight))
    spent, time = float(np.sum(spends)), float(np.sum(takes))
    share = float(np.sum(takes * unsure)) / time + float(np.sum(spends * unsure)) / spent
    time *= max(1.0, spent / problem.budget)
    return weight, time, spent, time * share


def _unsure(problem: Problem, points: Panels) -> NDArray[np.float64]:
    """Relative error of an integral over each panel that halving it need not show, shape (panels,).

    It is rounding, and where there are too few floats in a panel for Gauss's rule the degree of the rule in its place:
    half the change of ln f over the panel, or half its width in log-odds if that is larger, to that power.
    """
    error = np.full(points.degree.size, problem.rounding + points.moved)
    few = np.flatnonzero(points.degree < NODES.size - 1)
    if few.size:
        left, right = points.edges[few], points.edges[few + 1]
        width = np.log1p((right - left) / (left * (1 - right)))
        change = np.abs(np.log(problem.cost_density(right) / problem.cost_density(left)))
        error[few] += (np.maximum(width, change) / 2) ** (points.degree[few] + 1)
    return error


def _evaluate(
    problem: Problem, weighting: Weight, shape: Envelope, points: Panels, breaks: tuple[float, ...]
) -> _Found:
    cost, unsure = problem.cost_density(points.rho), _unsure(problem, points)
    weight, time, spent, time_rounding = _primal(problem, weighting, points, cost, unsure)
    h = _admissible(problem, points, cost / shape(points.rho))
    multiplier, bound, bound_rounding = _dual(problem, points, cost, h, float(np.min(weight)), unsure)
    if problem.bounded or math.isfinite(problem.max_ratio):
        unseen = _between_floats(problem, weighting, breaks)
        time_rounding, bound_rounding = time_rounding + unseen, bound_rounding + unseen
    return _Found(
        time, bound, spent, multiplier, violation(problem, points.rho, weighting), time_rounding, bound_rounding
    )


def _between_floats(problem: Problem, weighting: Weight, breaks: tuple[float, ...]) -> float:
    """What time and bound can miss because a bound on ω begins to bind at a place that is no float.

    At an announced place it is what f changes by from one float to the next, over that width. The bound has its own
    places, where it bends less; one of them can hide between an end, or a kink of f, and the float beside it.
    """
    at = np.array([problem.start, *problem.kinks, *breaks, problem.target])
    announced = np.isin(at, np.array(breaks, dtype=np.float64))
    below, above = np.nextafter(at, 0), np.nextafter(at, 1)
    cost = problem.cost_density(at)
    near = np.array([problem.cost_density(below), problem.cost_density(above)])
    change = np.max(np.abs(near / cost - 1), axis=0)
    width = (above - below) * (1.0 if problem.budget_density is None else problem.budget_density(at))
    missed = cost / np.asarray(weighting(at)) * width * np.where(announced, change, change**2)
    return 2 * float(np.sum(missed))


def _evaluate_bins(problem: Problem, weighting: Weight, prices: Prices, pieces: int) -> _Found:
    """The finite program of the bins; its own bound, and the weights at the bins' left ends for its constraints."""
    program = bin_program(problem, CHECK_WIDTH, pieces)
    points = problem.panels(problem.bins or (), CHECK_WIDTH, pieces=pieces)
    cost, unsure = problem.cost_density(points.rho), _unsure(problem, points)
    weight, time, spent, time_rounding = _primal(problem, weighting, points, cost, unsure)
    by_bin = np.asarray(weighting(np.array([problem.start, *(problem.bins or ())])))
    bound, added = bound_cells(program, prices)
    return _Found(
        time,
        bound,
        spent,
        prices.budget,
        max(program.violation(by_bin), float(np.ptp(weight, axis=1).max() / weight.max())),
        time_rounding,
        added * float(np.max(unsure)),
    )


def _evaluate_slopes(problem: Problem, weighting: Weight, prices: SlopePrices, points: Panels) -> _Found:
    """The bound of a Lipschitz problem with dS = (λ - h) dm.

    h is f/ω² on runs along a slope, times a constant that lets S end at 0; λ f/f̂ on runs along a bound, with f̂ the
    isotonic regression of f there, as for monotone weightings without a slope; and λ elsewhere.
    """
    cost, measure, lam = problem.cost_density(points.rho), points.weight, prices.budget
    unsure = _unsure(problem, points)
    weight, time, spent, time_rounding = _primal(problem, weighting, points, cost, unsure)
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
    # S per panel, from what it has risen by since the runs began that touch: outside of them it is 0.
    over_panel = np.sum(measure * rise, axis=1)
    before = np.cumsum(over_panel) - over_panel
    s, missed = np.zeros_like(rise), 0.0
    moving = np.any(rise != 0, axis=1)
    turns = np.diff(np.concatenate([[0], moving.astype(np.int8), [0]]))
    for left, right in zip(np.flatnonzero(turns == 1), np.flatnonzero(turns == -1), strict=True):
        run = slice(left, right)
        s[run] = (before[run] - before[left])[:, None] + _within(points, measure * rise, run)
        missed += abs(float(np.sum(over_panel[run])))
    along = measure if problem.budget_density is None else measure / problem.budget_density(points.rho)
    if problem.lipschitz_in == "log-odds":
        along = along / (points.rho * (1 - points.rho))
    falling, rising = problem.slopes
    support = float(np.sum(along * np.maximum(falling * s, rising * s)))
    priced = np.zeros_like(pull)
    if _ratio_binds(problem, least):
        ratio_low = np.where(sloped, 0, pull * np.maximum(1 - smooth / (lam * least**2), 0))
        ratio_high = np.where(sloped, 0, pull * np.maximum(smooth / (lam * (problem.max_ratio * least) ** 2) - 1, 0))
        ratio_low, ratio_high = balanced(ratio_low, ratio_high, problem.max_ratio, measure)
        pull, priced = pull + ratio_high - ratio_low, ratio_high + ratio_low
    bound, bound_rounding = 0.0, 0.0
    if np.all(pull > 0):
        best = np.clip(np.sqrt(cost / pull), problem.min_weight, problem.max_weight)
        bound = float(np.sum(measure * (cost / best + pull * best))) - lam * problem.budget - support
        added = np.sum(measure * (cost / best + (pull + priced + np.abs(rise)) * best), axis=1)
        bound_rounding = float(np.sum(added * unsure)) + float(np.max(unsure)) * (lam * problem.budget + support)
        # S ends at 0 but for rounding, of itself and of what it is the sum of.
        off = missed + float(np.sum(np.sum(measure * np.abs(rise), axis=1) * unsure))
        steepest = float(np.sum(along[moving])) * max(-falling, rising)
        bound_rounding += off * (steepest + float(np.max(best)))
        if problem.bounded or math.isfinite(problem.max_ratio):
            bound_rounding += _between_floats(problem, weighting, ())
    return _Found(time, bound, spent, lam, violation(problem, points.rho, weighting), time_rounding, bound_rounding)


def _within(points: Panels, rises: NDArray[np.float64], run: slice) -> NDArray[np.float64]:
    """Integrals from the left ends of panels to their nodes of what has the integrals `rises` node by node."""
    if np.all(points.degree[run] > NODES.size - 1):
        return (rises[run] / NODE_WEIGHTS) @ CUMULATIVE.T
    # On moved nodes: through the Legendre coefficients of a density, as exact as the rule that it is integrated by.
    place = points.place[run]
    values = np.polynomial.legendre.legvander(place, NODES.size)
    order = np.arange(NODES.size)
    lower = np.concatenate([np.zeros_like(place)[..., None], values[..., :-2]], axis=2)
    integrals = (values[..., 1:] - lower) / (2 * order + 1)
    integrals[..., 0] = place + 1
    coefficients = np.einsum("pj,pjk->pk", rises[run], values[..., :-1]) * (2 * order + 1) / 2
    return np.einsum("pk,pjk->pj", coefficients, integrals)


def _admissible(problem: Problem, points: Panels, h: NDArray[np.float64]) -> NDArray[np.float64]:
    """h divided by the factor that proves ∫hω ≤ ∫ω for every monotone ω.

    The factor is the largest mean of h over [start, x], from the target for a rising ω, over all x: at panel ends and
    nodes, and where h passes 1 falling between two of them, as if it had stayed what it was at the first.
    """
    if problem.pooled_on is None:
        return np.ones_like(h)
    order = slice(None, None, -1) if problem.monotone == "increasing" else slice(None)
    measure, above = points.weight[order, order], (h - 1)[order, order]
    inside, within = np.ones(len(h), dtype=bool), h
    if problem.crowding is not None:
        # Outside the range h is 1 for every shape; inside it the mean begins where the range does.
        low, high = problem.pooled_on
        inside = (points.edges[:-1] >= low) & (points.edges[1:] <= high)
        within, measure = h[inside], measure[inside] * points.rho[inside] ** -problem.tilt
        above = within - 1
        if np.any(h[~inside] != 1):
            raise ValueError("the envelope must be the cost outside the range of the crowding limit")
    ends, length = np.cumsum(np.sum(measure * above, axis=1)), np.cumsum(np.sum(measure, axis=1))
    worst = max(0.0, float(np.max(ends / length)))
    if np.any(above != 0):
        begun = np.concatenate([[0.0], length[:-1]])[:, None] + np.cumsum(measure, axis=1)
        excess = np.concatenate([[0.0], ends[:-1]])[:, None] + np.cumsum(measure * above, axis=1)
        falls = np.concatenate([(above[:, :-1] > 0) & (above[:, 1:] < 0), np.zeros((len(above), 1), bool)], axis=1)
        if np.any(falls):
            reach = np.roll(measure, -1, axis=1)
            worst = max(worst, float(np.max(((excess + reach * above) / begun)[falls])))
    admissible = np.ones_like(h)
    admissible[inside] = within / (1 + worst)
    return admissible


def _dual(
    problem: Problem,
    points: Panels,
    cost: NDArray[np.float64],
    h: NDArray[np.float64],
    least: float,
    unsure: NDArray[np.float64],
) -> tuple[float, float, float]:
    """The multiplier that makes the dual bound largest, the bound, and its rounding; any multiplier would be valid.

    `least`, the smallest weight, is where the prices of a ratio bound are read off; any would be valid.
    """
    low, high = problem.min_weight, problem.max_weight
    if math.isfinite(problem.max_ratio):
        low, high = max(low, least), min(high, problem.max_ratio * least)
    measure = points.weight

    def value(multiplier: float, w: NDArray[np.float64], pull: NDArray[np.float64], priced) -> tuple[float, float]:
        """∫(f/w + pull·w) - λB, with λ·min_weight taken out of both so that what is small stays exact."""
        base = problem.min_weight
        gained = cost / w + (pull - multiplier * h) * base + pull * (w - base)
        below = base * (1 - h)
        bound = float(np.sum(measure * gained)) - multiplier * (rest + float(np.sum(measure * below)))
        added = cost / w + priced * (w + base) + multiplier * (h * (w - base) + np.abs(below) + base * (h != 1))
        return bound, float(np.sum(np.sum(measure * added, axis=1) * unsure)) + multiplier * (
            error + abs(rest) * float(np.max(unsure))
        )

    rest, error = _surplus(problem, points, unsure)
    surplus = rest + problem.min_weight * float(np.sum(measure * (1 - h)))
    if low == problem.min_weight and surplus <= 0:
        # No weight can be above the bound.
        least_time = np.sum(measure * cost, axis=1) / low
        steepest = float(np.max(cost / h)) / low**2
        return steepest, float(np.sum(least_time)), float(np.sum(least_time * unsure))
    best = _log_multiplier(points, cost, h, problem, surplus, low, high)
    multiplier = math.exp(best)
    if not _ratio_binds(problem, least):
        w = np.clip(np.sqrt(cost / h) * math.exp(-best / 2), low, high)
        return multiplier, *value(multiplier, w, multiplier * h, 0.0)
    if high <= low * (1 + CONSTANT):
        multiplier = float(np.sum(measure * cost) / np.sum(measure * h)) / low**2
    ratio_low = h * np.maximum(multiplier - cost / h / least**2, 0)
    ratio_high = h * np.maximum(cost / h / (problem.max_ratio * least) ** 2 - multiplier, 0)
    ratio_low, ratio_high = balanced(ratio_low, ratio_high, problem.max_ratio, measure)
    pull = multiplier * h + ratio_high - ratio_low
    if np.any(pull <= 0):
        return multiplier, 0.0, 0.0
    w = np.clip(np.sqrt(cost / pull), problem.min_weight, problem.max_weight)
    return multiplier, *value(multiplier, w, pull, ratio_low + ratio_high)


def _ratio_binds(problem: Problem, least: float) -> bool:
    """Whether the ratio bound, and not the upper bound, limits the largest weight when the smallest is `least`."""
    return problem.max_ratio * least <= problem.max_weight * (1 + CONSTANT) and math.isfinite(problem.max_ratio)


def _surplus(problem: Problem, points: Panels, unsure: NDArray[np.float64]) -> tuple[float, float]:
    """B - min_weight·∫dm and its error: what is left of the budget when every weight is the least."""
    if problem.budget_density is None:
        width = Fraction(problem.target) - Fraction(problem.start)
        return float(Fraction(problem.budget) - Fraction(problem.min_weight) * width), 0.0
    least = problem.min_weight * np.sum(points.weight, axis=1)
    return problem.budget - float(np.sum(least)), float(np.sum(least * unsure)) + EPS * problem.budget


def _log_multiplier(
    points: Panels,
    cost: NDArray[np.float64],
    h: NDArray[np.float64],
    problem: Problem,
    surplus: float,
    low: float,
    high: float,
) -> float:
    """ln λ at which the minimiser clip(√(f/λh), low, high) spends the budget in the measure h dm."""
    # In what is spent above the lower bound, of which the last digits can matter most.
    budget, base = problem.budget, problem.min_weight
    least = max(low, base)

    def excess(log_multiplier: float) -> float:
        root = np.sqrt(cost / h) * math.exp(-log_multiplier / 2)
        return (float(np.sum(points.weight * h * (np.clip(root, least, high) - base))) - surplus) / budget

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
    if problem.crowding is not None:
        low, high = problem.pooled_on or (problem.start, problem.target)
        inside = (rho >= low) & (rho <= high)
        tilted = weight[inside] * rho[inside] ** problem.tilt
        worst.append(float(np.max(np.diff(tilted) / tilted[1:], initial=0.0)))
    if math.isfinite(problem.lipschitz):
        beyond = np.abs(np.diff(weight)) - problem.lipschitz * np.diff(problem.coordinate(rho))
        worst.append(float(np.max(beyond)) / most)
    return max(worst)
