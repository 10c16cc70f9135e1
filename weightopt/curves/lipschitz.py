"""Curves whose slope is bounded: ω linear between knots, by the interior-point method, knots added where it bends.

The optimum follows μ√f where that is flat enough and a straight line of the steepest slope where it is not. Linear
pieces cost the fourth power of the spacing along the first kind and nothing along the second, so only where one meets
the other do knots have to be close: they are added there until the certificate, which knows nothing of knots, is tight.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit

from theory.quadrature import log_odds, log_odds_distance
from weightopt.answer import TimeCertificate
from weightopt.curves.certificate import SlopePrices, certify
from weightopt.curves.interior_point import Limits, Prices, Terms, interior_point
from weightopt.curves.problem import Problem
from weightopt.curves.weighting import LinearWeighting

Array = NDArray[np.float64]
Indices = NDArray[np.intp]
WIDTH, LEAST = 1 / 48, 96  # spacing of the first knots in log-odds, and their least number
AIM = 1e-10  # certified gap at which no more knots are added
ROUNDS = 12
JOINED = (2 * WIDTH, WIDTH / 8, 0.0)  # gaps between runs, in log-odds, that are tried to be closed
MOST = 4_000  # knots beyond which no more are added
CLOSE, TUNED = 1e-6, 1e-4  # gap below which λ is tuned, and by how much at most, relatively
SPLIT = 6  # pieces that an interval next to a bend is cut into
TIGHT = 1e-6  # slack of a slope, relative to its bound, below which it is at its bound
ROUNDING = 1e-5  # relative residual of stationarity that rounding explains
CLOSED = 1e-17  # relative slackness at which the method stops


def solve_slopes(problem: Problem) -> tuple[LinearWeighting, TimeCertificate, SlopePrices]:
    """The best weighting with a Lipschitz bound and whatever else, its certificate, and the prices of its bound.

    Parameters
    ----------
    problem
        With a finite ``lipschitz`` and no bins.
    """
    if 0.0 in (problem.lipschitz, problem.max_ratio - 1) or problem.budget / problem.extent in problem.bounds:
        return _constant(problem)
    knots = problem.panels(width=min(WIDTH, log_odds_distance(problem.start, problem.target) / LEAST)).edges
    # Where hardly any slope is allowed the constant weight is the answer to rounding, which the method cannot tell.
    best = _constant(problem)
    for _ in range(ROUNDS):
        if best[1].gap <= AIM or knots.size > MOST:
            break
        weight, told, bends = _solve_on(problem, knots)
        weighting = LinearWeighting(tuple(knots.tolist()), tuple(weight.tolist()), problem.lipschitz_in)
        certificate, prices = _best_certificate(problem, weighting, told)
        stalled = certificate.gap > best[1].gap / 2
        if certificate.gap < best[1].gap:
            best = weighting, certificate, prices
        near = np.unique(np.clip(bends[:, None] + np.array([-1, 0]), 0, knots.size - 2))
        if stalled or not near.size:  # it is the curves between the bends that are too coarse
            knots = _with_more(problem, knots, np.arange(knots.size - 1), 2)
        else:
            knots = _with_more(problem, knots, near, SPLIT)
    return best


def _best_certificate(
    problem: Problem, weighting: LinearWeighting, told: list[SlopePrices]
) -> tuple[TimeCertificate, SlopePrices]:
    """The tightest of what the ways to tell runs apart prove; the bound holds for any of them."""

    def proof(prices: SlopePrices) -> TimeCertificate:
        return certify(problem, weighting, weighting.kinks, prices)

    tried = []
    for prices in told:
        tried.append((proof(prices), prices))
        if tried[-1][0].gap <= AIM:
            break
    best, prices = min(tried, key=lambda pair: pair[0].gap)
    if not AIM < best.gap < CLOSE:
        return best, prices
    # Where prices of the ratio hang on small differences of λ and f/ω², its last digits matter.
    shift = minimize_scalar(
        lambda x: proof(prices._replace(budget=prices.budget * math.exp(x))).gap,
        bounds=(-TUNED, TUNED),
        method="bounded",
        options={"xatol": 1e-4 * TUNED, "maxiter": 20},
    ).x  # pyright: ignore[reportAttributeAccessIssue] - the stubs know the result as an object
    tuned = prices._replace(budget=prices.budget * math.exp(float(shift)))
    return min((best, prices), (proof(tuned), tuned), key=lambda pair: pair[0].gap)


def _constant(problem: Problem) -> tuple[LinearWeighting, TimeCertificate, SlopePrices]:
    """The constant weight, where nothing else is feasible: S all along, with no slope to support."""
    mean = problem.budget / problem.extent
    points = problem.panels()
    price = float(np.sum(points.weight * problem.cost_density(points.rho))) / mean**2 / problem.extent
    ends = np.array([problem.start, problem.target])
    weighting = LinearWeighting((problem.start, problem.target), (mean, mean), problem.lipschitz_in)
    prices = SlopePrices(price, ends[None, :])
    return weighting, certify(problem, weighting, (), prices), prices


def _with_more(problem: Problem, knots: Array, intervals: Indices, pieces: int) -> Array:
    """The knots, and more that cut the given intervals into equal pieces of the coordinate."""
    x = problem.coordinate(knots)
    share = np.arange(1, pieces) / pieces
    added = x[intervals, None] + share * (x[intervals + 1] - x[intervals])[:, None]
    rho = added if problem.lipschitz_in == "rho" else expit(added)
    return np.unique(np.concatenate([knots, rho.ravel()]))


def _solve_on(problem: Problem, knots: Array) -> tuple[Array, list[SlopePrices], Indices]:
    """Weights at the knots, ways to tell runs apart for the certificate, and the knots at which ω bends."""
    n = knots.size
    points = problem.panels(knots[1:-1])
    left = np.searchsorted(knots, points.edges[:-1], side="right") - 1
    x = problem.coordinate(knots)
    share = np.clip((problem.coordinate(points.rho) - x[left, None]) / np.diff(x)[left, None], 0, 1)
    mean = problem.budget / problem.extent
    cost = points.weight * problem.cost_density(points.rho)
    unit = float(np.sum(cost))
    cost = cost / unit
    mass = _to_knots(left, np.sum(points.weight * (1 - share), axis=1), np.sum(points.weight * share, axis=1), n)
    mass /= problem.extent
    low, high = problem.slopes
    step = np.diff(x) / mean
    limits = Limits(low * step, high * step, problem.min_weight / mean, problem.max_weight / mean, problem.max_ratio)

    def terms(w: Array) -> Terms:
        u = (1 - share) * w[left, None] + share * w[left + 1, None]
        once = cost / u**2
        twice = 2 * once / u
        return Terms(
            float(np.sum(once * u)),
            -_to_knots(left, np.sum(once * (1 - share), axis=1), np.sum(once * share, axis=1), n),
            _to_knots(left, np.sum(twice * (1 - share) ** 2, axis=1), np.sum(twice * share**2, axis=1), n),
            np.asarray(np.bincount(left, np.sum(twice * share * (1 - share), axis=1), n - 1), dtype=np.float64),
        )

    # The later the iterate the sharper it tells which slopes are at their bound, until rounding takes over.
    answer: list[tuple[float, Array, Prices]] = []

    def judge(w: Array, prices: Prices) -> bool:
        pull = prices.pull(mass) + (0.0 if prices.box is None else prices.box)
        now = terms(w)
        residual = float(np.sum(np.abs(now.gradient + pull) * w)) / now.value
        open_by = _slackness(w, prices, limits) / now.value
        merit = max(open_by, residual if residual > ROUNDING else 0.0)
        if not answer or merit < answer[0][0]:
            answer[:] = [(merit, w, prices)]
        return merit < CLOSED

    interior_point(terms, mass, limits, judge)
    if not answer:  # the certificate will say that the constant weight is not the answer
        return (
            np.full(n, mean),
            [SlopePrices(unit / mean / problem.budget, np.empty((0, 2)))],
            np.empty(0, dtype=np.intp),
        )
    _, w, prices = answer[0]
    w = w / float(mass @ w)
    # At its bound is a slope without slack, or with less of it than its price: one of the two is 0 at the solution.
    assert prices.difference is not None
    change, width = np.diff(w), max(-low, high) * step
    below = np.maximum(TIGHT, np.abs(prices.difference)) * width
    sign = np.where(high * step - change < below, 1, np.where(change - low * step < below, -1, 0))
    starts, stops = _runs(sign)
    turns = [starts, stops]
    least = float(np.min(w))
    for bound in (limits.lower, limits.upper, limits.ratio * least, least if math.isfinite(limits.ratio) else 0.0):
        if 0 < bound < math.inf:
            turns.append(np.flatnonzero(np.diff(np.abs(w / bound - 1) < TIGHT)) + 1)
    bends = np.unique(np.concatenate(turns))
    bends = bends[(bends > 0) & (bends < n - 1)]
    flat = {"decreasing": 1, "increasing": -1, None: 0}[problem.monotone]
    multiplier = prices.budget * unit / mean / problem.budget
    told = [_joined(knots, starts, stops, sign[stops - 1] == flat, width) for width in JOINED]
    return w * mean, [SlopePrices(multiplier, runs) for runs in told], bends


def _joined(knots: Array, starts: Indices, stops: Indices, flat: NDArray[np.bool_], width: float) -> Array:
    """Runs as success probabilities, shape (k, 2), with gaps of at most `width` in log-odds closed.

    Where two runs meet S passes through 0, and neither slack nor price tells to which of them the last knots between
    belong: they go to the one with a slope. But a short stretch that follows μ√f looks much the same.
    """
    starts, stops, theta = starts.copy(), stops.copy(), log_odds(knots)
    for k in np.flatnonzero(theta[starts[1:]] - theta[stops[:-1]] <= width):
        if flat[k]:
            starts[k + 1] = stops[k]
        else:
            stops[k] = starts[k + 1]
    return knots[np.column_stack([starts, stops])]


def _slackness(w: Array, prices: Prices, limits: Limits) -> float:
    """Σ price·slack over the differences: what is left of complementarity."""
    assert prices.difference is not None
    assert limits.low is not None
    assert limits.high is not None
    change = np.diff(w)
    up, down = np.maximum(prices.difference, 0), np.maximum(-prices.difference, 0)
    return float(np.sum(np.abs(up * (limits.high - change)) + np.abs(down * (change - limits.low))))


def _to_knots(left: Indices, at_left: Array, at_right: Array, n: int) -> Array:
    """Sums over panels of what belongs to the knot on their left and on their right; shape (n,)."""
    return np.asarray(np.bincount(left, at_left, n) + np.bincount(left + 1, at_right, n), dtype=np.float64)


def _runs(sign: NDArray[np.integer]) -> tuple[Indices, Indices]:
    """First and last knot of every maximal run of intervals whose signs are equal and not 0."""
    turns = np.flatnonzero(np.diff(sign)) + 1
    starts, stops = np.append(0, turns), np.append(turns, sign.size)
    present = sign[starts] != 0
    return starts[present], stops[present]
