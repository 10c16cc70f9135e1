"""Answers of the solver certified again, without its certificates and without the project's quadrature.

Trapezoids on the printed grid, Simpson's rule and `scipy.stats.binom` elsewhere, the constraints read off the printed
weights, and weak duality: no feasible competitor, a handful for each answer, may beat the printed lower bound.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from scipy.integrate import simpson
from scipy.special import expit, logit
from scipy.stats import binom

QUADRATURE = 1e-3  # coarser than this the trapezoids would not check much; see `trapezoids`


LAWS = {
    "rloo": np.ones_like,
    "grpo": lambda rho: 1 / np.sqrt(rho * (1 - rho)),
    "linear-r": lambda rho: 1 / rho,
    "sqrt-r": lambda rho: 1 / (rho * np.sqrt(1 - rho)),
    "uniform-r": lambda rho: 1 / (rho * (1 - rho)),
    "plateau-r": lambda rho: np.minimum(1, 2 * (1 - rho)) / (rho * (1 - rho)),
}
ALL_WRONG = {"linear-r": -1.0, "sqrt-r": -1.0, "uniform-r": -1.0, "plateau-r": -1.0}
ALL_RIGHT = {"uniform-r": 1.0}


class Physics(NamedTuple):
    """c, κ and p of a case as functions of ρ, from the words it was given."""

    clock: Callable[[Any], Any]
    mobility: Callable[[Any], Any]
    density: Callable[[Any], Any]

    def cost(self, rho):
        """c/κ."""
        return self.clock(rho) / self.mobility(rho)


def clock_of(text: str):
    name, _, given_numbers = text.partition(":")
    if name == "mixed":
        size = int(given_numbers)
        return lambda rho: 1 / (1 - rho**size - (1 - rho) ** size)
    if name == "affine":
        a, b = map(float, given_numbers.split(","))
        return lambda rho: a + b / rho
    return {
        "regular": lambda rho: np.ones_like(rho),
        "effective": lambda rho: 1 / rho,
        "failures": lambda rho: (1 - rho) / rho,
    }[name]


def one(rho):
    return np.ones_like(rho)


MOBILITIES = {"natural": lambda rho: rho * (1 - rho), "softmax-gradient": lambda rho: (rho * (1 - rho)) ** 2}


def physics_of(options) -> Physics:
    return Physics(clock_of(str(options["clock"])), MOBILITIES[str(options.get("mobility", "natural"))], one)


class Claim(NamedTuple):
    """A curve as printed, with what it had to satisfy."""

    rho: np.ndarray
    weight: np.ndarray
    budget: float
    low: float
    high: float
    monotone: str | None
    ratio: float
    lipschitz: float
    in_rho: bool
    edges: np.ndarray | None


def claim_of(found: dict, options) -> Claim:
    def number(name, default):
        return float(options[name]) if name in options else default

    bins = options.get("bins")
    return Claim(
        np.array(found["rho"]),
        np.array(found["weight"]),
        number("budget", 1.0),
        number("min_weight", 0.0),
        number("max_weight", math.inf),
        options.get("monotone"),
        number("max_ratio", math.inf),
        number("lipschitz", math.inf),
        options.get("lipschitz_in") == "rho",
        None if bins is None else np.array([float(x) for x in bins.split(",")] if bins.strip() else []),
    )


def meets(claim: Claim, weight, slack=1e-8) -> bool:
    """Whether weights on the printed grid satisfy every constraint but the budget."""
    largest, change = float(np.max(weight)), np.diff(weight)
    fine = np.min(weight) >= claim.low * (1 - slack) and largest <= claim.high * (1 + slack)
    fine &= largest <= claim.ratio * np.min(weight) * (1 + slack)
    if claim.monotone is not None:
        fine &= bool(np.all(change * (1 if claim.monotone == "increasing" else -1) >= -slack * largest))
    first = np.zeros(1, dtype=int)  # the first point of every bin
    if claim.edges is not None:
        bins = np.searchsorted(claim.edges, claim.rho, side="right")
        first = np.searchsorted(bins, np.arange(claim.edges.size + 1))
        fine &= bool(np.all(np.abs(weight - weight[first][bins]) <= slack * largest))
    if math.isfinite(claim.lipschitz):
        jumps, x = change, claim.rho if claim.in_rho else logit(claim.rho)
        apart = np.diff(x)
        if claim.edges is not None:  # between the middles of neighbouring bins
            cuts = np.array([claim.rho[0], *claim.edges, claim.rho[-1]])
            cuts = cuts if claim.in_rho else logit(cuts)
            jumps, apart = np.diff(weight[first]), np.diff((cuts[1:] + cuts[:-1]) / 2)
        fine &= bool(np.all(np.abs(jumps) <= claim.lipschitz * apart * (1 + 1e-6) + slack * largest))
    return bool(fine)


def trapezoids(claim: Claim, values) -> tuple[float, float]:
    """∫ values dρ on the printed grid, even in log-odds, and how far off that may be.

    Second order, so that the difference to every other point is three times the error; but a kink inside a cell adds
    an eighth of its second difference times the spacing, and there may be eight of them.
    """
    rho = claim.rho
    step = math.log1p((rho[-1] - rho[0]) / (rho[0] * (1 - rho[-1]))) / (rho.size - 1)
    inner = values * rho * (1 - rho)
    fine = step * (np.sum(inner) - (inner[0] + inner[-1]) / 2)
    coarse = 2 * step * (np.sum(inner[::2]) - (inner[0] + inner[-1]) / 2)
    kinks = step * np.max(np.abs(np.diff(inner, 2)))
    return float(fine), float(1e-9 * abs(fine) + abs(fine - coarse) + kinks)


def on_bins(claim: Claim, function, by_bin) -> tuple[float, float]:
    """∫ function·by_bin dρ over bins that have a weight each."""
    assert claim.edges is not None
    cuts = np.array([claim.rho[0], *claim.edges, claim.rho[-1]])
    total = 0.0
    for left, right, value in zip(cuts[:-1], cuts[1:], by_bin, strict=True):
        theta = np.linspace(logit(left), logit(right), 401)
        rho = expit(theta)
        total += value * float(simpson(function(rho) * rho * (1 - rho), x=theta))
    return total, 1e-7 * total


def time_and_budget(claim: Claim, physics: Physics, weight) -> tuple[float, float, float]:
    """T, ∫pω and the relative error of the two together."""
    if claim.edges is None:
        time, time_error = trapezoids(claim, physics.cost(claim.rho) / weight)
        spent, spent_error = trapezoids(claim, physics.density(claim.rho) * weight)
    else:
        bins = np.searchsorted(claim.edges, claim.rho, side="right")
        by_bin = weight[np.searchsorted(bins, np.arange(claim.edges.size + 1))]
        time, time_error = on_bins(claim, physics.cost, 1 / by_bin)
        spent, spent_error = on_bins(claim, physics.density, by_bin)
    return time, spent, time_error / time + spent_error / spent


def competitor(claim: Claim, physics: Physics, a: float, b: float):
    """The weighting ρ^-a (1-ρ)^-b, mixed with the constant weight until every constraint is met; the budget spent."""
    rho = claim.rho
    shape = np.exp(-a * (np.log(rho) - np.log(rho[0])) - b * (np.log1p(-rho) - np.log1p(-rho[0])))
    if claim.edges is not None:
        bins = np.searchsorted(claim.edges, rho, side="right")
        shape = shape[np.searchsorted(bins, bins)]
    constant = claim.budget / time_and_budget(claim, physics, np.ones_like(rho))[1] * np.ones_like(rho)
    shape = shape * (claim.budget / time_and_budget(claim, physics, shape)[1])
    share, beyond = 1.0, 0.0
    if not meets(claim, shape, 0.0):
        share, beyond = 0.0, 1.0
        for _ in range(12):
            middle = (share + beyond) / 2
            inside = meets(claim, constant + middle * (shape - constant), 0.0)
            share, beyond = (middle, beyond) if inside else (share, middle)
    return constant + share * (shape - constant)


def assert_certified(found: dict, claim: Claim, physics: Physics, exponents) -> None:
    """Status, feasibility, time, budget and lower bound of a printed curve, none of it on the solver's word."""
    assert found["status"] == "optimal"
    assert 0 <= found["gap"] <= 1e-9
    assert found["lower_bound"] == pytest.approx(found["time"], rel=1e-9)
    assert np.all(np.diff(claim.rho) > 0)
    assert meets(claim, claim.weight)
    time, spent, error = time_and_budget(claim, physics, claim.weight)
    assert error < QUADRATURE
    assert spent == pytest.approx(claim.budget, rel=error)
    assert time == pytest.approx(found["time"], rel=error)
    if not (claim.low or math.isfinite(min(claim.high, claim.ratio, claim.lipschitz)) or claim.monotone):
        # Without constraints the least time is known: (∫√(c p/κ))²/B, by Cauchy and Schwarz.
        least, least_error = trapezoids(claim, np.sqrt(physics.cost(claim.rho) * physics.density(claim.rho)))
        if claim.edges is None:
            assert found["time"] == pytest.approx(least**2 / claim.budget, rel=2 * least_error / least + 1e-9)
    for a, b in exponents:
        other = competitor(claim, physics, a, b)
        for share in (1.0, 0.1):
            weight = share * other + (1 - share) * claim.weight
            rival, cost, rival_error = time_and_budget(claim, physics, weight)
            rival *= max(1.0, cost / claim.budget)  # what overspends is charged for it
            assert rival >= found["lower_bound"] * (1 - rival_error - 1e-9)


# Tables for groups ----------------------------------------------------------------------------------------------------


class Model(NamedTuple):
    """What a table for groups is measured by: Simpson's rule in log-odds and `scipy.stats.binom`."""

    theta: np.ndarray
    rho: np.ndarray
    groups: np.ndarray  # (r, M+1)
    physics: Physics
    step_model: str
    budget_kind: str

    def integral(self, values) -> float:
        return float(simpson(values * self.rho * (1 - self.rho), x=self.theta))

    def speed(self, correct, wrong):
        share = np.arange(correct.size) / (correct.size - 1)
        if self.step_model == "ratio":
            by_group = self.groups * share / self.rho[:, None]
            return by_group @ correct - (self.groups * (1 - share) / (1 - self.rho[:, None])) @ wrong
        return self.groups[:, 1:] @ correct[1:] - self.groups[:, :-1] @ wrong[:-1]

    def time_and_budget(self, correct, wrong) -> tuple[float, float]:
        speed = self.speed(correct, wrong)
        if np.min(speed) <= 0:
            return math.inf, math.inf
        time = self.integral(self.physics.cost(self.rho) / speed)
        if self.budget_kind == "drift":
            return time, self.integral(self.physics.density(self.rho) * speed)
        share = np.arange(correct.size) / (correct.size - 1)
        squares = self.groups @ (share * correct**2 + (1 - share) * wrong**2)
        return time, self.integral(squares / self.physics.mobility(self.rho) / speed)


def model_of(options, start: float, target: float, physics: Physics | None = None) -> Model:
    theta = np.linspace(logit(start), logit(target), 801)
    rho = expit(theta)
    size = int(options["group_size"])
    groups = binom.pmf(np.arange(size + 1), size, rho[:, None])
    step_model, budget_kind = options.get("step_model", "ratio"), options.get("budget_kind", "advantage-variance")
    return Model(theta, rho, groups, physics or physics_of(options), str(step_model), str(budget_kind))


def advantages_of(weight):
    """Centred advantages of weights for K = 1..M-1."""
    share = np.arange(1, weight.size + 1) / (weight.size + 1)
    return np.array([0.0, *weight * (1 - share), 0.0]), np.array([0.0, *-weight * share, 0.0])


def of_shape(shape: str, weight) -> bool:
    slack = 1e-9 * float(np.max(weight))
    fine = np.min(weight) >= 0
    if shape == "nonincreasing":
        fine &= bool(np.all(np.diff(weight) <= slack))
    if shape == "convex":
        fine &= bool(np.all(np.diff(weight, 2) >= -slack))
    return bool(fine)


def rivals(shape: str, size: int, numbers):
    """Weights of that shape: powers, one made of the numbers, and the extreme ones, of which all others are sums.

    A table that is not the best is improved by adding a little of some extreme one.
    """
    share, k = np.arange(1, size) / size, np.arange(size - 1)
    yield share**-0.5 * (1 - share) ** -0.5 if shape != "nonincreasing" else share**-0.5
    yield 1 / share
    extreme = np.eye(size - 1)
    if shape == "nonincreasing":
        extreme = (k <= k[:, None]).astype(float)
    if shape == "convex":
        extreme = np.array([np.maximum(sign * (k - j), 0) for j in k for sign in (1, -1)])
        extreme = np.array([np.ones(size - 1), *extreme[extreme.any(axis=1)]])
    yield np.resize(np.array(numbers), len(extreme)) @ extreme + 1e-6
    yield from extreme


def assert_group(found: dict, options, numbers) -> None:
    size, start, target = int(options["group_size"]), float(options["start"]), float(options["target"])
    budget = float(options.get("budget", 1.0))
    weight = np.array(found["weight"])
    correct, wrong = np.array(found["advantage_correct"]), np.array(found["advantage_wrong"])
    assert found["status"] == "optimal"
    assert found["rho"] == pytest.approx(np.arange(1, size) / size, rel=1e-15)
    assert (correct[0], wrong[-1]) == (0, 0)
    assert correct - wrong == pytest.approx(np.array([-wrong[0], *weight, correct[-1]]), rel=1e-12, abs=1e-300)
    for name, value in (("all_wrong", wrong[0]), ("all_right", correct[-1])):
        assert found[f"{name}_advantage"] == value
        if name in options:
            assert value == float(options[name])
    if "plug_in" in options:
        physics = physics_of(options)
        rho = np.array(found["rho"])
        law = np.sqrt(physics.cost(rho))  # up to the multiplier
        assert weight / law == pytest.approx(weight[0] / law[0], rel=1e-9)
        return
    if "uncentred" not in options:
        centred = advantages_of(weight)
        assert correct[1:-1] == pytest.approx(centred[0][1:-1], rel=1e-12, abs=1e-300)
        assert wrong[1:-1] == pytest.approx(centred[1][1:-1], rel=1e-12, abs=1e-300)
        assert of_shape(str(options.get("shape", "convex")), weight)
    assert np.min(correct) >= 0
    assert np.max(wrong) <= 0
    model = model_of(options, start, target)
    time, spent = model.time_and_budget(correct, wrong)
    # Simpson's rule on 801 points is good for 1e-8 and better on what is this smooth.
    assert spent == pytest.approx(budget, rel=1e-7)
    assert time == pytest.approx(found["time"], rel=1e-7)
    assert found["lower_bound"] == pytest.approx(found["time"], rel=1.1e-8)
    assert 0 <= found["gap"] <= 1e-8
    for rival in rivals(str(options.get("shape", "convex")), size, numbers):
        shape = advantages_of(rival / np.sum(rival) * np.sum(correct - wrong))
        for share in (1.0, 0.1, 0.01):
            other = [share * mine + (1 - share) * best for mine, best in zip(shape, (correct, wrong), strict=True)]
            product = math.prod(model.time_and_budget(*other))
            assert product / budget >= found["lower_bound"] * (1 - 2e-7)
