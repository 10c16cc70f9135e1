"""The finite problem: one weight for each of n cells of success probability.

    minimise Σ cost_i/w_i   over w > 0   subject to Σ mass_i w_i = budget and constraints on w.

It is exact for weightings that are constant on given bins, and what a discretisation of any other weighting leads to.
Four methods, the most direct that fits: the formula w ∝ √(cost/mass); water-filling for bounds, by sorting;
isotonic regression for monotone weights, clipped where both are asked for; and the interior-point method of
`weightopt.curves.interior_point` for everything else, O(n) a step.

Lower bound, from duality and nothing else: for λ ≥ 0, any ζ on the differences and ratio prices α, β ≥ 0 with
Σα = R Σβ, every feasible w has

    Σ cost/w ≥ Σ_i min over v in [lower, upper] of (cost_i/v + g_i v) - λ budget - Σ_i max(low_i ζ_i, high_i ζ_i)

with g_i = λ mass_i + ζ_{i-1} - ζ_i + β_i - α_i.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from weightopt.curves.interior_point import Limits, Prices, Terms, interior_point

Array = NDArray[np.float64]
Monotone = Literal["decreasing", "increasing"]
AIM = 1e-12  # the gap at which the interior-point method stops


@dataclasses.dataclass(frozen=True, eq=False)
class CellProgram:
    """Minimise Σ cost/w subject to Σ mass·w = budget and constraints.

    Parameters
    ----------
    cost, mass
        Shape (n,), positive. ∫ c/κ dρ over each cell, and the budget that weight 1 spends there.
    budget
        Positive.
    lower, upper
        Bounds on every weight, 0 ≤ lower ≤ mean weight ≤ upper ≤ ∞.
    monotone
        None, "decreasing" or "increasing".
    rise
        Shape (n-1,), or float. Largest change between neighbouring cells, ≥ 0, ∞ for no bound.
    max_ratio
        Largest weight over smallest weight, from 1 to ∞.

    Raises
    ------
    ValueError
        If a parameter is out of range. The constant weight then meets everything, so a valid program has an answer.
    """

    cost: Array
    mass: Array
    budget: float = 1.0
    lower: float = 0.0
    upper: float = math.inf
    monotone: Monotone | None = None
    rise: Array | float = math.inf
    max_ratio: float = math.inf
    mean: float = dataclasses.field(init=False)  # weight

    def __post_init__(self) -> None:
        cost, mass = np.asarray(self.cost, dtype=np.float64), np.asarray(self.mass, dtype=np.float64)
        if cost.ndim != 1 or cost.size < 1 or cost.shape != mass.shape:
            raise ValueError("cost and mass must be one number a cell, for at least one cell")
        # Not-a-number fails the first comparison, and an infinite entry makes the sum infinite.
        total = float(mass.sum())
        if not (cost.min() > 0 and mass.min() > 0 and cost.sum() < math.inf and total < math.inf):
            raise ValueError("cost and mass must be positive and finite")
        if not 0 < self.budget < math.inf:
            raise ValueError("the budget must be positive and finite")
        mean = self.budget / total
        for field, value in (("cost", cost), ("mass", mass), ("mean", mean)):
            object.__setattr__(self, field, value)
        if not 0 <= self.lower <= mean <= self.upper:
            raise ValueError(f"the bounds must leave room for the mean weight {mean:g}")
        if self.monotone not in (None, "decreasing", "increasing"):
            raise ValueError("monotone must be None, 'decreasing' or 'increasing'")
        if not self.max_ratio >= 1:
            raise ValueError("max_ratio must be at least 1")
        if isinstance(self.rise, np.ndarray) and self.rise.shape != (self.cost.size - 1,):
            raise ValueError("rise must be one number, or one a pair of neighbouring cells")
        least = float(self.rise.min(initial=math.inf)) if isinstance(self.rise, np.ndarray) else self.rise
        if not (least == math.inf or (least >= 0 and self.steepest < math.inf)):
            raise ValueError("rise must be non-negative, and finite for all differences or for none")

    @cached_property
    def steepest(self) -> float:
        """The largest of the bounds on changes, ∞ without any."""
        return float(np.max(self.rise, initial=0.0)) if isinstance(self.rise, np.ndarray) else float(self.rise)

    @cached_property
    def differences(self) -> tuple[Array | None, Array | None]:
        """Bounds (low, high) on w[i+1] - w[i], None on a side that is free."""
        if self.steepest == math.inf and self.monotone is None:
            return None, None
        rise = np.asarray(self.rise, dtype=np.float64)
        pairs = (self.cost.size - 1,)
        bound = None if self.steepest == math.inf else np.broadcast_to(rise, pairs)
        low = np.zeros(pairs) if self.monotone == "increasing" else None if bound is None else -bound
        high = np.zeros(pairs) if self.monotone == "decreasing" else bound
        return low, high

    def violation(self, weight: Array) -> float:
        """Largest violation of a constraint by weights of shape (n,), relative to the largest weight."""
        low, high = self.differences
        bounded = self.lower > 0 or self.upper < math.inf or self.max_ratio < math.inf
        if low is None and high is None and not bounded:
            return 0.0
        least, most = float(weight.min()), float(weight.max())
        worst = [0.0, self.lower - least, most - self.upper]
        if weight.size > 1 and not (low is None and high is None):
            change = weight[1:] - weight[:-1]
            worst += [] if low is None else [float((low - change).max())]
            worst += [] if high is None else [float((change - high).max())]
        if math.isfinite(self.max_ratio):
            worst.append((most - self.max_ratio * least) / self.max_ratio)
        return max(worst) / most


class CellSolution(NamedTuple):
    """Weights with their proof: no feasible weights have a time below ``lower_bound``.

    ``gap`` is (time - lower_bound)/lower_bound; ``violation`` the largest violation of a constraint, relative to the
    largest weight; the budget is met to rounding. ``prices`` are what the bound was made from.
    """

    weight: Array
    time: float
    lower_bound: float
    gap: float
    violation: float
    method: str
    prices: Prices


def solve_cells(program: CellProgram) -> CellSolution:
    """The weights of least time, by the most direct method that fits.

    Parameters
    ----------
    program
        Cells with their costs, masses and constraints.

    Returns
    -------
    CellSolution
        Whoever uses it looks at the gap: 1e-12 and better where the method is direct, and what the interior-point
        method reached otherwise.
    """
    n, steepest, mean = program.cost.size, program.steepest, program.mean
    bounded = program.lower > 0 or math.isfinite(program.upper)
    if n == 1 or program.max_ratio == 1 or steepest == 0 or mean in (program.lower, program.upper):
        return _finish(program, np.full(n, mean), _constant_prices(program, mean), "constant")
    if math.isfinite(program.max_ratio) or math.isfinite(steepest):
        return _interior(program)
    level = program.cost / program.mass
    if program.monotone is not None:
        level = isotonic_regression(level, weights=program.mass, increasing=program.monotone == "increasing").x
    root = np.sqrt(level)
    multiplier = program.budget / float(program.mass @ root)
    if bounded:
        multiplier = water_level(root, program.mass, program.budget, program.lower, program.upper)
    # The price of the differences is what isotonic regression moved: λ Σ (1 - cost/(mass f̂)) mass up to each cell.
    price = 1 / multiplier**2
    prices = Prices(price)
    if program.monotone is not None:
        difference = price * np.cumsum(program.mass - program.cost / level)[:-1]
        prices = Prices(
            price, np.maximum(difference, 0) if program.monotone == "decreasing" else np.minimum(difference, 0)
        )
    weight = multiplier * root
    if bounded:
        weight.clip(program.lower, program.upper, out=weight)
    method = {(False, False): "formula", (True, False): "water-filling", (False, True): "isotonic regression"}
    name = method.get((bounded, program.monotone is not None), "isotonic regression and water-filling")
    return _finish(program, weight, prices, name)


def bound_cells(program: CellProgram, prices: Prices) -> tuple[float, float]:
    """The lower bound of this module for any prices, and the sum of the sizes of all that it is a sum of.

    The second times the relative error of a number is how far rounding can have moved the first; the bound is 0 where
    the prices prove nothing.

    Parameters
    ----------
    program
        Cells with their costs, masses and constraints.
    prices
        λ, ζ, and the ratio's α and β, of which the larger sum is scaled down to fit; ``box`` is not needed.
    """
    dual = _dual(program, prices)
    if dual is None:
        return 0.0, 0.0
    bound, priced = dual.bound(program), np.zeros_like(program.mass)
    if dual.prices.ratio_low is not None and dual.prices.ratio_high is not None:
        priced += dual.prices.ratio_low + dual.prices.ratio_high
    if dual.prices.difference is not None:
        priced[1:] += np.abs(dual.prices.difference)
        priced[:-1] += np.abs(dual.prices.difference)
    best = dual.best(program)
    time, paid = program.cost / best, (np.abs(dual.pull) + priced) * best
    if dual.scalable(program):
        return bound, float(np.sum(time + paid)) * bound / float(np.sum(time)) + bound
    return bound, float(np.sum(time + paid)) + dual.spent


class _Dual(NamedTuple):
    """What prices ask of each weight, shape (n,), and what the constraints cost at them."""

    prices: Prices
    pull: Array
    positive: bool
    spent: float

    def scalable(self, program: CellProgram) -> bool:
        """Whether all prices may be scaled by one factor: without bounds on the weights."""
        return program.lower == 0 and math.isinf(program.upper)

    def best(self, program: CellProgram) -> Array:
        """The weights of least time and price."""
        if self.positive:
            best = np.sqrt(program.cost / self.pull)
        else:
            with np.errstate(divide="ignore", invalid="ignore"):
                best = np.where(self.pull > 0, np.sqrt(program.cost / self.pull), math.inf)
        return best if self.scalable(program) else best.clip(program.lower, program.upper, out=best)

    def bound(self, program: CellProgram) -> float:
        """The lower bound; with the best factor for the prices where they may be scaled."""
        if self.scalable(program):
            return float(np.sqrt(program.cost * self.pull).sum()) ** 2 / self.spent
        best = self.best(program)
        return float((program.cost / best + self.pull * best).sum()) - self.spent


def _dual(program: CellProgram, prices: Prices) -> _Dual | None:
    """None where the prices prove nothing."""
    if prices.ratio_low is not None and prices.ratio_high is not None:
        low, high = balanced(prices.ratio_low, prices.ratio_high, program.max_ratio)
        prices = prices._replace(ratio_low=low, ratio_high=high)
    spent = prices.budget * program.budget
    if prices.difference is not None:
        for side, sign in zip(program.differences, (-1, 1), strict=True):
            part = np.maximum(sign * prices.difference, 0)
            if side is None and np.any(part > 0):
                return None
            spent += 0.0 if side is None else sign * float(side @ part)
    pull = prices.pull(program.mass)
    dual = _Dual(prices, pull, bool(pull.min() > 0), spent)
    proves = (dual.positive or math.isfinite(program.upper)) and (spent > 0 or not dual.scalable(program))
    return dual if proves else None


def balanced(low: Array, high: Array, ratio: float, measure: Array | float = 1.0) -> tuple[Array, Array]:
    """Ratio prices α and β with ∫α = R ∫β, the larger side scaled down; both 0 where one of them is."""
    total_low, total_high = float(np.sum(measure * low)), float(np.sum(measure * high))
    if math.isinf(ratio) or total_low <= 0 or total_high <= 0:
        return np.zeros_like(low), np.zeros_like(high)
    factor = total_low / (ratio * total_high)
    return (low / factor, high) if factor > 1 else (low, high * factor)


def water_level(root: Array, mass: Array, budget: float, lower: float, upper: float) -> float:
    """μ with Σ mass·clip(μ root, lower, upper) = budget: Newton on a piecewise linear function, finite.

    Parameters
    ----------
    root, mass
        Shape (n,), positive.
    budget, lower, upper
        With lower·Σmass < budget < upper·Σmass.
    """

    spends = mass * root

    def excess(mu: float) -> tuple[float, float]:
        weight = mu * root
        inside = weight.clip(lower, upper)
        return float(mass @ inside) - budget, float(spends @ (inside == weight))

    return rising_root(excess, budget / float(mass @ root), 2e-15 * budget)


def rising_root(function: Callable[[float], tuple[float, float]], start: float, enough: float) -> float:
    """Where a rising function of a positive number is 0: Newton's method, kept inside a bracket.

    Parameters
    ----------
    function
        Value and slope; the slope may be 0 where the function is flat.
    start
        First guess, > 0.
    enough
        The value, ≥ 0, that counts as 0.
    """
    low, high, x = 0.0, math.inf, start
    for _ in range(200):
        value, slope = function(x)
        if abs(value) <= enough:
            break
        low, high = (low, x) if value > 0 else (x, high)
        step = x - value / slope if slope > 0 else math.nan
        if not low < step < high:
            step = math.sqrt(low * high) if low > 0 and high < math.inf else x * (2.0 if value < 0 else 0.5)
        if step == x:
            break
        x = step
    return x


def _constant_prices(program: CellProgram, mean: float) -> Prices:
    """Prices under which the constant weight is optimal where nothing else is feasible, or n = 1."""
    wanted = program.cost / mean**2  # what each cell would pay for weight
    price = float(np.sum(wanted) / np.sum(program.mass))
    missing = wanted - price * program.mass
    if program.max_ratio == 1:
        return Prices(price, ratio_low=np.maximum(-missing, 0), ratio_high=np.maximum(missing, 0))
    if mean == program.lower:
        return Prices(float(np.max(wanted / program.mass)))
    if mean == program.upper:
        return Prices(float(np.min(wanted / program.mass)))
    return Prices(price, -np.cumsum(missing)[:-1])


def _interior(program: CellProgram) -> CellSolution:
    """The interior-point method in units in which mean weight, total mass and the constant weight's time are 1."""
    mean, total = program.mean, float(program.mass.sum())
    constant = float(program.cost.sum())
    unit = constant / mean
    cost, mass = program.cost / constant, program.mass / total
    low, high = program.differences
    limits = Limits(
        None if low is None else low / mean,
        None if high is None else high / mean,
        program.lower / mean,
        program.upper / mean,
        program.max_ratio,
    )
    beside = np.zeros(cost.size - 1)
    best: list[CellSolution] = []

    def terms(w: Array) -> Terms:
        share = cost / w
        once = share / w
        return Terms(float(share.sum()), -once, 2 * once / w, beside)

    def judge(w: Array, prices: Prices) -> bool:
        # Back to the program's units: times are `unit`, weights `mean`, so prices of weights are unit/mean.
        scaled = prices.scaled(unit / program.budget, unit / mean)
        found = _finish(program, w * (program.budget / float(program.mass @ w)), scaled, "interior point")
        if not best or _merit(found) < _merit(best[0]):
            best[:] = [found]
        return _merit(best[0]) <= AIM

    interior_point(terms, mass, limits, judge)
    if not best:
        return _finish(program, np.full(cost.size, mean), _constant_prices(program, mean), "interior point")
    return best[0]


def _merit(found: CellSolution) -> float:
    """What is wrong with an iterate; its violation counts from where rounding ends."""
    return max(found.gap, found.violation * 1e-2)


def _finish(program: CellProgram, weight: Array, prices: Prices, method: str) -> CellSolution:
    time = float((program.cost / weight).sum())
    dual = _dual(program, prices)
    bound = 0.0 if dual is None else dual.bound(program)
    # A time below the bound by more than rounding would mean a wrong bound: it is charged, not called a gap of 0.
    gap = abs(time - bound) / bound if bound > 0 else math.inf
    return CellSolution(weight, time, bound, gap, program.violation(weight), method, prices)
