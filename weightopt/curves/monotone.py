"""The monotone envelope of the cost density: where a monotone weighting must pool.

Among non-increasing weightings the optimum is μ√f̂, with f̂ the isotonic (here antitonic) regression of f = c/κ: the
slope of the least concave majorant of ∫f. It equals f except on *pools*, intervals over which it is the mean of f.
Pools are found on a grid by the pool-adjacent-violators algorithm and their ends are then solved for exactly, so the
answer carries no grid error.

A crowding limit κ asks the same of v = ωρ^m, m = 1-κ, on its range: with the cost fρ^2m in the measure ρ^-m dm, ∫f/ω dm
and ∫ω dm are those of v. So f̂ is f but for pools on the range, over which it is ρ^-2m times the mean of fρ^2m.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq, isotonic_regression, minimize_scalar

from theory.quadrature import Panels, log_odds_distance
from weightopt.curves.problem import Problem

# Cells of the grid, fine enough to tell pools apart (their ends are refined afterwards): at most this wide in log-odds,
# and at least this many however short the interval.
GRID_WIDTH, GRID_CELLS = 1 / 64, 64
RTOL = 4 * np.finfo(np.float64).eps  # the finest that Brent's method accepts
SAMPLES = 65  # of f around the end of a pool, to find where it is monotone
EXTREMUM_NOISE = 1e-12  # relative change of f below which a turn is rounding


class Pool(NamedTuple):
    """f̂ ρ^2m = `value`, the mean of fρ^2m, for ρ in [left, right]; m = 0 without a crowding limit."""

    left: float
    right: float
    value: float


@dataclasses.dataclass(frozen=True)
class Envelope:
    """f̂ of a problem: f itself without a monotonicity constraint, its isotonic regression with one.

    Callable at success probabilities of any shape in (0, 1). Outside [start, target], where the time does not see the
    weight, f̂ is f without a constraint and keeps its end value with one, under a crowding limit times a power of ρ.
    """

    problem: Problem
    pools: tuple[Pool, ...] = ()

    def __call__(self, rho: NDArray[np.float64]) -> NDArray[np.float64]:
        """f̂(ρ) > 0."""
        problem = self.problem
        if problem.pooled_on is None:
            return problem.cost_density(rho)
        tilt, anywhere = -2 * problem.tilt, rho
        rho = np.clip(rho, problem.start, problem.target)
        value = problem.cost_density(rho)
        for pool in self.pools:
            pooled = pool.value * rho**tilt if tilt else pool.value
            value = np.where((rho >= pool.left) & (rho <= pool.right), pooled, value)
        return value * (anywhere / rho) ** tilt if tilt else value

    @cached_property
    def breaks(self) -> tuple[float, ...]:
        """Ends of pools inside (start, target), where f̂ has kinks."""
        ends = {end for pool in self.pools for end in (pool.left, pool.right)}
        if self.problem.crowding is not None:
            ends |= {*(self.problem.pooled_on or ())}
        return tuple(sorted(ends - {self.problem.start, self.problem.target}))

    @cached_property
    def turns(self) -> tuple[float, ...]:
        """start, target and every point between which f̂ is monotone."""
        problem = self.problem
        inner = {*problem.kinks, *(self.breaks if problem.monotone else _extrema(problem))}
        return (problem.start, *sorted(inner), problem.target)

    def crossings(self, level: float) -> list[float]:
        """Where f̂ - `level` changes sign inside (start, target): at most once between two turns."""
        found = []
        for left, right in itertools.pairwise(self.turns):
            at_left, at_right = self._at(left) - level, self._at(right) - level
            if at_left * at_right < 0:
                found.append(find_root(lambda rho: self._at(rho) - level, left, right))
        return found

    def _at(self, rho: float) -> float:
        return float(self(np.asarray(rho)))


def envelope(problem: Problem) -> Envelope:
    """f̂ of the problem, with pool ends exact to rounding."""
    between = problem.pooled_on
    if between is None:
        return Envelope(problem)
    cells = problem.panels(width=_grid_width(problem), between=between)
    measure = _measure(problem, cells)
    mass = np.sum(measure, axis=1)
    mean = np.sum(measure * _level(problem, cells.rho), axis=1) / mass
    blocks = isotonic_regression(mean, weights=mass, increasing=problem.monotone == "increasing").blocks
    pools = [
        _refine(problem, cells.edges, int(first), int(last))
        for first, last in itertools.pairwise(blocks)
        if last - first > 1
    ]
    return Envelope(problem, tuple(pools))


def _level(problem: Problem, rho: NDArray[np.float64]) -> NDArray[np.float64]:
    """fρ^2m: what is pooled."""
    cost = problem.cost_density(rho)
    return cost * rho ** (2 * problem.tilt) if problem.tilt else cost


def _measure(problem: Problem, points: Panels) -> NDArray[np.float64]:
    """ρ^-m dm: the measure that it is pooled in."""
    return points.weight * points.rho**-problem.tilt if problem.tilt else points.weight


def _grid_width(problem: Problem) -> float:
    return min(GRID_WIDTH, log_odds_distance(problem.start, problem.target) / GRID_CELLS)


def _refine(problem: Problem, edges: NDArray[np.float64], first: int, last: int) -> Pool:
    """Solve for the pool around cells first..last-1: f̂ = mean of f over it = f at each end that is free to move."""
    left, right = float(edges[first]), float(edges[last])
    # f passes the level rising where it must rise, and between its extrema inside the pool it turns: leave these out.
    sign = 1 if problem.monotone == "increasing" else -1
    f_left, f_right = (float(_level(problem, np.asarray(end))) for end in (left, right))
    points = problem.panels(between=(left, right)) if left < right else None
    if points is None:  # cells between the same two floats
        return Pool(left, right, f_left)
    measure = _measure(problem, points)
    value = float(np.sum(measure * _level(problem, points.rho)) / np.sum(measure))
    # At start and target too the pool ends inside the cell where f is beyond the level.
    free_left = first > 0 or sign * (f_left - value) < 0
    free_right = last < len(edges) - 1 or sign * (f_right - value) > 0
    near_left = _up_to_largest(problem, sign, edges[max(first - 2, 0)], edges[min(first + 2, last)])
    near_right = _from_smallest(problem, sign, edges[max(last - 2, first)], edges[min(last + 2, len(edges) - 1)])

    def ends(level: float) -> tuple[float, float]:
        return (
            _crossing(problem, level, *near_left) if free_left else left,
            _crossing(problem, level, *near_right) if free_right else right,
        )

    def excess(level: float) -> float:
        at = ends(level)
        if not at[0] < at[1]:  # no float between them
            return 0.0
        points = problem.panels(between=at)
        return float(np.sum(_measure(problem, points) * (_level(problem, points.rho) - level)))

    if free_left or free_right:
        at_ends = [_level(problem, np.asarray(x)) for near in (near_left, near_right) for x in near]
        low, high = min(value, *map(float, at_ends)), max(value, *map(float, at_ends))
        # `excess` falls as the level rises, since f = level at both moving ends.
        if excess(low) > 0 > excess(high):
            value = find_root(excess, low, high)
            left, right = ends(value)
    return Pool(left, right, value)


def _up_to_largest(problem: Problem, sign: int, low: float, high: float) -> tuple[float, float]:
    """[low, high] cut where sign·f is largest."""
    points = np.linspace(low, high, SAMPLES)
    return float(low), float(points[np.argmax(sign * _level(problem, points))])


def _from_smallest(problem: Problem, sign: int, low: float, high: float) -> tuple[float, float]:
    """[low, high] cut where sign·f is smallest."""
    points = np.linspace(low, high, SAMPLES)
    return float(points[np.argmin(sign * _level(problem, points))]), float(high)


def _crossing(problem: Problem, level: float, low: float, high: float) -> float:
    """Where f, monotone on [low, high], equals `level`; the nearer end if it does not."""

    def gap(rho: float) -> float:
        return float(_level(problem, np.asarray(rho))) - level

    at_low, at_high = gap(low), gap(high)
    if at_low * at_high >= 0:
        return low if abs(at_low) < abs(at_high) else high
    return find_root(gap, low, high)


def _extrema(problem: Problem) -> tuple[float, ...]:
    """Local extrema of f inside (start, target), those at kinks only roughly."""
    rho = problem.panels(width=8 * _grid_width(problem)).rho.ravel()
    rho = np.concatenate([[problem.start], rho, [problem.target]])
    slope = np.diff(np.log(problem.cost_density(rho)))
    moving = np.flatnonzero(np.abs(slope) > EXTREMUM_NOISE)
    turns = np.flatnonzero(np.diff(np.sign(slope[moving])))
    found = []
    for turn in turns:
        low, high = rho[moving[turn]], rho[moving[turn + 1] + 1]
        sign = 1 if slope[moving[turn]] < 0 else -1
        found.append(
            minimize_scalar(
                lambda x, sign=sign: sign * float(problem.cost_density(np.asarray(x))),
                bounds=(low, high),
                method="bounded",
                options={"xatol": 1e-9 * (high - low)},
            ).x
        )
    return tuple(sorted(float(x) for x in found))


def find_root(function: Callable[[float], float], low: float, high: float, within: float = 1e-300) -> float:
    """Root of a function between two points where its signs differ, to rounding or `within` (Brent's method)."""
    return float(brentq(function, low, high, xtol=within, rtol=RTOL))  # pyright: ignore[reportArgumentType]
