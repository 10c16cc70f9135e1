"""How a population passes under one table for groups of M, the time it takes, and the gradient of that time.

Every prompt moves by dθ/dt = s(t) u(θ), u the expected speed of a group (`theory.finite_group`, ratio step), which is
linear in the table; s(t) is what the budget of a step leaves. So all prompts follow one flow dθ/dτ = u(θ), each from
its own place, and with means over the prompts at flow time τ

    N = mean r(θ)      what a step of size 1 spends: r = E[A²], or ρ(1-ρ)u², the KL of the expected step
    C = mean c(θ)      what the responses of a batch cost: 1, or tokens
    Z = mean m(θ)      share of groups that are mixed, where others are drawn again; 1 where they are not

the cost of reaching the target at flow time τ₁ is, at a budget of 1,

    a step spends 1                   ∫ C √(N/Z) dτ
    a step of constant size, which
    spends 1 on average over the run  ∫ C dτ · √(∫ N dτ / ∫ Z dτ)

With refilling a kept group moves its prompt by u/m and is one of m/Z, so that prompts keep their relative speeds; a
step spends s²N/Z = 1 on the groups kept, and 1/Z groups are drawn for each of them. Derived.

Gradient. With H = ∫ dθ/u the flow is H(θ(τ)) = H(θ₀) + τ, so a change δu of the speed moves a prompt by
u(θ) ∫ δu/u² dθ, taken from its start to where it is. Every term of the cost that hangs on a position is therefore an
integral of δu/u² with a weight: the sum of what is still to pass (the adjoint). That weight is summed up once.

All functions of θ are cubic Hermite interpolants between even knots, with their exact slopes, and so is θ as a
function of H.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit

from theory.finite_group import binomial, weight_speeds

Array = NDArray[np.float64]
Index = NDArray[np.intp]
GroupBudget = Literal["advantage-variance", "kl", "constant-step"]

SPACING = 0.06  # of the knots, in log-odds
FURTHEST = 25.0  # log-odds at which a prompt stands still: failures below 1e-10
GAUSS = 4  # nodes in each piece of the way
GRADED = 8  # halvings of the way towards the start, where hard prompts begin to move fast
DENSE = 400  # points of the way for many populations at once
LONGEST = 1e12  # times the way of the first population


class Functions(NamedTuple):
    """A function of θ at the knots: values and slopes, each of shape (g,)."""

    value: Array
    slope: Array


class At:
    """Where points of any shape lie between the knots, and the cubic Hermite basis there."""

    def __init__(self, knots: Array, theta: Array) -> None:
        self.width = float(knots[1] - knots[0])
        place = (theta - knots[0]) / self.width
        self.left: Index = np.clip(place.astype(np.intp), 0, knots.size - 2)
        self.share = t = np.clip(place - self.left, 0.0, 1.0)
        self.right_value = t * t * (3 - 2 * t)
        self.left_slope = self.width * t * (1 - t) ** 2
        self.right_slope = self.width * t * t * (t - 1)

    def __call__(self, function: Functions) -> Array:
        """The function there."""
        value, slope = function
        rise = value[self.left + 1] - value[self.left]
        return (
            value[self.left]
            + self.right_value * rise
            + self.left_slope * slope[self.left]
            + self.right_slope * slope[self.left + 1]
        )

    def slope(self, function: Functions) -> Array:
        """Its slope there."""
        value, slope = function
        t = self.share
        rise = value[self.left + 1] - value[self.left]
        a, b = slope[self.left], slope[self.left + 1]
        return 6 * t * (1 - t) * rise / self.width + (1 - t) * (1 - 3 * t) * a + t * (3 * t - 2) * b

    def integral(self, inverse: Functions, whole: Array) -> Array:
        """∫ of a function from the first knot to here, given its integrals to the knots."""
        a, b = self._partial
        return (
            whole[self.left]
            + a[0] * inverse.value[self.left]
            + a[1] * inverse.value[self.left + 1]
            + b[0] * inverse.slope[self.left]
            + b[1] * inverse.slope[self.left + 1]
        )

    @cached_property
    def _partial(self) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        """∫ of the basis from the knot on the left to here: of both values, and of both slopes."""
        t, d = self.share, self.width
        t2, t3, t4 = t * t, t**3, t**4
        return (d * (t - t3 + t4 / 2), d * (t3 - t4 / 2)), (
            d * d * (t2 / 2 - 2 * t3 / 3 + t4 / 4),
            d * d * (t4 / 4 - t3 / 3),
        )

    def spread(self, force: Array, knots: int) -> Functions:
        """Transposed `__call__`: what a sum of force · function(θ) is in values and slopes at the knots."""
        left, force = self.left.ravel(), force.ravel()
        right = force * self.right_value.ravel()
        by_value = np.zeros(knots)
        by_value += np.bincount(left, force - right, knots) + np.bincount(left + 1, right, knots)
        by_slope = np.zeros(knots)
        by_slope += np.bincount(left, force * self.left_slope.ravel(), knots)
        by_slope += np.bincount(left + 1, force * self.right_slope.ravel(), knots)
        return Functions(by_value, by_slope)

    def spread_integral(self, force: Array, knots: int) -> Functions:
        """Transposed `integral`: what a sum of force · ∫ function is in values and slopes at the knots."""
        left, force, d = self.left.ravel(), force.ravel(), self.width
        values, slopes = self._partial
        held = np.bincount(left, force, knots)
        passed = np.append(np.cumsum(held[::-1])[::-1][1:], 0.0)  # of every piece the force beyond its end
        by_value = passed * d / 2
        by_value[1:] += passed[:-1] * d / 2
        by_slope = passed * d * d / 12
        by_slope[1:] -= passed[:-1] * d * d / 12
        for into, (a, b) in ((by_value, values), (by_slope, slopes)):
            into += np.bincount(left, force * a.ravel(), knots) + np.bincount(left + 1, force * b.ravel(), knots)
        return Functions(by_value, by_slope)


class Passage(NamedTuple):
    """A table's flow: θ and H at the knots, and the functions whose means make the cost."""

    speed: Functions
    inverse: Functions
    reached: Array  # (g,) H at the knots
    begun: Array  # (n,) H at the starts
    spent: Functions  # r


class GroupFlow:
    """Tables for groups of M on one set of starts.

    A table is y of shape (M+1,): minus the advantage of all-wrong groups, the weights of groups with K = 1..M-1
    correct, and the advantage of all-right groups.

    Parameters
    ----------
    theta
        Shape (n,). Log-odds at the start, rising, below 25.
    group_size
        M ≥ 2.
    budget_kind
        What a step spends: the mean of E[A²], the KL of the expected step, or E[A²] on average over the run, the size
        of the step being constant. "advantage-variance", "kl" or "constant-step".
    cost
        c(ρ) on an array of success probabilities; None for 1.
    refilled
        Whether uniform groups are drawn again.
    fineness
        How many times closer knots and points of the way lie than they are for a search.
    """

    def __init__(
        self,
        theta: Array,
        group_size: int,
        budget_kind: GroupBudget,
        cost: Callable[[Array], Array] | None = None,
        refilled: bool = False,
        fineness: int = 1,
    ) -> None:
        self.theta, self.group_size, self.budget_kind = theta, group_size, budget_kind
        count = int(np.ceil((FURTHEST - theta[0]) / (SPACING / fineness))) + 1
        self.knots = np.linspace(theta[0], FURTHEST, count)
        self._start = At(self.knots, theta)
        rho, failure = expit(self.knots), expit(-self.knots)
        self._rho, self._variance, self._odds = rho, rho * failure, failure - rho
        size, k = group_size, np.arange(group_size + 1)
        # A product ρ^a (1-ρ)^b has the slope (a(1-ρ) - bρ) times itself in log-odds.
        groups = binomial(rho, size)
        speeds = np.empty_like(groups)
        speeds[:, 0], speeds[:, -1] = failure ** (size - 1), rho ** (size - 1)
        speeds[:, 1:-1] = weight_speeds(rho, size, "ratio")
        powers = np.concatenate([[0], k[1:-1] - 1, [size - 1]]), np.concatenate([[size - 1], size - 1 - k[1:-1], [0]])
        self._speeds = speeds, speeds * (np.outer(failure, powers[0]) - np.outer(rho, powers[1]))
        share = k * (size - k) / size**2
        share[[0, -1]] = 1.0
        squares = groups * share
        self._squares = squares, squares * (np.outer(failure, k) - np.outer(rho, size - k))
        self._success = Functions(rho, rho * failure)
        self._cost = None
        if cost is not None:
            value = cost(np.clip(rho, 1e-12, 1 - 1e-12))
            self._cost = Functions(value, np.gradient(value, self.knots))
        self._mixed = None
        if refilled:
            slope = (np.outer(failure, k) - np.outer(rho, size - k))[:, [0, -1]] * groups[:, [0, -1]]
            self._mixed = Functions(1 - groups[:, 0] - groups[:, -1], -slope.sum(axis=1))
        edges = np.concatenate([[0.0], np.geomspace(0.5**GRADED, 0.5, GRADED), [0.75, 1.0]])
        edges = np.interp(np.linspace(0, edges.size - 1, (edges.size - 1) * fineness + 1), np.arange(edges.size), edges)
        node, weight = np.polynomial.legendre.leggauss(GAUSS)
        self._node = (edges[:-1, None] + np.diff(edges)[:, None] * (node + 1) / 2).ravel()
        self._weight = (np.diff(edges)[:, None] * weight / 2).ravel()

    def time(self, table: Array, share: Array, target: float) -> float:
        """Cost until the mean success of prompts with shares (n,) reaches the target, at a budget of 1.

        ∞ where the table moves prompts at some success probability the wrong way, or not at all.
        """
        passage = self._passage(table)
        if passage is None:
            return np.inf
        return self._cost_of(passage, share, self._arrival(passage, share, target), False)[0]

    def time_and_gradient(self, table: Array, share: Array, target: float) -> tuple[float, Array]:
        """`time`, and its derivatives with respect to the table, shape (M+1,)."""
        passage = self._passage(table)
        if passage is None:
            return np.inf, np.zeros_like(table)
        arrival = self._arrival(passage, share, target)
        cost, nodes, spent, forces = self._cost_of(passage, share, arrival, True)
        speed, knots = passage.speed, self.knots.size
        force = sum(each[:, None] * share * nodes.slope(of) for each, of in forces) * nodes(speed)
        end = self._ahead(passage, arrival)
        at_end = At(self.knots, end)
        reach = share * at_end.slope(self._success) * at_end(speed)
        # Arriving later costs cost/arrival, since all nodes of the way scale with it, and moves every node on.
        late = (cost / arrival + float(np.sum(force, axis=1) @ self._node)) / float(np.sum(reach))
        integrals = nodes.spread_integral(force, knots)
        before = self._start.spread_integral(late * reach - np.sum(force, axis=0), knots)
        after = at_end.spread_integral(-late * reach, knots)
        by_value, by_slope = (a + b + c for a, b, c in zip(integrals, before, after, strict=True))
        # φ = δu/u²; its slope is δu'/u² - 2 δu u'/u³.
        u, du = speed
        of_speed = Functions(by_value / u**2 - 2 * by_slope * du / u**3, by_slope / u**2)
        of_spent = nodes.spread(spent[:, None] * share + np.zeros_like(end), knots)
        if self.budget_kind == "kl":
            v = self._variance
            of_speed = Functions(
                of_speed.value + 2 * v * (of_spent.value * u + of_spent.slope * (self._odds * u + du)),
                of_speed.slope + 2 * v * of_spent.slope * u,
            )
            return cost, of_speed.value @ self._speeds[0] + of_speed.slope @ self._speeds[1]
        gradient = of_speed.value @ self._speeds[0] + of_speed.slope @ self._speeds[1]
        gradient += 2 * table * (of_spent.value @ self._squares[0] + of_spent.slope @ self._squares[1])
        return cost, gradient

    def times(self, table: Array, shares: Array, target: float) -> Array:
        """`time` for many populations on the same starts, shares of shape (b, n), by the trapezoidal rule; shape (b,).

        0 for one that is at the target already.
        """
        passage = self._passage(table)
        if passage is None:
            return np.full(shares.shape[0], np.inf)
        first = shares @ expit(self.theta)
        if np.min(first) >= target:
            return np.zeros(shares.shape[0])
        longest = self._arrival(passage, shares[np.argmin(first)], target)
        limit = longest * LONGEST
        while longest < limit and np.min(shares @ expit(self._ahead(passage, longest))) < target:
            longest *= 2
        tau = longest * np.concatenate([[0.0], np.geomspace(1e-6, 1.0, DENSE)])
        nodes = At(self.knots, self._ahead(passage, tau))
        mean = nodes(self._success) @ shares.T
        spent = nodes(passage.spent) @ shares.T
        cost = np.ones_like(spent) if self._cost is None else nodes(self._cost) @ shares.T
        mixed = np.ones_like(spent) if self._mixed is None else nodes(self._mixed) @ shares.T

        def until(values: Array) -> Array:
            """∫ of a mean to each population's arrival."""
            done = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum((values[1:] + values[:-1]) / 2 * step, 0)])
            return np.array([np.interp(arrival, tau, column) for arrival, column in zip(arrivals, done.T, strict=True)])

        step = np.diff(tau)[:, None]
        arrivals = np.array([np.interp(target, column, tau) for column in mean.T])
        if self.budget_kind == "constant-step":
            with np.errstate(invalid="ignore"):
                return np.nan_to_num(until(cost) * np.sqrt(until(spent) / until(mixed)))
        return until(cost * np.sqrt(spent / mixed))

    def first_spent(self, table: Array, share: Array) -> float:
        """What the first step spends with a step of size 1: √(N/Z) at the start."""
        passage = self._passage(table)
        assert passage is not None
        mixed = 1.0 if self._mixed is None else float(self._start(self._mixed) @ share)
        return float(np.sqrt(self._start(passage.spent) @ share / mixed))

    def _passage(self, table: Array) -> Passage | None:
        speed = Functions(*(each @ table for each in self._speeds))
        u, du = speed
        if not np.all(u > 0):
            return None
        inverse = Functions(1 / u, -du / u**2)
        d = self.knots[1] - self.knots[0]
        pieces = d / 2 * (inverse.value[1:] + inverse.value[:-1]) + d * d / 12 * (
            inverse.slope[:-1] - inverse.slope[1:]
        )
        reached = np.concatenate([[0.0], np.cumsum(pieces)])
        if not np.all(pieces > 0) or not np.isfinite(reached[-1]):
            return None
        if self.budget_kind == "kl":
            v = self._variance
            spent = Functions(v * u * u, v * (self._odds * u * u + 2 * u * du))
        else:
            spent = Functions(*(each @ table**2 for each in self._squares))
        return Passage(speed, inverse, reached, self._start.integral(inverse, reached), spent)

    def _ahead(self, passage: Passage, tau: float | Array) -> Array:
        """θ at flow times: shape (n,) for one, (k, n) for k of them."""
        reached, u = passage.reached, passage.speed.value
        at = passage.begun + np.asarray(tau)[..., None]
        left = np.clip(np.searchsorted(reached, at, side="right") - 1, 0, reached.size - 2)
        width, d = reached[left + 1] - reached[left], self.knots[1] - self.knots[0]
        t = np.clip((at - reached[left]) / width, 0.0, 1.0)
        a, b = u[left] * width, u[left + 1] * width
        return self.knots[left] + t * (a + t * (3 * d - 2 * a - b + t * (a + b - 2 * d)))

    def _arrival(self, passage: Passage, share: Array, target: float) -> float:
        """Flow time at which the mean success is the target."""

        def excess(tau: float) -> float:
            return float(expit(self._ahead(passage, tau)) @ share) - target

        high = float(passage.reached[-1])
        return float(brentq(excess, 0.0, high, xtol=1e-14 * high, rtol=1e-13))  # pyright: ignore[reportArgumentType]

    def _cost_of(
        self, passage: Passage, share: Array, arrival: float, with_forces: bool
    ) -> tuple[float, At, Array, list[tuple[Array, Functions]]]:
        """The cost; the nodes; its derivative with respect to N at each; and those with the functions they are of."""
        nodes = At(self.knots, self._ahead(passage, arrival * self._node))
        weight = arrival * self._weight
        spent = nodes(passage.spent) @ share
        cost = np.ones_like(spent) if self._cost is None else nodes(self._cost) @ share
        mixed = np.ones_like(spent) if self._mixed is None else nodes(self._mixed) @ share
        if self.budget_kind == "constant-step":
            sums = weight @ cost, weight @ spent, weight @ mixed
            total = float(sums[0] * np.sqrt(sums[1] / sums[2]))
            by_cost, by_spent, by_mixed = total / sums[0], total / 2 / sums[1], -total / 2 / sums[2]
            derivatives = weight * by_cost, weight * by_spent, weight * by_mixed
        else:
            root = np.sqrt(spent / mixed)
            total = float(weight @ (cost * root))
            derivatives = weight * root, weight * cost * root / 2 / spent, -weight * cost * root / 2 / mixed
        if not with_forces:
            return total, nodes, derivatives[1], []
        forces = [(derivatives[1], passage.spent)]
        forces += [] if self._cost is None else [(derivatives[0], self._cost)]
        forces += [] if self._mixed is None else [(derivatives[2], self._mixed)]
        return total, nodes, derivatives[1], forces
