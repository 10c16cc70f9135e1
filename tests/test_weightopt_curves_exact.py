"""Certificates against arithmetic of 40 digits: the problem that the floats pose, and nothing of the quadrature.

A certified weighting is integrated again with mpmath, from the formulas of the clocks and in log-odds that have all
their digits. Scaled to the budget it is feasible, so the lower bound must not exceed its time; and the printed gap must
cover the time that it truly takes. Where the best time is known otherwise, from Cauchy-Schwarz, from duality or from
the cells of bins, the bound must not exceed that either.

The number of problems is that of the environment variable EXACT_PROBLEMS, and EXACT_SEED draws others:

    EXACT_PROBLEMS=20000 python -m pytest tests/test_weightopt_curves_exact.py -k certificate -s
"""

from __future__ import annotations

import collections
import functools
import itertools
import math
import os
from typing import Any

import mpmath as mp
import numpy as np
import pytest

from theory import clocks
from theory.dynamics import MOBILITIES, Mobility
from theory.log_linear import LogLinear
from weightopt.answer import Status
from weightopt.curves.curve import solve, tolerance
from weightopt.curves.problem import Problem
from weightopt.curves.weighting import LinearWeighting, SolvedWeighting, StepWeighting
from weightopt.errors import ProblemError

PROBLEMS = int(os.environ.get("EXACT_PROBLEMS", "120"))
SEED = int(os.environ.get("EXACT_SEED", "0"))
DIGITS, NODES = 40, 16
WIDTH, CHANGE = 0.5, 6.0  # of a panel in log-odds, and of a logarithm over it: 16 nodes leave less than 1e-28
NAMES = ("regular", "effective", "failures", "both", "variance", "mixed:8", "success:16", "affine:1,0.3", "mixed:4096")


@functools.cache
def gauss():
    """Nodes and weights of Gauss-Legendre on [-1, 1], 40 digits: roots by Newton's method from the cosines."""
    with mp.workdps(DIGITS + 10):
        found = []
        for k in range(NODES):
            x = mp.cos(mp.pi * (mp.mpf(4 * k + 3)) / (4 * NODES + 2))
            for _ in range(8):
                slope = NODES * (x * mp.legendre(NODES, x) - mp.legendre(NODES - 1, x)) / (x * x - 1)
                x -= mp.legendre(NODES, x) / slope
            slope = NODES * (x * mp.legendre(NODES, x) - mp.legendre(NODES - 1, x)) / (x * x - 1)
            found.append((x, 2 / ((1 - x * x) * slope**2)))
        return found


def log_odds(rho):
    rho = mp.mpf(rho)
    return mp.log(rho / (1 - rho))


class Point:
    """θ with ρ and 1-ρ, each with all of its digits."""

    def __init__(self, theta):
        self.theta = theta
        odds = mp.exp(theta)
        self.rho, self.failure = odds / (1 + odds), 1 / (1 + odds)


class Table:
    """`Measured` in many digits."""

    def __init__(self, measured):
        self.theta = [log_odds(x) for x in measured.rho]
        self.log = [mp.log(mp.mpf(value)) for value in measured.value]

    def change(self, left, right):
        return abs(self.at(right) - self.at(left))

    def at(self, theta):
        k = min(max(sum(theta > x for x in self.theta) - 1, 0), len(self.theta) - 2)
        share = (theta - self.theta[k]) / (self.theta[k + 1] - self.theta[k])
        share = min(max(share, mp.mpf(0)), mp.mpf(1))
        return self.log[k] + share * (self.log[k + 1] - self.log[k])

    def __call__(self, point):
        return mp.exp(self.at(point.theta))


def clock_of(clock):
    """c as a function of a point, from the definitions."""
    name, _, arguments = clock.name.partition(":")
    if isinstance(clock, clocks.Tabulated):
        return Table(clock.measured)
    if name in ("mixed", "success"):
        size = int(arguments)
        if name == "success":
            return lambda x: 1 / (1 - x.failure**size)
        return lambda x: 1 / (1 - x.rho**size - x.failure**size)
    if name == "affine":
        update, response = (mp.mpf(float(part)) for part in arguments.split(","))
        return lambda x: update + response / x.rho
    return {
        "regular": lambda _: mp.mpf(1),
        "effective": lambda x: 1 / x.rho,
        "failures": lambda x: x.failure / x.rho,
        "both": lambda x: 1 / (x.rho * x.failure),
        "variance": lambda x: x.rho * x.failure,
    }[name]


class Exact:
    """A problem in many digits: ∫ over log-odds of functions of a point."""

    def __init__(self, problem: Problem):
        self.problem = problem
        self.clock = clock_of(problem.clock)
        self.density = None if problem.budget_density is None else Table(problem.budget_density)
        self.measured = None if problem.mobility.measured is None else Table(problem.mobility.measured)
        tables = (self.clock, self.density, self.measured)
        self.tables = [table for table in tables if isinstance(table, Table)]
        self.budget = mp.mpf(problem.budget)

    def panels(self, breaks=()):
        """(points, weights of dθ, ends) of each panel."""
        problem = self.problem
        inside = {x for x in (*breaks, *problem.kinks) if problem.start < x < problem.target}
        ends = [log_odds(x) for x in (problem.start, *sorted(inside), problem.target)]
        for left, right in itertools.pairwise(ends):
            change = max((table.change(left, right) for table in self.tables), default=mp.mpf(0))
            count = max(1, math.ceil((right - left) / WIDTH), math.ceil(change / CHANGE))
            step = (right - left) / count
            for k in range(count):
                low = left + k * step
                points = [Point(low + (x + 1) * step / 2) for x, _ in gauss()]
                yield points, [w * step / 2 for _, w in gauss()], (low, low + step)

    def cost(self, x):
        """f = c/(κ p)."""
        kappa = (x.rho * x.failure) ** self.problem.mobility.exponent
        if self.measured is not None:
            kappa *= self.measured(x)
        return self.clock(x) / kappa / (1 if self.density is None else self.density(x))

    def measure(self, x):
        """dm/dθ."""
        return x.rho * x.failure * (1 if self.density is None else self.density(x))


def weight_of(weighting):
    """ω as a function of a point and of a place inside the same panel, from what the weighting is made of."""
    if isinstance(weighting, StepWeighting):
        edges = [log_odds(x) for x in weighting.edges]
        return lambda _, inside, __: mp.mpf(weighting.weight[sum(inside > edge for edge in edges)])
    if isinstance(weighting, LinearWeighting):
        knots, values = [log_odds(x) for x in weighting.rho], [mp.mpf(w) for w in weighting.weight]
        near = [float(x) for x in knots]
        exact_rho = [mp.mpf(x) for x in weighting.rho]

        def linear(x, inside, _):
            k = min(max(int(np.searchsorted(near, float(inside))) - 1, 0), len(knots) - 2)
            while k > 0 and inside < knots[k]:
                k -= 1
            while k < len(knots) - 2 and inside > knots[k + 1]:
                k += 1
            if weighting.coordinate == "rho":
                share = (x.rho - exact_rho[k]) / (exact_rho[k + 1] - exact_rho[k])
            else:
                share = (x.theta - knots[k]) / (knots[k + 1] - knots[k])
            return values[k] + share * (values[k + 1] - values[k])

        return linear
    assert isinstance(weighting, SolvedWeighting)
    pools = [(log_odds(p.left), log_odds(p.right), mp.mpf(p.value)) for p in weighting.envelope.pools]
    mu, low = mp.mpf(weighting.multiplier), mp.mpf(weighting.low)
    high = None if math.isinf(weighting.high) else mp.mpf(weighting.high)

    def clipped(_, inside, f):
        level = next((value for left, right, value in pools if left < inside < right), f)
        w = max(mu * mp.sqrt(level), low)
        return w if high is None else min(w, high)

    return clipped


def examine(problem, solution):
    """Time charged for what is spent, that of the weighting made feasible, and one nothing beats (0: not known)."""
    exact, weighting = Exact(problem), solution.weighting
    weight = weight_of(weighting)
    pools = () if not isinstance(weighting, SolvedWeighting) else weighting.envelope.pools
    breaks = (*weighting.kinks, *(end for pool in pools for end in pool[:2]), *(problem.bins or ()))
    ways = [(log_odds(pool.left), log_odds(pool.right), mp.mpf(pool.value)) for pool in pools]
    time = spent = root = mp.mpf(0)
    nodes = []  # dm, f, ω and f/f̂
    for points, steps, (left, right) in exact.panels(breaks):
        inside = (left + right) / 2
        pool = next((value for low, high, value in ways if low < inside < high), None)
        for x, step in zip(points, steps, strict=True):
            f, dm = exact.cost(x), exact.measure(x) * step
            w = weight(x, inside, f)
            time, spent, root = time + dm * f / w, spent + dm * w, root + dm * mp.sqrt(f)
            nodes.append((dm, f, w, mp.mpf(1) if pool is None else f / pool, inside))
    charged = feasible = time
    if spent > exact.budget:  # what is above the lower bound is scaled down: then the weighting is feasible
        base = mp.mpf(problem.min_weight)
        least = base * mp.fsum(node[0] for node in nodes)
        share = (exact.budget - least) / (spent - least)
        feasible = mp.fsum(dm * f / (base + share * (w - base)) for dm, f, w, _, _ in nodes) if share > 0 else mp.inf
        charged = time * spent / exact.budget
    known = mp.mpf(0)
    if not problem.constraints:
        known = root**2 / exact.budget
    elif problem.bins is not None:
        known = best_of_bins(problem, exact, nodes)
    elif math.isinf(problem.lipschitz):
        known = dual(problem, exact, nodes, mp.mpf(solution.certificate.multiplier))
    return charged, feasible, known


def dual(problem, exact, nodes, multiplier):
    """The bound of duality at the weighting's own prices, without quadrature error and with exact bounds."""
    base = mp.mpf(problem.min_weight)
    high = mp.inf if math.isinf(problem.max_weight) else mp.mpf(problem.max_weight)
    least = min(w for _, _, w, _, _ in nodes)
    ratio = problem.max_ratio
    binds = math.isfinite(ratio) and ratio * least <= high * (1 + mp.mpf(10) ** -12)
    # The mean of h over [start, x] may exceed 1 by the rounding of f̂, no more.
    factor, ends, length = mp.mpf(1), mp.mpf(0), mp.mpf(0)
    ordered = nodes[::-1] if problem.monotone == "increasing" else nodes
    for k, (dm, _, _, h, _) in enumerate(ordered):
        ends, length = ends + dm * (h - 1), length + dm
        if (k + 1) % NODES == 0:
            factor = max(factor, 1 + ends / length)
    lows, highs = [], []
    for _, f, _, h, _ in nodes:
        lows.append(max(h * multiplier - f / least**2, mp.mpf(0)) / factor if binds else mp.mpf(0))
        highs.append(max(f / (ratio * least) ** 2 - h * multiplier, mp.mpf(0)) / factor if binds else mp.mpf(0))
    if binds:
        low_sum, high_sum = (mp.fsum(n[0] * a for n, a in zip(nodes, side, strict=True)) for side in (lows, highs))
        scale = (low_sum / (ratio * high_sum)) if high_sum > 0 and low_sum > 0 else mp.mpf(0)
        if scale > 1:
            lows = [a / scale for a in lows]
        elif scale > 0:
            highs = [a * scale for a in highs]
        else:
            lows, highs = [mp.mpf(0)] * len(nodes), [mp.mpf(0)] * len(nodes)
    total = -multiplier * exact.budget
    for (dm, f, _, h, _), a, b in zip(nodes, lows, highs, strict=True):
        pull = multiplier * h / factor + b - a
        if pull <= 0:
            return mp.mpf(0)
        w = min(max(mp.sqrt(f / pull), base), high)
        total += dm * (f / w + pull * w)
    return total


def best_of_bins(problem, exact, nodes):
    """The optimum over weights on bins, with bounds and monotone, by pooling and by Newton's method on the level."""
    if math.isfinite(problem.max_ratio) or math.isfinite(problem.lipschitz):
        return mp.mpf(0)
    edges = [log_odds(x) for x in problem.bins]
    cost, mass = [mp.mpf(0)] * (len(edges) + 1), [mp.mpf(0)] * (len(edges) + 1)
    for dm, f, _, _, inside in nodes:
        k = sum(inside > edge for edge in edges)
        cost[k], mass[k] = cost[k] + dm * f, mass[k] + dm
    cells = list(zip(cost, mass, strict=True))
    if problem.monotone is not None:
        pooled = []
        for cell in cells if problem.monotone == "decreasing" else cells[::-1]:
            pooled.append(cell)
            while len(pooled) > 1 and pooled[-1][0] / pooled[-1][1] >= pooled[-2][0] / pooled[-2][1]:
                last = pooled.pop()
                pooled[-1] = (pooled[-1][0] + last[0], pooled[-1][1] + last[1])
        cells = pooled
    low = mp.mpf(problem.min_weight)
    high = mp.inf if math.isinf(problem.max_weight) else mp.mpf(problem.max_weight)
    total = mp.fsum(m for _, m in cells)
    if low * total >= exact.budget or high * total <= exact.budget:
        return mp.mpf(0)
    mu = exact.budget / mp.fsum(mp.sqrt(c * m) for c, m in cells)
    for _ in range(200):
        w = [min(max(mu * mp.sqrt(c / m), low), high) for c, m in cells]
        free = mp.fsum(mp.sqrt(c * m) for (c, m), x in zip(cells, w, strict=True) if low < x < high)
        over = mp.fsum(m * x for (_, m), x in zip(cells, w, strict=True)) - exact.budget
        if abs(over) <= exact.budget * mp.mpf(10) ** -(DIGITS - 8):
            return mp.fsum(c / x for (c, _), x in zip(cells, w, strict=True))
        mu = mu - over / free if free > 0 else mu * (2 if over < 0 else mp.mpf(1) / 2)
    return mp.mpf(0)


def draw(rng):
    """A random problem: anywhere in (0, 1), from 1e-9 to many units of log-odds wide."""
    middle = rng.uniform(-20.7, 20.7) if rng.random() < 0.9 else rng.choice([-1, 1]) * rng.uniform(20.7, 27)
    width = 10 ** rng.uniform(-9, 1.2)
    side = 1 / (1 + math.exp(abs(middle)))  # of the two probabilities the smaller, with all its digits
    start = side if middle < 0 else 1 - side
    target = start + start * (1 - start) * math.expm1(width) / (1 + start * math.expm1(width))

    def table(largest):
        count = int(rng.integers(2, 8))
        at = np.sort(rng.uniform(0, 1, count)) if rng.random() < 0.5 else None
        inside = np.unique(
            1 / (1 + np.exp(-np.sort(rng.uniform(-21, 21, count))))
            if at is None
            else start + (target - start) * (1.4 * at - 0.2)
        )
        inside = inside[(inside > 1e-13) & (inside < 1 - 1e-13)]
        value = 10 ** rng.uniform(-largest, largest, inside.size)
        return LogLinear(tuple(inside.tolist()), tuple(value.tolist()))

    clock = clocks.parse(str(rng.choice(NAMES)))
    if rng.random() < 0.3:
        clock = clocks.Tabulated("csv", "drawn", table(float(rng.choice([1, 5, 30]))))
    mobility = MOBILITIES[str(rng.choice(list(MOBILITIES)))] if rng.random() < 0.3 else MOBILITIES["natural"]
    if rng.random() < 0.05:
        mobility = Mobility("csv:drawn", 0, table(3))
    budget = 10 ** rng.uniform(-3, 3)
    values: dict[str, Any] = {"budget_density": table(3)} if rng.random() < 0.1 else {}
    mean = budget / Problem(start, target, clock, mobility, budget, **values).extent
    kind = str(
        rng.choice(["free", "bounds", "monotone", "ratio", "bins", "slopes"], p=[0.3, 0.25, 0.18, 0.08, 0.186, 0.004])
    )
    if kind in ("bounds", "monotone") or (kind == "bins" and rng.random() < 0.3):
        if rng.random() < 0.6:
            values["min_weight"] = mean * rng.choice([rng.uniform(0, 1), 1 - 10 ** rng.uniform(-12, -1)])
        if rng.random() < 0.6:
            values["max_weight"] = mean * (1 + 10 ** rng.uniform(-6, 3))
    if kind == "monotone" or (kind == "bins" and rng.random() < 0.4):
        values["monotone"] = str(rng.choice(["decreasing", "increasing"]))
    if kind == "ratio" or (kind == "bins" and rng.random() < 0.15):
        values["max_ratio"] = 1 + 10 ** rng.uniform(-3, 2)
    if kind == "bins":
        edges = np.unique(start + (target - start) * np.sort(rng.uniform(0, 1, int(rng.integers(1, 6)))))
        values["bins"] = tuple(edges[(edges > start) & (edges < target)].tolist())
    if kind == "slopes":
        values["lipschitz"] = mean / width * 10 ** rng.uniform(-2, 1)
    return kind, Problem(start, target, clock, mobility, budget, **values)


def judge(problem, solution):
    """By how much the certificate says more than is true, relatively; 0 or less where it does not."""
    certificate = solution.certificate
    with mp.workdps(DIGITS):
        charged, feasible, known = examine(problem, solution)
        bound, gap = mp.mpf(certificate.lower_bound), mp.mpf(certificate.gap)
        # A slope may exceed its bound by the tolerance, which makes the weighting a little faster than feasible ones.
        room = 1 + mp.mpf(max(certificate.violation - 1e-15, 0) if math.isfinite(problem.lipschitz) else 0)
        excess = {
            "bound above a feasible time": bound / (feasible * room) - 1,
            "gap too small": charged / (bound * (1 + gap)) - 1,
            "time too small": charged / (mp.mpf(certificate.time) * (1 + gap)) - 1,
        }
        if known > 0:
            excess["bound above the best time"] = bound / known - 1
        return {what: float(value) for what, value in excess.items()}


ROUNDED = 2e-16  # the bound, the time and the gap are printed as floats


@pytest.mark.parametrize("problems", [25, pytest.param(PROBLEMS, marks=pytest.mark.slow)])
def test_no_certificate_says_more_than_is_true(problems):
    rng = np.random.default_rng(SEED)
    seen, refused, worst = collections.Counter(), collections.Counter(), {}
    while sum(seen.values()) < problems:
        try:
            kind, problem = draw(rng)
        except (ProblemError, ValueError):
            continue
        seen[kind] += 1
        solution = solve(problem, throw=False)
        if solution.status is not Status.OPTIMAL:
            refused[kind] += 1
            continue
        assert solution.gap <= tolerance(problem)
        for what, value in judge(problem, solution).items():
            worst[what] = max(worst.get(what, (-math.inf,)), (value, kind, str(problem.to_dict())))
    told = f"{sum(seen.values())} problems {dict(seen)}, refused {dict(refused)}, largest excess " + "; ".join(
        f"{what} {value:.2e} ({kind})" for what, (value, kind, _) in worst.items()
    )
    print(told)
    for what, (value, kind, problem) in worst.items():
        assert value <= ROUNDED, f"{what} by {value:.2e}, {kind}: {problem}"


@pytest.mark.parametrize(
    ("start", "target", "clock", "best"),
    [
        (0.9999999999, 0.999999999901, "variance", lambda a, b: (b - a) ** 2),
        (1 - 1e-11, 1 - 1e-12, "variance", lambda a, b: (b - a) ** 2),
        (0.5, 1 - 1e-12, "both", lambda a, b: (log_odds(b) - log_odds(a)) ** 2),
        (1 - 2e-12, 1 - 1e-12, "effective", lambda a, b: 4 * (mp.atanh(mp.sqrt(b)) - mp.atanh(mp.sqrt(a))) ** 2),
    ],
)
def test_targets_close_to_1_are_sound_and_certified(start, target, clock, best):
    solution = solve(Problem(start, target, clock))
    with mp.workdps(DIGITS):
        if clock == "effective":  # ∫ dρ/(ρ √(1-ρ))
            a, b = mp.mpf(start), mp.mpf(target)
            exact = (2 * (mp.atanh(mp.sqrt(1 - a)) - mp.atanh(mp.sqrt(1 - b)))) ** 2
        else:
            exact = best(mp.mpf(start), mp.mpf(target))
        assert mp.mpf(solution.lower_bound) <= exact
        assert abs(mp.mpf(solution.time) / exact - 1) <= 1e-13
        assert solution.gap <= 1e-12


@pytest.mark.parametrize("extra", [{}, {"bins": (0.0101, 0.0102)}], ids=["curve", "bins"])
def test_a_clock_of_sixty_decades_within_a_narrow_range(extra):
    measured = LogLinear((0.005, 0.01, 0.0103, 0.9), (1e-30, 1e-30, 1e30, 1e30))
    problem = Problem(0.01, 0.0103, clocks.Tabulated("csv", "steep", measured), **extra)
    solution = solve(problem)
    assert all(value <= ROUNDED for value in judge(problem, solution).values())
