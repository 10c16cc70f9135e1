"""The problems of `benchmarks.solver`, each with its exact answer, computed here and not by our solver."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, brentq, isotonic_regression, minimize
from scipy.special import expit, logit
from scipy.stats import binom

from theory.finite_group import weight_speeds

Array = NDArray[np.float64]
START, TARGET, GROUP_SIZE, POINTS = 0.01, 0.9, 16, 400


class Exact(NamedTuple):
    """The least time, and by how much (relatively) it may be wrong."""

    time: float
    uncertainty: float


@dataclasses.dataclass(frozen=True)
class Cells:
    """Minimise Σ cost/w under Σ mass·w = 1, lower ≤ w ≤ upper, |change of w| ≤ rise; w decreasing if so wished."""

    cost: Array
    mass: Array
    lower: float = 0.0
    upper: float = math.inf
    decreasing: bool = False
    rise: float = math.inf

    @property
    def root(self) -> Array:
        return np.sqrt(self.cost / self.mass)

    @property
    def mean(self) -> float:
        return 1 / float(np.sum(self.mass))

    def scaled(self) -> tuple[Array, Array]:
        """Units of weight, and share with objective share·(1/z) and budget share·z = n, for z = w/unit."""
        unit = self.root / float(self.mass @ self.root)
        return unit, self.mass * unit * self.mass.size

    def time(self, weight: Array) -> float:
        return float(np.sum(self.cost / weight))

    def error(self, weight: Array, exact: Exact) -> float:
        """The largest relative error of time, budget and constraints."""
        if not (np.all(np.isfinite(weight)) and np.all(weight > 0)):
            return math.inf
        change = np.diff(weight)
        above = np.max(change) if self.decreasing else np.max(np.abs(change)) - self.rise
        violation = max(0.0, *map(float, (self.lower - np.min(weight), np.max(weight) - self.upper, above))) / self.mean
        return max(abs(self.time(weight) / exact.time - 1), abs(float(self.mass @ weight) - 1), violation)

    def exact(self) -> Exact:
        if math.isfinite(self.rise):
            return _exact_lipschitz(self)
        level = self.cost / self.mass
        if self.decreasing:
            level = isotonic_regression(level, weights=self.mass, increasing=False).x
        root = np.sqrt(level)
        mu = 1 / float(self.mass @ root)
        if self.lower > 0:
            mu = _root(lambda mu: float(self.mass @ np.clip(mu * root, self.lower, self.upper)) - 1, 1e-9, 1e9)
            # Which cells are free is now known, and the multiplier follows from a linear equation.
            weight = np.clip(mu * root, self.lower, self.upper)
            free = weight == mu * root
            mu = (1 - float(self.mass[~free] @ weight[~free])) / float(self.mass[free] @ root[free])
        return self.proved(np.clip(mu * root, self.lower, self.upper), mu**-2)

    def proved(self, weight: Array, price: float, run: int = 0) -> Exact:
        """The time of feasible weights, and what duality leaves open; a rise binds in the first `run` differences.

        For any λ ≥ 0 and any ζ on the differences, ζ ≥ 0 where w must decrease:
        Σ cost/w ≥ Σ_i min over v of (cost_i/v + pull_i v) - λ - rise Σ|ζ|, pull_i = λ mass_i + ζ_{i-1} - ζ_i > 0.
        Without bounds on v the best multiple of λ and ζ is known.
        """
        change, spent = np.cumsum(price * self.mass - self.cost / weight**2)[:-1], price
        if self.decreasing:
            change = np.maximum(change, 0)
        else:
            change[run:] = 0
            spent += self.rise * float(np.sum(np.abs(change))) if run else 0.0
        pull = price * self.mass
        pull[1:] += change
        pull[:-1] -= change
        if self.lower > 0:
            best = np.clip(np.sqrt(self.cost / pull), self.lower, self.upper)
            bound = float(np.sum(self.cost / best + pull * best)) - spent
        else:
            bound = float(np.sum(np.sqrt(self.cost * pull))) ** 2 / spent
        time = self.time(weight)
        gap = abs(time / bound - 1) if np.all(pull > 0) else math.inf
        return Exact(time, max(float(gap), self.error(weight, Exact(time, 0.0)), 1e-15))


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    return float(brentq(function, low, high, xtol=1e-300, rtol=1e-15))  # pyright: ignore[reportArgumentType]


def _exact_lipschitz(cells: Cells) -> Exact:
    """The best weights of which cells 0..k fall as fast as they may and the others are free."""
    cost, mass, root, rise = cells.cost, cells.mass, cells.root, cells.rise
    below, after = np.cumsum(mass), np.append(np.cumsum((mass * root)[::-1])[::-1][1:], 0.0)

    def price(k: int, last: float) -> float:  # of the budget, from stationarity of the line that ends at `last`
        return float(np.sum(cost[: k + 1] / (last + rise * np.arange(k, -1, -1.0)) ** 2)) / below[k]

    def line(k: int) -> float:  # where the line ends, from the budget; nan if it alone spends more
        def excess(last: float) -> float:
            spent = float(mass[: k + 1] @ (last + rise * np.arange(k, -1, -1.0)))
            return spent + after[k] / math.sqrt(price(k, last)) - 1

        return _root(excess, 1e-9, 1e3) if excess(1e-9) < 0 else math.nan

    left, right = 0, mass.size - 2
    while left < right:  # the shortest line that the next cell can follow
        k = (left + right) // 2
        last = line(k)
        follows = not last - root[k + 1] / math.sqrt(price(k, last)) > rise
        left, right = (left, k) if follows else (k + 1, right)
    last = line(left)
    level = price(left, last)
    weight = root / math.sqrt(level)
    weight[: left + 1] = last + rise * np.arange(left, -1, -1.0)
    return cells.proved(weight, level, left)


def cells_of(problem: str, size: int) -> Cells:
    theta = np.linspace(logit(START), logit(TARGET), size + 1)
    rho = expit(theta)
    mass, odds = np.diff(rho), np.diff(theta)
    effective = odds - np.diff(1 / rho)  # ∫ 1/(ρ²(1-ρ)) dρ = logit ρ - 1/ρ
    if problem == "box":
        return Cells(effective, mass, lower=0.75, upper=3.0)
    if problem == "monotone":
        return Cells(odds, mass, decreasing=True)
    if problem == "lipschitz":
        return Cells(effective, mass, rise=1.75 * odds[0])
    return Cells(effective, mass)


@dataclasses.dataclass(frozen=True)
class Group:
    """Minimise T = Σ share/u under Σ share·u = 1 over convex tables w ≥ 0, u = speeds @ w in units of the curve's."""

    share: Array
    speeds: Array
    unit: float
    scale: float

    @classmethod
    def of(cls, points: int = POINTS, speeds: Callable[[Array], Array] | None = None) -> Group:
        nodes, weights = np.polynomial.legendre.leggauss(16)
        panels, start = points // 16, logit(START)
        width = (logit(TARGET) - start) / panels
        rho = expit(start + width * (np.arange(panels)[:, None] + (nodes + 1) / 2)).ravel()
        root = 1 / (rho * np.sqrt(1 - rho))
        measure = np.tile(weights * width / 2, panels) * rho * (1 - rho)
        total = float(measure @ root)
        table = weight_speeds(rho, GROUP_SIZE, "ratio") if speeds is None else speeds(rho)
        return cls(measure * root / total, table / root[:, None], 1 / total, total**2)

    @staticmethod
    def exact() -> Exact:
        group = Group.fine()
        table, _ = best_table(group, math.inf, ftol=1e-16, gtol=1e-12)
        found = group.time(table)
        return Exact(found, max(abs(found / group.bound(table) - 1), 1e-15))

    @staticmethod
    def fine() -> Group:
        """On 800 points, speeds from the definition of the step."""
        k = np.arange(1, GROUP_SIZE)
        spread = k / GROUP_SIZE * (1 - k / GROUP_SIZE)
        return Group.of(800, lambda rho: binom.pmf(k, GROUP_SIZE, rho[:, None]) * spread / (rho * (1 - rho))[:, None])

    def time(self, weight: Array) -> float:
        """T at the budget: T and budget have degrees -1 and 1."""
        u = self.speeds @ (weight / self.unit)
        return float(np.sum(self.share / u) * (self.share @ u)) * self.scale

    def bound(self, weight: Array) -> float:
        """Least time of any convex table, proved from one."""
        u = self.speeds @ (weight / self.unit)
        speeds = self.speeds @ self.hinges()
        worst = np.max(((self.share / u**2) @ speeds) / (self.share @ speeds))
        return float(np.sum(self.share / u)) ** 2 / float(worst) * self.scale  # T(y') V(y') ≥ T(y)²/max of -T'/V'

    def hinges(self) -> Array:
        """Columns of which the convex tables are the sums with factors ≥ 0, each with budget 1."""
        k = np.arange(GROUP_SIZE - 1)
        rays = np.hstack([np.maximum(k[1:] - k[:, None], 0), np.maximum(k[:, None] - k[:-1], 0)])
        return rays / (self.share @ self.speeds @ rays)

    def error(self, weight: Array, exact: Exact) -> float:
        """As for cells, with the shape for a constraint, on other points than anybody solved on."""
        if not np.all(np.isfinite(weight)) or np.max(weight) <= 0:
            return math.inf
        fine = Group.fine()
        bent = max(0.0, -float(np.min(np.diff(weight, 2))), -float(np.min(weight))) / float(np.mean(weight))
        spent = float(fine.share @ fine.speeds @ weight) / fine.unit
        return max(abs(fine.time(weight) / exact.time - 1), abs(spent - 1), bent)


def minimised(
    method: str, function: Callable[[Array], tuple[Any, Array]], start: Array, limit: float, **settings: Any
) -> tuple[Array, bool]:
    """Minimise a function that returns its gradient too; the point, and whether time ran out."""
    end = time.perf_counter() + limit
    problem = {name: settings.pop(name) for name in ("bounds", "constraints") if name in settings}
    options = {"maxiter": 10**7, **({"maxfun": 10**7} if method == "L-BFGS-B" else {}), **settings}

    def watch(_: Array) -> None:
        if time.perf_counter() > end:
            raise StopIteration

    result = minimize(function, start, jac=True, method=method, callback=watch, options=options, **problem)
    if not (result.success or time.perf_counter() > end):
        raise RuntimeError(f"ended with {result.message!r}")
    return result.x, time.perf_counter() > end


def best_table(group: Group, limit: float, **settings: float) -> tuple[Array, bool]:
    """L-BFGS-B over hinges: time + budget, which is scale-free, is least at the best table."""
    hinges = group.hinges()
    speeds, count = group.speeds @ hinges, hinges.shape[1]

    def cone(v: Array) -> tuple[float, Array]:
        slowness = 1 / (speeds @ v)
        return float(group.share @ slowness + np.sum(v)), 1 - (group.share * slowness**2) @ speeds

    v, stopped = minimised("L-BFGS-B", cone, np.full(count, 1 / count), limit, bounds=Bounds(0, np.inf), **settings)
    return hinges @ v * (group.unit / np.sum(v)), stopped
