"""How fast can a population be at best: lower bounds over all weights, prompt by prompt and step by step.

Regular clock. Time at unit budget is path length (`theory.population`), so the optimum is the distance L(m) from the
start to {mean ρ ≥ m}. By Lagrangian duality, for every price λ ≥ 0,

    L(m)^p ≥ λ m + mean over prompts of min over x of (|x - x_i|^p - λ ρ(x)),

whose inner minimum is found prompt by prompt, all its candidates examined:

    weight   x = logit r with r(1-r) = 1/λ, r > ½, for the prompts it pays for (the easiest), the rest stays
    kl       x - φ_i = (λ/4) sin x, one root: x - (λ/4) sin x is convex on [0, π] and below φ_i at φ_i
    square   x - θ_i = (λ/2) ρ(1-ρ), up to three roots, the outer two local minima

For kl the minimiser moves continuously with λ and the bound is the distance itself. For the other two it may jump for a
prompt at a time: with n prompts bound and distance differ by about 1/n, and by nothing if prompts may be split.

Effective clock. A unit of update time costs C = mean 1/ρ_i over all prompts: each is drawn until it succeeds once. So
time is ∫ C dℓ along the path. After length ℓ the cost is at least C_min(ℓ) = min of mean 1/ρ within distance ℓ of the
start, and any path to the target has length ≥ L(m): hence

    S ≥ ∫ from 0 to L(m) of C_min(ℓ) dℓ,

a bound, not in general the optimum: it lets the same steps go for the hardest prompts and for the mean success.
1/ρ = 1 + e^-θ = 1/sin²(φ/2) is convex in the coordinate, so C_min is the value of a convex program, convex in ℓ, and
tangents integrate it from below. Weights are non-negative: no prompt is made harder.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq, minimize_scalar
from scipy.special import expit, lambertw

from theory.population import StepBudget

Array = NDArray[np.float64]
BISECTIONS = 60  # of an interval of length π or a few tens: exact to rounding
RANKS = 160  # points on the frontier of the effective clock
PIECES = 200  # pieces of a schedule's last, straight leg


@dataclasses.dataclass(frozen=True)
class Bound:
    """Least time at unit budget over all weights.

    Attributes
    ----------
    lower : float
        Proven: no weights, whether shared or by prompt and step, are faster.
    schedule : float
        Time of an actual schedule of weights by prompt and step, ≥ lower.
    exact : bool
        Whether `lower` is the optimum itself when prompts may be split (regular clock), or only a bound.
    """

    lower: float
    schedule: float
    exact: bool


def shortest_time(budget: StepBudget, rates: Array, target: float, clock: str) -> Bound:
    """Bound the time to mean success `target` from below by duality and from above by a schedule.

    Parameters
    ----------
    budget : StepBudget
    rates : ndarray, shape (n,), increasing, in (0, 1)
        Success probability of each prompt at the start; the mean is below the target.
    target : float
        In (0, 1).
    clock : {"regular", "effective"}
    """
    start = budget.coordinate(rates)
    lower, end = nearest(budget, start, target)
    straight = _leg(budget, start, end, target)
    if clock == "regular":
        # Not above the schedule by more than rounding; a lower bound may always be lowered.
        return Bound(min(lower, straight[0]), straight[0], True)
    frontier = _frontier(budget, start, lower)
    return Bound(_below(frontier, lower), _two_legs(budget, start, target, frontier, straight[1]), False)


def success(budget: StepBudget, x: Array) -> Array:
    """ρ at coordinate x."""
    return expit(x) if budget.coordinate_name == "log-odds" else np.sin(x / 2) ** 2


def nearest(budget: StepBudget, start: Array, target: float) -> tuple[float, Array]:
    """The dual bound on the distance to {mean ρ ≥ target}, and a point of that set about as near.

    Parameters
    ----------
    budget : StepBudget
    start : ndarray, shape (n,)
        Coordinates, increasing, at which mean ρ is below the target.
    target : float

    Returns
    -------
    bound : float
        No point with mean ρ ≥ target is nearer.
    end : ndarray, shape (n,)
        Coordinates of a point with mean ρ ≥ target.
    """

    def excess(log_price: float) -> float:
        return float(np.mean(success(budget, _lifted(budget, start, math.exp(log_price))))) - target

    low = high = 0.0
    while excess(low) >= 0:
        low -= 4.0
    while excess(high) < 0:
        high += 4.0
    # Where a prompt jumps there is no root: the method then closes in on the jump.
    middle = brentq(excess, low, high, xtol=1e-13, rtol=1e-14)
    below, above = middle - 1e-12, middle + 1e-12
    prices = [math.exp(log_price) for log_price in (below, middle, above)]
    bound = max(_dual(budget, start, target, price) for price in prices)
    return bound ** (1 / budget.exponent), _fill(budget, start, target, prices[0], _above(excess, above))


def _above(excess: Callable[[float], float], log_price: float) -> float:
    """A price just above the root at which the target is met."""
    step = 1e-12
    while excess(log_price) < 0:
        log_price += step
        step *= 2
    return math.exp(log_price)


def _fill(budget: StepBudget, start: Array, target: float, below: float, above: float) -> Array:
    """Between two prices let as few prompts jump as the target needs, the easiest first."""
    short, enough = _lifted(budget, start, below), _lifted(budget, start, above)
    end = enough.copy()
    for k in range(start.size):  # the harder ones, which come first, stay where they are if the others suffice
        if enough[k] - short[k] > 1e-6:
            end[k] = short[k]
            if np.mean(success(budget, end)) < target:
                end[k] = enough[k]
                break
    return end


def _dual(budget: StepBudget, start: Array, target: float, price: float) -> float:
    end = _lifted(budget, start, price)
    gain = np.abs(end - start) ** budget.exponent - price * success(budget, end)
    return max(0.0, price * target + float(np.mean(gain)))


def _lifted(budget: StepBudget, start: Array, price: float) -> Array:
    """Each prompt's minimiser of |x - x_i|^p - λ ρ(x) over x ≥ x_i, the largest if there are several."""
    if budget.name == "weight":
        if price <= 4:
            return start.copy()
        root = math.sqrt(1 - 4 / price)
        level = math.log((1 + root) ** 2 * price / 4)  # logit of (1+root)/2, without cancellation
        pays = (start < level) & (level - start <= price * (expit(level) - expit(start)))
        return np.where(pays, level, start)
    if budget.name == "kl":
        return _root(lambda x: x - start - price / 4 * np.sin(x), start, np.full_like(start, math.pi))
    half = price / 2

    def slope(x: Array) -> Array:
        return x - start - half * expit(x) * expit(-x)

    top = start + half / 4
    outer = _turns(half)
    if outer is None:
        return _root(slope, start, top)
    near = _root(slope, start, np.clip(outer[0], start, None))
    far = _root(slope, np.maximum(start, outer[1]), np.maximum(top, outer[1]))
    # A root that is not there ends at the edge of its interval, where the comparison below is still valid.
    cost = [(x - start) ** 2 - price * expit(x) for x in (near, far)]
    return np.where(cost[1] <= cost[0], far, near)


def _turns(half: float) -> tuple[float, float] | None:
    """Log-odds between which x - θ - half·ρ(1-ρ) falls: half·ρ(1-ρ)(1-2ρ) = 1 has two roots below ½, or none."""
    peak = (3 - math.sqrt(3)) / 6  # of ρ(1-ρ)(1-2ρ)

    def excess(rho: float) -> float:
        return half * rho * (1 - rho) * (1 - 2 * rho) - 1

    if excess(peak) <= 0:
        return None
    ends = brentq(excess, 0.0, peak, xtol=1e-300), brentq(excess, peak, 0.5)
    return math.log(ends[0] / (1 - ends[0])), math.log(ends[1] / (1 - ends[1]))


def _root(function: Callable[[Array], Array], low: Array, high: Array) -> Array:
    """Where functions that rise through 0 between low and high do so, one for each entry, by bisection."""
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        under = function(middle) < 0
        low, high = np.where(under, middle, low), np.where(under, high, middle)
    return (low + high) / 2


class _Frontier(NamedTuple):
    """Least cost within a length: points, their lengths and costs, and the slopes of least cost over length."""

    point: Array  # (k, n)
    length: Array  # (k,) rising from 0
    cost: Array  # (k,)
    slope: Array  # (k,) negative


def _cost(budget: StepBudget, x: Array) -> Array:
    """C = mean 1/ρ over the last axis."""
    return np.mean(1 / success(budget, x), axis=-1)


def _frontier(budget: StepBudget, start: Array, length: float) -> _Frontier:
    """Points of least mean 1/ρ within a distance of the start, up to a length that reaches `length`."""

    def past(log_level: float) -> float:
        return float(budget.norm(_eased(budget, start, math.exp(log_level)) - start)) - length

    if budget.exponent == 1:
        # The hardest first, all to one level: the level is what parametrises the frontier.
        levels = start[0] + np.linspace(0, 1, RANKS) * (float(_level(start, length)) - start[0])
        points = np.maximum(start, levels[:, None])
        return _Frontier(points, budget.norm(points - start), _cost(budget, points), -np.exp(-levels))
    low = -8.0
    while past(low) >= 0:
        low -= 4.0
    high = low
    while past(high) < 0:
        high += 2.0
    high = brentq(past, low, high)
    # Lengths grow about linearly in the multiplier at first and then like its logarithm.
    levels = np.exp(high + np.linspace(-16, 1e-9, RANKS))
    points = np.stack([start, *(_eased(budget, start, float(level)) for level in levels)])
    lengths = budget.norm(points - start)
    # d(least cost)/dℓ = -α p ℓ^(p-1) with 1/(pα) = level; at the start its limit, the gradient's norm.
    slope = -lengths[1:] / levels
    steepest = -float(budget.norm(_steepness(budget, start)))
    return _Frontier(points, lengths, _cost(budget, points), np.concatenate([[steepest], slope]))


def _level(start: Array, length: float) -> float:
    """The level to which a total rise of n·length lifts the lowest entries."""
    count = np.arange(1, start.size + 1)
    filled = (length * start.size + np.cumsum(start)) / count  # if the count lowest shared it
    nexts = np.append(start[1:], math.inf)
    return float(filled[np.argmax(filled <= nexts)])


def _steepness(budget: StepBudget, x: Array) -> Array:
    """-d(1/ρ)/dx."""
    if budget.coordinate_name == "log-odds":
        return np.exp(-x)
    return np.cos(x / 2) / np.sin(x / 2) ** 3


def _eased(budget: StepBudget, start: Array, level: float) -> Array:
    """Each prompt's minimiser of 1/ρ(x) + (x - x_i)²/(2 level): x - x_i = level·steepness(x)."""
    if budget.coordinate_name == "log-odds":
        with np.errstate(over="ignore"):
            return start + np.real(lambertw(level * np.exp(-start)))
    return _root(lambda x: x - start - level * _steepness(budget, x), start, np.full_like(start, math.pi))


def _below(frontier: _Frontier, length: float) -> float:
    """∫ C_min from 0 to `length`, from below: over each piece the larger of the tangents at its two ends."""
    total = 0.0
    ends = zip(frontier.length, frontier.cost, frontier.slope, strict=True)
    at, cost, slope = next(ends)
    for next_at, next_cost, next_slope in ends:
        right = min(next_at, length)
        if right > at:
            # The tangents cross where both give the same value.
            gap = cost + slope * (next_at - at) - next_cost
            bend = slope - next_slope
            cross = min(max(next_at + (-gap / bend if bend < 0 else 0.0), at), right)
            for left_end, right_end, tangent in (
                (at, cross, (at, cost, slope)),
                (cross, right, (next_at, next_cost, next_slope)),
            ):
                middle = (left_end + right_end) / 2
                total += (right_end - left_end) * (tangent[1] + tangent[2] * (middle - tangent[0]))
        at, cost, slope = next_at, next_cost, next_slope
    return total


def _leg(budget: StepBudget, start: Array, end: Array, target: float) -> tuple[float, float]:
    """Length and effective time of a leg to `end`, stopped where mean ρ reaches the target.

    Under the mean weight every order of lifting has the same length, and the hardest first is the cheapest; else
    straight. 1/ρ is convex along every piece, so the trapezoidal rule states no less than the time taken.
    """
    share = np.linspace(0, 1, PIECES + 1)[:, None]
    if budget.exponent == 1:
        path = np.clip(start[0] + share * (np.max(end) - start[0]), start, end)
    else:
        path = start + share * (end - start)
    mean = np.mean(success(budget, path), axis=-1)
    last = int(np.argmax(mean >= target)) if mean[-1] >= target else PIECES
    if mean[last] > target and last > 0:
        left, right = path[last - 1], path[last]

        def excess(part: float) -> float:
            return float(np.mean(success(budget, left + part * (right - left)))) - target

        path[last] = left + brentq(excess, 0.0, 1.0, xtol=1e-15) * (right - left)
    path = path[: last + 1]
    return _walk(budget, path)


def _walk(budget: StepBudget, path: Array) -> tuple[float, float]:
    """Length of a path of straight pieces, and its effective time from above; path of shape (k, n)."""
    pieces = budget.norm(np.diff(path, axis=0))
    cost = _cost(budget, path)
    return float(np.sum(pieces)), float(np.sum(pieces * (cost[1:] + cost[:-1]) / 2))


def _two_legs(budget: StepBudget, start: Array, target: float, frontier: _Frontier, straight: float) -> float:
    """Effective time of an actual schedule: ease the clock along the frontier, then go straight for the target."""
    walked = np.concatenate(
        [
            [0.0],
            np.cumsum(budget.norm(np.diff(frontier.point, axis=0)) * (frontier.cost[1:] + frontier.cost[:-1]) / 2),
        ]
    )
    mean = np.mean(success(budget, frontier.point), axis=-1)
    last = int(np.searchsorted(mean, target)) - 1  # beyond it the frontier itself has met the target

    def time(rank: float) -> float:
        at = min(max(round(rank), 0), last)
        point = frontier.point[at]
        _, end = nearest(budget, point, target)
        return float(walked[at]) + _leg(budget, point, end, target)[1]

    best = minimize_scalar(time, bounds=(0, last), method="bounded", options={"xatol": 1.0, "maxiter": 20})
    return min(straight, float(best.fun), time(last))
