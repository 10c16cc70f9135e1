"""How fast can a population be at best: lower bounds over all weights, prompt by prompt and step by step.

Regular clock. Time at unit budget is path length (`theory.step_budgets`), so the optimum is the distance L(m) from the
start to {mean ρ ≥ m}. By Lagrangian duality, for every price λ ≥ 0,

    L(m)^p ≥ λ m + mean over prompts of min over x of (|x - x_i|^p - λ ρ(x)),

whose inner minimum is found prompt by prompt, all its candidates examined:

    weight   x = logit r with r(1-r) = 1/λ, r > ½, for the prompts it pays for (the easiest), the rest stays
    kl       x - φ_i = (λ/4) sin x, one root: x - (λ/4) sin x is convex on [0, π] and below φ_i at φ_i
    square   x - θ_i = (λ/2) ρ(1-ρ), up to three roots, the outer two local minima

For kl the minimiser moves continuously with λ and the bound is the distance itself. For the other two it may jump for
one rate at a time: with n prompts bound and distance then differ by about 1/n, and by nothing if prompts may be split.

Effective clock. A unit of update time costs C = mean 1/ρ_i over all prompts: each is drawn until it succeeds once. So
time is ∫ C dℓ along the path. After length ℓ the cost is at least C_min(ℓ) = min of mean 1/ρ within distance ℓ of the
start, and any path to the target has length ≥ L(m): hence

    S ≥ ∫ from 0 to L(m) of C_min(ℓ) dℓ,

a bound, not in general the optimum: it lets the same steps go for the hardest prompts and for the mean success.
1/ρ = 1 + e^-θ = 1/sin²(φ/2) is convex in the coordinate, so C_min is the value of a convex program, convex in ℓ, and
tangents integrate it from below. How much it may give away is shown by a schedule of weights by prompt and step that is
actually walked: first the clock is eased along the frontier C_min, then the population goes straight for the target.
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

from theory.step_budgets import StepBudget

Array = NDArray[np.float64]
GRAIN = 200  # prompts that a population is taken to have at least, for a schedule
LONGEST = 100  # steps to a root, of which Newton's method takes about eight and halving an interval 60
ROUNDING = 4e-15  # relative length of a last step, after which Newton's method has all digits
NEAREST = 1e-4  # length of the first of them over that of the last, at most
RANKS = 240  # points on the frontier of the effective clock
PIECES = 200  # pieces of a schedule's last, straight leg


@dataclasses.dataclass(frozen=True)
class Bound:
    """Least time at unit budget over all weights.

    Attributes
    ----------
    lower
        Proven: no weights, whether shared or by prompt and step, are faster.
    schedule
        Time of an actual schedule of weights by prompt and step, ≥ lower.
    exact
        Whether `lower` is the optimum itself when prompts may be split (regular clock), or only a bound.
    """

    lower: float
    schedule: float
    exact: bool


class Crowd(NamedTuple):
    """Where the prompts are, and in what norm one goes from there."""

    budget: StepBudget
    start: Array  # (n,) coordinates, rising
    share: Array  # (n,) sum 1

    def length(self, change: Array) -> Array:
        """Norm over the last axis."""
        return self.budget.norm(change, self.share)

    def mean(self, x: Array) -> Array:
        """Mean success at coordinates x, over the last axis."""
        return self.budget.success(x) @ self.share

    def cost(self, x: Array) -> Array:
        """C = mean 1/ρ at coordinates x, over the last axis."""
        return (1 / self.budget.success(x)) @ self.share


def shortest_time(
    budget: StepBudget, theta: Array, share: Array, target: float, clock: str, *, scheduled: bool = True
) -> Bound:
    """Bound the time to mean success `target` from below by duality and from above by a schedule.

    Parameters
    ----------
    budget
        The norm in which a step is charged, and its coordinates.
    theta, share
        Shape (n,). Log-odds at the start, rising, and the share of each in the population; the mean success is below
        the target.
    target
        In (0, 1).
    clock
        "regular" or "effective".
    scheduled
        Whether to look for a schedule; without one it is stated to take infinitely long.
    """
    # A schedule may treat prompts of equal success differently: none stands for more than 1/GRAIN of the population.
    parts = np.maximum(1, np.ceil(share * GRAIN)).astype(int) if scheduled else np.ones(theta.size, dtype=int)
    crowd = Crowd(budget, budget.coordinate(np.repeat(theta, parts)), np.repeat(share / parts, parts))
    lower, end = nearest(crowd, target)
    length, effective = _leg(crowd, crowd.start, end, target) if scheduled else (math.inf, math.inf)
    if clock == "regular":
        # Not above the schedule by more than rounding; a lower bound may always be lowered.
        return Bound(min(lower, length), length, True)
    frontier = _frontier(crowd, lower)
    below = _below(frontier, lower)
    schedule = _two_legs(crowd, target, frontier, effective) if scheduled else math.inf
    return Bound(min(below, schedule), schedule, False)


def nearest(crowd: Crowd, target: float) -> tuple[float, Array]:
    """The dual bound on the distance to {mean ρ ≥ target}, and a point of that set about as near.

    Returns
    -------
    bound : float
        No point with mean ρ ≥ target is nearer.
    end : ndarray
        Shape (n,). Coordinates of a point with mean ρ ≥ target.
    """

    def excess(log_price: float) -> float:
        return float(crowd.mean(_lifted(crowd, math.exp(log_price)))) - target

    if crowd.mean(crowd.start) >= target:
        return 0.0, crowd.start
    low = high = 0.0
    while excess(low) >= 0:
        low -= 4.0
    while excess(high) < 0:
        high += 4.0
    # Where a prompt jumps there is no root: the method then closes in on the jump.
    middle = crossing(excess, low, high)
    below, above = middle - 1e-12, middle + 1e-12
    prices = [math.exp(log_price) for log_price in (below, middle, above)]
    bound = max(_dual(crowd, target, price) for price in prices)
    return bound ** (1 / crowd.budget.exponent), _fill(crowd, target, prices[0], _above(excess, above))


def crossing(function: Callable[[float], float], low: float, high: float, within: float = 1e-13) -> float:
    """Where a rising function, be it by a jump, passes 0 between two points of different sign (Brent's method)."""
    return float(brentq(function, low, high, xtol=within, rtol=1e-15, maxiter=500))  # pyright: ignore[reportArgumentType]


def _above(excess: Callable[[float], float], log_price: float) -> float:
    """A price just above the root at which the target is met."""
    step = 1e-12
    while excess(log_price) < 0:
        log_price += step
        step *= 2
    return math.exp(log_price)


def _fill(crowd: Crowd, target: float, below: float, above: float) -> Array:
    """Between two prices let as few prompts jump as the target needs, the easiest first."""
    short, enough = _lifted(crowd, below), _lifted(crowd, above)
    end = enough.copy()
    for k in np.flatnonzero(enough - short > 1e-6):  # harder ones, which come first, stay if the others suffice
        end[k] = short[k]
        if crowd.mean(end) < target:
            end[k] = enough[k]
            break
    return end


def _dual(crowd: Crowd, target: float, price: float) -> float:
    end = _lifted(crowd, price)
    least = np.abs(end - crowd.start) ** crowd.budget.exponent - price * crowd.budget.success(end)
    return max(0.0, price * target + float(least @ crowd.share))


def _lifted(crowd: Crowd, price: float) -> Array:
    """Each prompt's minimiser of |x - x_i|^p - λ ρ(x) over x ≥ x_i, the largest if there are several."""
    budget, start, _ = crowd
    if budget.exponent == 1:
        if price <= 4:
            return start.copy()
        root = math.sqrt(1 - 4 / price)
        level = math.log((1 + root) ** 2 * price / 4)  # logit of (1+root)/2, without cancellation
        pays = (start < level) & (level - start <= price * (expit(level) - expit(start)))
        return np.where(pays, level, start)
    if budget.coordinate_name == "angle":
        quarter = price / 4

        def pull(x: Array) -> tuple[Array, Array]:
            return x - start - quarter * np.sin(x), 1 - quarter * np.cos(x)

        return _root(pull, start, np.full_like(start, math.pi))
    half = price / 2

    def slope(x: Array) -> tuple[Array, Array]:
        rho, failure = expit(x), expit(-x)
        bend = half * rho * failure
        return x - start - bend, 1 - bend * (failure - rho)

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
    ends = crossing(excess, 0.0, peak, 1e-300), crossing(excess, peak, 0.5)
    return math.log(ends[0] / (1 - ends[0])), math.log(ends[1] / (1 - ends[1]))


def _root(function: Callable[[Array], tuple[Array, Array]], low: Array, high: Array) -> Array:
    """Where functions that rise through 0 between low and high do so, one for each entry, exact to rounding.

    Newton's method, and the middle of the interval where it leaves that or does not halve its step. `function` gives
    value and slope. A root that is not there ends at the edge of its interval.
    """
    x, last = (low + high) / 2, high - low
    for _ in range(LONGEST):
        value, slope = function(x)
        under = value < 0
        low, high = np.where(under, x, low), np.where(under, high, x)
        step = np.divide(-value, slope, out=np.full_like(x, np.inf), where=slope > 0)
        ahead, length = x + step, np.abs(step)
        there = length <= ROUNDING * np.abs(x)
        newton = (ahead >= low) & (ahead <= high) & (2 * length <= last)
        ahead = np.where(newton | there, ahead, (low + high) / 2)
        last = np.where(there, 0.0, np.abs(ahead - x))
        x = ahead
        if not np.any(last):
            break
    return np.clip(x, low, high)


class _Frontier(NamedTuple):
    """Least cost within a length: points, their lengths and costs, and the slopes of least cost over length."""

    point: Array  # (k, n)
    length: Array  # (k,) rising from 0
    cost: Array  # (k,)
    slope: Array  # (k,) negative


def _frontier(crowd: Crowd, length: float) -> _Frontier:
    """Points of least mean 1/ρ within a distance of the start, up to a length that reaches `length`."""
    start = crowd.start
    if crowd.budget.exponent == 1:
        # The hardest first, all to one level: the level is what parametrises the frontier.
        levels = start[0] + np.linspace(0, 1, RANKS) * (_level(crowd, length) - start[0])
        points = np.maximum(start, levels[:, None])
        return _Frontier(points, crowd.length(points - start), crowd.cost(points), -np.exp(-levels))

    def past(log_level: float) -> float:
        return float(crowd.length(_eased(crowd, math.exp(log_level)) - start)) - length

    low = -8.0
    while past(low) >= 0:
        low -= 4.0
    high = low
    while past(high) < 0:
        high += 2.0
    high = crossing(past, low, high)
    # Lengths grow about linearly in the multiplier at first and then like its logarithm; with very hard prompts the
    # cost falls steeply at once, and the first point has to be that much closer.
    span = 16.0
    while span < 80 and past(high - span) > (NEAREST - 1) * length:
        span += 8.0
    levels = np.exp(high + np.linspace(-span, 1e-9, RANKS))
    points = np.vstack([start, _eased(crowd, levels[:, None])])
    lengths = crowd.length(points - start)
    # d(least cost)/dℓ = -α p ℓ^(p-1) with 1/(pα) = level; at the start its limit, the gradient's norm.
    slope = -lengths[1:] / levels
    steepest = -float(crowd.length(_steepness(crowd.budget, start)))
    return _Frontier(points, lengths, crowd.cost(points), np.concatenate([[steepest], slope]))


def _level(crowd: Crowd, length: float) -> float:
    """The level to which a mean rise of `length` lifts the lowest prompts."""
    filled = (length + np.cumsum(crowd.share * crowd.start)) / np.cumsum(crowd.share)  # if the lowest k shared it
    nexts = np.append(crowd.start[1:], math.inf)
    return float(filled[np.argmax(filled <= nexts)])


def _steepness(budget: StepBudget, x: Array) -> Array:
    """-d(1/ρ)/dx."""
    if budget.coordinate_name == "log-odds":
        return np.exp(-x)
    return np.cos(x / 2) / np.sin(x / 2) ** 3


def _eased(crowd: Crowd, level: float | Array) -> Array:
    """Each prompt's minimiser of 1/ρ(x) + (x - x_i)²/(2 level): x - x_i = level·steepness(x)."""
    start = crowd.start + np.zeros_like(level)
    if crowd.budget.coordinate_name == "log-odds":
        return start + np.real(lambertw(level * np.exp(-start)))

    def pull(x: Array) -> tuple[Array, Array]:
        sine, cosine = np.sin(x / 2), np.cos(x / 2)
        steep = cosine / sine**3  # `_steepness`; its slope is -(1/2)(1/sin² + 3 cos²/sin⁴)
        return x - start - level * steep, 1 + level * (0.5 / sine**2 + 1.5 * (cosine / sine**2) ** 2)

    return _root(pull, start, np.full_like(start, math.pi))


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
    return float(total)


def _leg(crowd: Crowd, start: Array, end: Array, target: float) -> tuple[float, float]:
    """Length and effective time of a leg to `end`, stopped where mean ρ reaches the target.

    Under the mean weight every order of lifting has the same length, and the hardest first is the cheapest; else
    straight. 1/ρ is convex along every piece, so the trapezoidal rule states no less than the time taken.
    """
    share = np.linspace(0, 1, PIECES + 1)[:, None]
    if crowd.budget.exponent == 1:
        path = np.clip(start[0] + share * (np.max(end) - start[0]), start, end)
    else:
        path = start + share * (end - start)
    mean = crowd.mean(path)
    last = int(np.argmax(mean >= target)) if mean[-1] >= target else PIECES
    if last > 0 and mean[last] > target > mean[last - 1]:
        left, right = path[last - 1], path[last]

        def excess(part: float) -> float:
            return float(crowd.mean(left + part * (right - left))) - target

        path[last] = left + crossing(excess, 0.0, 1.0, 1e-15) * (right - left)
    pieces, cost = crowd.length(np.diff(path[: last + 1], axis=0)), crowd.cost(path[: last + 1])
    return float(np.sum(pieces)), float(np.sum(pieces * (cost[1:] + cost[:-1]) / 2))


def _two_legs(crowd: Crowd, target: float, frontier: _Frontier, straight: float) -> float:
    """Effective time of an actual schedule: ease the clock along the frontier, then go straight for the target."""
    pieces = crowd.length(np.diff(frontier.point, axis=0))
    walked = np.concatenate([[0.0], np.cumsum(pieces * (frontier.cost[1:] + frontier.cost[:-1]) / 2)])
    # Beyond `last` the frontier itself has met the target.
    last = max(int(np.searchsorted(crowd.mean(frontier.point), target)) - 1, 0)

    def time(rank: float) -> float:
        at = min(max(round(rank), 0), last)
        point = np.sort(frontier.point[at])
        _, end = nearest(crowd._replace(start=point), target)
        return float(walked[at]) + _leg(crowd, point, end, target)[1]

    # The time falls and then rises, roughly; any rank will do.
    between = minimize_scalar(time, bounds=(0, last), method="bounded", options={"xatol": 1}) if last > 0 else None
    return min([straight, time(0), time(last), *([] if between is None else [float(between.fun)])])
