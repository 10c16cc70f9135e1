"""The crowding limit of a table: an elasticity of at most κ on a range, which is linear in the table.

The force ψ of a table is a polynomial of degree M-1 in Bernstein form (`theory.crowding.force`), linear in the unknowns
y of `weightopt.groups.group`, and so is κψ - ρψ', which must not be negative on [low, high]: one inequality for each
success probability. The least time is found by exchange: the problem with the limit at finitely many places, by an
interior-point method, then with the places added where its answer exceeds the limit.

Both sides are proved for the whole range. *Feasible*: the largest elasticity on it is bounded by the table's
coefficients, on parts that are halved until the bound is tight (`theory.bernstein.least_ratio`). *Best*: prices μ ≥ 0
at finitely many places in the range. Every table y' that keeps the limit has Σ μ_i (κψ - ρψ')(ρ_i) ≥ 0, so with
G = -∇T and g = ∇V along the rays

    G·y' ≤ λ g·y'  for every λ with  G_k + Σ_i μ_i P_ik ≤ λ g_k,   P_ik = (κψ - ρψ')(ρ_i) of ray k,

and T(y')V(y') ≥ T²/λ as without a limit. Prices travel with the table; wrong ones make the bound weak, not wrong.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog, minimize_scalar

from theory.bernstein import least_ratio, scaled_slope
from theory.crowding import Measure, smallest_limit
from theory.finite_group import binomial
from weightopt.curves.interior_point import reach
from weightopt.errors import SolverError

Array = NDArray[np.float64]
HIGHEST = 0.5  # of the default range: no two kinds that share one habit evenly both succeed more often
ROUNDS = 25
ROUNDED = 1e-13  # excess that is rounding
SLIGHT = 1e-10  # excess of the elasticity at which places are no longer added
MARGIN = 0.1  # below the limit, of the first table, where there is that much room
DENSE = 8  # places for each response of a group at which the first table is below it
APART = 0.02  # of places in ln ρ
AIM, ITERATIONS = 1e-11, 300
FIRM = (0.0, *(1e-12 * 4.0**j for j in range(8)))  # what prices may be raised by, relatively
NEAR, IDLE = 1e-9, 8  # a gap that is good enough if so many steps have not improved it
FIRST_CENTRING, CENTRING, STEP_BACK = 0.1, 0.01, 0.99


class Limited(Protocol):
    """What is asked of a problem: that of `weightopt.groups.group.GroupProblem`."""

    @property
    def group_size(self) -> int: ...  # noqa: D102
    @property
    def centred(self) -> bool: ...  # noqa: D102
    @property
    def crowding(self) -> float | None: ...  # noqa: D102
    @property
    def crowding_measure(self) -> Measure: ...  # noqa: D102
    @property
    def limited_on(self) -> tuple[float, float]: ...  # noqa: D102


class Judged(Protocol):
    """Time and budget of a table, and their derivatives along the rays."""

    @property
    def time(self) -> float: ...  # noqa: D102
    @property
    def spent(self) -> float: ...  # noqa: D102
    @property
    def saving(self) -> Array: ...  # noqa: D102
    @property
    def price(self) -> Array: ...  # noqa: D102
    @property
    def charged(self) -> Any: ...  # noqa: D102


class Program(Protocol):
    """What is asked of a problem on nodes: that of `weightopt.groups.group.Design`."""

    @property
    def rays(self) -> Array: ...  # noqa: D102
    @property
    def drift(self) -> Array: ...  # noqa: D102
    def scaled(self, unit: Array) -> Program: ...  # noqa: D102
    def at(self, v: Array) -> Judged: ...  # noqa: D102
    def bent(self, v: Array) -> Array: ...  # noqa: D102


class LimitPrices(NamedTuple):
    """What the lower bound of a limited table is made from.

    Attributes
    ----------
    rho
        Shape (p,). Places in the range of the limit.
    price
        Shape (p,), ≥ 0. What a unit of κψ - ρψ' there is worth, in time.
    """

    rho: Array
    price: Array

    def listed(self) -> dict[str, list[float]]:
        """The prices as JSON values."""
        return {"rho": self.rho.tolist(), "price": self.price.tolist()}


def read_prices(problem: Limited, values: Any) -> LimitPrices:
    """Prices from JSON values; raises ValueError if they are none, or at places outside the range of the limit."""
    lists = [values.get(key) for key in ("rho", "price")] if isinstance(values, dict) and len(values) == 2 else []
    if not (len(lists) == 2 and all(isinstance(x, list) and all(type(v) is float for v in x) for x in lists)):
        raise ValueError("must hold lists rho and price")
    rho, price = (np.array(x, dtype=np.float64) for x in lists)
    low, high = problem.limited_on
    if rho.shape != price.shape or not np.all((rho >= low) & (rho <= high) & (price >= 0) & (price <= 1e100)):
        raise ValueError("must have a price from 0 up for every place in the range of the crowding limit")
    return LimitPrices(rho, price)


def default_range(start: float, target: float, group_size: int | None) -> tuple[float, float]:
    """Where a limit holds if nothing is said: for groups from 1/M, below which no table holds one, to 1/2."""
    if group_size is None:
        return start, target
    return max(start, 1 / group_size), min(target, HIGHEST)


def least_limit(measure: Measure, group_size: int, low: float) -> float:
    """The smallest limit that a table of that size can hold on a range from `low`, in the units of its measure."""
    return smallest_limit(group_size, low) - (measure == "push")


def forces(problem: Limited) -> Array:
    """Coefficients of ψ by unknown, shape (M, n)."""
    size = problem.group_size
    share = np.arange(1, size) / size
    push = problem.crowding_measure == "push"
    if problem.centred:
        matrix = np.zeros((size, size))
        matrix[0, 0] = 1.0  # the push on all-wrong groups
        k = np.arange(1, size)
        matrix[k, k] += share
        matrix[k - 1, k] += 0.0 if push else 1 - share
        return matrix
    return np.hstack([np.zeros((size, size)) if push else np.eye(size), np.eye(size)])


def bound_on_slope(problem: Limited) -> float:
    """What the elasticity of ψ itself must not exceed: κ, less 1 where φ = ρψ."""
    assert problem.crowding is not None
    return problem.crowding - (problem.crowding_measure == "gradient")


def room(problem: Limited) -> Array:
    """Coefficients of κψ - ρψ' by unknown, shape (M, n)."""
    matrix = forces(problem)
    return bound_on_slope(problem) * matrix - scaled_slope(matrix.T).T


def excess(problem: Limited, y: Array) -> float:
    """By how much the elasticity exceeds the limit anywhere on its range, at most; 0 where it is kept."""
    pressed, left = forces(problem) @ y, room(problem) @ y
    if not np.all(pressed >= 0) or not np.all(np.isfinite(left)):
        return math.inf
    # A coefficient of 0 with room on its side proves nothing but 0: it is lifted by what rounding would leave of it.
    bound, _ = least_ratio(left, pressed + 1e-300, *problem.limited_on)
    worst = max(0.0, -bound)
    return worst if worst > ROUNDED else 0.0


def largest_exchange(saving: Array, price: Array) -> float:
    """The least λ with saving ≤ λ price for every ray, ∞ if there is none.

    Under a limit the price of a ray can be negative: more of it would cost less budget, and is not allowed. Such a ray
    bounds λ from above.
    """
    paid = price > 0
    if not np.any(paid):
        return math.inf
    least = float(np.max(saving[paid] / price[paid]))
    return least if np.all(saving[~paid] <= least * price[~paid]) else math.inf


def added_savings(problem: Limited, design: Program, prices: LimitPrices) -> tuple[Array, Array]:
    """Σ_i μ_i P_ik by ray, shape (k,), and what it is a difference of, by which its rounding is measured."""
    basis, matrix = binomial(prices.rho, problem.group_size - 1), room(problem)
    return (
        (prices.price @ basis) @ matrix @ design.rays,
        (prices.price @ basis) @ np.abs(matrix) @ np.abs(design.rays),
    )


def least_time_limited(problem: Limited, design: Program) -> tuple[Array, LimitPrices]:
    """Rays v, shape (k,), of the table of least time that keeps the limit, and its prices at the scale of that v.

    Raises
    ------
    SolverError
        If no first table is found.
    """
    low, high = problem.limited_on
    size = problem.group_size
    matrix = room(problem) - SLIGHT * forces(problem)  # a limit that much tighter, so that what is left over it is not
    x = _first(problem, design)
    places = np.geomspace(low, high, 2 * size)
    fine = np.geomspace(low, high, 40 * size)
    basis = binomial(fine, size - 1)
    best: tuple[float, Array, LimitPrices] | None = None
    before = 0.0
    for _ in range(ROUNDS):
        v, price, gap = _least_time(design, binomial(places, size - 1) @ matrix @ design.rays, x)
        y = design.rays @ v
        left, pressed = matrix @ y, forces(problem) @ y
        values = (basis @ left) / (basis @ pressed)
        new = [
            _deepest(left, pressed, float(fine[max(k - 1, 0)]), float(fine[min(k + 1, fine.size - 1)]))
            for k in np.flatnonzero(
                (values < np.append(values[1:], np.inf)) & (values < np.append(np.inf, values[:-1]))
            )
            if values[k] < MARGIN / 10
        ]
        over = max((-value for _, value in new), default=0.0)
        # What is over the limit is mended by as much of the first table as that is below it.
        if best is None or gap + max(over, 0.0) / MARGIN < best[0]:
            best = gap + max(over, 0.0) / MARGIN, v, LimitPrices(places, price)
        if over <= SLIGHT and gap <= NEAR / 10:
            break
        # More places make the least time longer; where they hardly do, none is left out: a round could undo the last.
        state = design.at(v)
        product = state.time * state.spent
        kept = places[price > 1e-9 * np.max(price, initial=0.0)]
        kept = _apart(kept, new) if product > before * (1 + SLIGHT) else kept
        before = max(before, product)
        places = np.unique(np.concatenate([kept, [rho for rho, value in new if value < 0], [low, high]]))
    assert best is not None
    _, v, prices = best
    v = _kept(problem, design, v, x)
    rows = binomial(prices.rho, size - 1) @ room(problem) @ design.rays
    return v, prices._replace(price=_firm(design, v, rows, prices.price))


def _firm(design: Program, v: Array, rows: Array, price: Array) -> Array:
    """Prices a little larger, where rays whose price is negative hang on their last digits."""
    state = design.at(v)
    cautious = state.price - FIRM[1] * (np.abs(state.price) + 2 * state.charged)
    return price * min(
        (1 + more for more in FIRM),
        key=lambda factor: largest_exchange(state.saving + factor * (price @ rows), cautious),
    )


def _apart(active: Array, new: list[tuple[float, float]]) -> Array:
    """Active places without those that a new one is about to replace: of its neighbours one on each side stays."""
    keep = np.ones(active.size, dtype=bool)
    for rho, _ in new:
        near = np.flatnonzero(np.abs(np.log(active / rho)) < APART)
        below, above = near[active[near] < rho], near[active[near] > rho]
        keep[below[:-1]] = keep[above[1:]] = False
    return active[keep]


def _kept(problem: Limited, design: Program, v: Array, first: Array) -> Array:
    """v with as little of the first table as brings it below the limit on the whole range."""
    over = excess(problem, design.rays @ v)
    if not 0 < over < MARGIN / 10:
        return v
    drift = design.drift
    alike = float(drift @ v) / float(drift @ first)
    for share in (over / MARGIN) * 4.0 ** np.arange(8):
        mixed = v + share * alike * first
        if excess(problem, design.rays @ mixed) == 0:
            return mixed
    return v


def _deepest(left: Array, pressed: Array, below: float, above: float) -> tuple[float, float]:
    """Where the room is least between two places, relative to the force, and what it is there."""

    def value(rho: float) -> float:
        basis = binomial([rho], left.size - 1)[0]
        return float(basis @ left) / float(basis @ pressed)

    best: Any = minimize_scalar(value, bounds=(below, above), method="bounded", options={"xatol": 1e-10 * above})
    return min(((rho, value(rho)) for rho in (float(best.x), below, above)), key=lambda pair: pair[1])


def _first(problem: Limited, design: Program) -> Array:
    """A table inside the cone, below the limit on the whole range: one linear program."""
    low, high = problem.limited_on
    size = problem.group_size
    slack = bound_on_slope(problem) - least_limit("push", size, low)
    margin = min(MARGIN, slack / 2)
    basis = binomial(np.geomspace(low, high, DENSE * size), size - 1)
    pressed = basis @ forces(problem) @ design.rays
    rows = basis @ room(problem) @ design.rays - margin * pressed
    unit = 1 / design.drift
    rows, pressed = rows * unit, pressed * unit
    rows /= np.max(pressed, axis=1, keepdims=True)
    count = unit.size
    # The largest s with x ≥ s/k in every ray, Σx = 1.
    above = np.vstack(
        [np.hstack([-rows, np.zeros((len(rows), 1))]), np.hstack([-np.eye(count), np.full((count, 1), 1 / count)])]
    )
    answer = linprog(
        np.append(np.zeros(count), -1.0),
        A_ub=above,
        b_ub=np.zeros(len(above)),
        A_eq=np.append(np.ones(count), 0.0)[None],
        b_eq=[1.0],
        bounds=[(0, None)] * (count + 1),
        method="highs",
    )
    if answer.x is None or not answer.x[-1] > 0:
        raise SolverError("no first table was found that keeps the crowding limit; raise --crowding a little")
    return unit * answer.x[:-1]


@np.errstate(all="ignore")  # an iterate that overflows proves nothing, and the certificate will say so
def _least_time(design: Program, rows: Array, first: Array) -> tuple[Array, Array, float]:
    """Minimise T + V over v ≥ 0 with rows @ v ≥ 0, from a v inside; v, the prices of the rows, and its gap.

    As `weightopt.groups.group.least_time_rays`, with the rows as further slacks.
    """
    unit = first.copy()
    rows = rows * unit
    size = np.maximum(rows @ np.ones(unit.size), 1e-300)
    rows = rows / size[:, None]
    design = design.scaled(unit)
    drift = design.drift
    share, weight = drift / drift.sum(), np.full(len(rows), 1 / len(rows))
    x = np.ones(unit.size)
    state = design.at(x)
    x *= math.sqrt(state.time / state.spent)  # T and V have degrees -1 and 1
    scale = math.sqrt(state.time * state.spent)
    share, weight = share * scale, weight * scale
    s = rows @ x
    z, mu = share / x, weight / s
    best, best_gap, centring = (x, mu), np.inf, FIRST_CENTRING
    idle = 0
    for _ in range(ITERATIONS):
        state = design.at(x)
        pull = mu @ rows
        ratio, paid = (state.saving + pull) / state.price * (state.spent / state.time), state.price > 0
        if not np.any(paid):
            break
        gap = float(np.max(ratio[paid])) - 1
        gap += max(0.0, 1 + gap - float(np.min(ratio[~paid], initial=np.inf)))
        idle = 0 if gap < best_gap else idle + 1
        if gap < best_gap:
            best, best_gap = (x, mu), gap
        if gap < AIM or (idle > IDLE and best_gap < NEAR):
            break
        s = rows @ x
        complementarity = (x @ z + s @ mu) / (2 * scale)
        barrier, of_rows = centring * complementarity * share, centring * complementarity * weight
        curvature = design.bent(x) + (rows.T * (mu / s)) @ rows
        curvature[np.diag_indices_from(curvature)] += z / x
        norm = 1 / np.sqrt(np.diag(curvature))
        right = barrier / x - (state.price - state.saving) + (of_rows / s) @ rows
        try:
            dx = norm * np.linalg.solve(curvature * np.outer(norm, norm), norm * right)
        except np.linalg.LinAlgError:
            break
        ds = rows @ dx
        dz, dmu = barrier / x - z - z * dx / x, of_rows / s - mu - mu * ds / s
        primal = min(reach(x, dx, STEP_BACK), reach(s, ds, STEP_BACK))
        dual = min(reach(z, dz, STEP_BACK), reach(mu, dmu, STEP_BACK))
        x, z, mu = x + primal * dx, z + dual * dz, mu + dual * dmu
        centring = min(0.5, max((1 - min(primal, dual)) ** 2, CENTRING))
    x, mu = best
    return unit * x, mu / size, best_gap
