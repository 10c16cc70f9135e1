"""The convex road: the same problems through cvxpy and Clarabel, sharing no search with the direct methods.

Unknown are the weights of a curve at knots, linear between them, or those of a group table; integrals are Gauss sums
of this module's own. What comes out is certified like any other answer. It is slower and less accurate than the direct
methods: it is here to cross-check them in one flag.
"""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple, cast

import cvxpy as cp
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.special import expit, logit

from theory.finite_group import binomial
from weightopt.answer import CONVEX
from weightopt.curves.certificate import SlopePrices
from weightopt.curves.curve import CONVEX_METHOD as CURVE_METHOD
from weightopt.curves.curve import CurveAnswer
from weightopt.curves.curve import answered as answered_curve
from weightopt.curves.interior_point import Prices
from weightopt.curves.problem import Problem
from weightopt.curves.weighting import LinearWeighting, StepWeighting
from weightopt.errors import ProblemError, SolverError
from weightopt.groups.group import CONVEX_METHOD as GROUP_METHOD
from weightopt.groups.group import GroupAnswer, GroupProblem
from weightopt.groups.group import answered as answered_group
from weightopt.groups.limit import LimitPrices

Array = NDArray[np.float64]
ASKED = 1e-10  # of the interior-point method: absolute and relative gap, feasibility
SPACING = 1 / 32  # of knots in log-odds
LIMIT_PLACES = 256  # for each response of a group, where a crowding limit is asked for
BINDING = 1e-6  # price of a slope, relative to the largest, from which it is at its bound
NODES, NODE_WEIGHTS = np.polynomial.legendre.leggauss(6)


class Program(NamedTuple):
    """A curve problem in knots and nodes: weights at the nodes are ``between @ w``."""

    knots: Array  # (k,) success probabilities from start to target; the edges of the bins where there are bins
    between: csr_array  # (n, number of unknowns)
    cost: Array  # (n,) ∫ c/κ dρ
    mass: Array  # (n,) the budget that weight 1 spends


class Found(NamedTuple):
    """Weights, the objective of the program, and the prices of its constraints in the problem's units."""

    weight: Array
    time: float
    prices: Prices


def solve_curve(problem: Problem, *, throw: bool = True, spacing: float = SPACING) -> CurveAnswer:
    """The best curve that is linear between knots, or constant on the problem's bins.

    Parameters
    ----------
    problem
        Any curve problem.
    throw
        Raise when the certified gap exceeds 1e-4 or a constraint is violated by more than 1e-7.
    spacing
        Of the knots, in log-odds. The gap falls with its fourth power where the answer is smooth, and with its square
        under a crowding limit.

    Raises
    ------
    SolverError
        See `throw`; and if the method finds no solution.
    """
    program = _curve_program(problem, spacing)
    found = _best_curve(problem, program)
    if problem.crowding is not None:
        weighting = StepWeighting(tuple(program.knots[1:-1].tolist()), tuple(found.weight.tolist()), problem.tilt)
        answer = answered_curve(problem, weighting, None, CURVE_METHOD, CONVEX)
        answer.certified(throw)
        return answer
    if problem.bins is not None:
        weighting = StepWeighting(problem.bins, tuple(found.weight.tolist()))
        prices = found.prices
    else:
        weighting = LinearWeighting(tuple(program.knots.tolist()), tuple(found.weight.tolist()), problem.lipschitz_in)
        prices = None
        if math.isfinite(problem.lipschitz):
            assert found.prices.difference is not None
            prices = SlopePrices(found.prices.budget, _runs(program.knots, found.prices.difference))
    answer = answered_curve(problem, weighting, prices, CURVE_METHOD, CONVEX)
    answer.certified(throw)
    return answer


def _curve_program(problem: Problem, spacing: float) -> Program:
    """Gauss nodes in log-odds between knots, which stand at every kink that is known beforehand."""
    limits = () if problem.crowding_range is None else problem.crowding_range
    inner = {*problem.kinks, *(problem.bins or ()), *limits} - {problem.start, problem.target}
    edges = np.array([problem.start, *sorted(inner), problem.target])
    theta = logit(edges)
    pieces = np.maximum(1, np.ceil(np.diff(theta) / spacing)).astype(int)
    knots = np.concatenate(
        [*(np.linspace(a, b, n, endpoint=False) for a, b, n in zip(theta, theta[1:], pieces, strict=False)), theta[-1:]]
    )
    half = np.diff(knots) / 2
    rho = expit(((knots[1:] + knots[:-1]) / 2)[:, None] + half[:, None] * NODES)
    measure = half[:, None] * NODE_WEIGHTS * rho * (1 - rho)
    density = 1.0 if problem.budget_density is None else problem.budget_density(rho)
    cost, mass = (measure * problem.clock(rho) / problem.mobility(rho)).ravel(), (measure * density).ravel()
    places = expit(knots)
    places[0], places[-1] = problem.start, problem.target
    rows = np.arange(rho.size)
    if problem.bins is not None:
        owner = np.searchsorted(np.array(problem.bins), rho.ravel(), side="right")
        constant = csr_array((np.ones(rho.size), (rows, owner)), shape=(rho.size, len(problem.bins) + 1))
        return Program(np.array([problem.start, *problem.bins, problem.target]), constant, cost, mass)
    if problem.crowding is not None:
        # ωρ^m constant between knots: it can then be non-increasing exactly, and jump where the range ends.
        owner = np.repeat(np.arange(places.size - 1), NODES.size)
        tilted = csr_array((rho.ravel() ** -problem.tilt, (rows, owner)), shape=(rho.size, places.size - 1))
        return Program(places, tilted, cost, mass)
    x = problem.coordinate(places)
    share = ((problem.coordinate(rho) - x[:-1, None]) / np.diff(x)[:, None]).ravel()
    left = np.repeat(np.arange(places.size - 1), NODES.size)
    between = csr_array(
        (np.concatenate([1 - share, share]), (np.tile(rows, 2), np.concatenate([left, left + 1]))),
        shape=(rho.size, places.size),
    )
    return Program(places, between, cost, mass)


def _best_curve(problem: Problem, program: Program) -> Found:
    """The program in units of the unconstrained optimum √f·B/∫√f, in which every quantity is of order one."""
    root = np.sqrt(program.cost * program.mass)
    total = float(np.sum(root))
    unit = problem.budget / float(np.sum(program.mass))  # the constant weight
    level = np.sqrt(program.cost / program.mass) * (problem.budget / total) / unit  # the optimum over it
    share = program.mass / np.sum(program.mass)
    w = cp.Variable(cast(tuple[int, int], program.between.shape)[1])
    constraints: list[cp.Constraint] = [(share @ program.between) @ w == 1]
    if problem.min_weight > 0:
        constraints.append(w >= problem.min_weight / unit)
    if math.isfinite(problem.max_weight):
        constraints.append(w <= problem.max_weight / unit)
    up = down = low = high = None
    if w.size > 1 and (problem.monotone is not None or math.isfinite(problem.lipschitz)):
        x = problem.coordinate(program.knots)
        apart = np.diff(x if problem.bins is None else (x[1:] + x[:-1]) / 2)
        fall, rise = problem.slopes
        # An infinite bound times a distance is none.
        up = cp.diff(w) <= (rise / unit * apart if rise else 0) if math.isfinite(rise) else None
        down = cp.diff(w) >= (fall / unit * apart if fall else 0) if math.isfinite(fall) else None
    if problem.crowding is not None:
        first, last = np.searchsorted(program.knots, problem.pooled_on or (problem.start, problem.target))
        if last > first + 1:
            constraints.append(cp.diff(w[first:last]) <= 0)
    if math.isfinite(problem.max_ratio):
        smallest = cp.Variable()
        low, high = w >= smallest, w <= problem.max_ratio * smallest
    constraints += [one for one in (up, down, low, high) if one is not None]
    speed = cp.multiply(1 / level, program.between @ w)
    objective = cp.Minimize((root / total) @ cp.inv_pos(speed))
    value = _run(cp.Problem(objective, constraints))
    weight = np.asarray(w.value)
    weight = weight / float((share @ program.between) @ weight)  # to the last digit
    time_unit = total**2 / problem.budget

    def price(constraint: cp.Constraint | None) -> Array | None:
        return None if constraint is None else np.abs(np.asarray(constraint.dual_value)) * (time_unit / unit)

    rising, falling = price(up), price(down)
    slopes = (
        None
        if up is None and down is None
        else (0.0 if rising is None else rising) - (0.0 if falling is None else falling)
    )
    prices = Prices(
        abs(float(np.asarray(constraints[0].dual_value))) * time_unit / problem.budget,
        None if slopes is None else np.asarray(slopes),
        ratio_low=price(low),
        ratio_high=price(high),
    )
    return Found(weight * unit, value * time_unit, prices)


def _runs(knots: Array, prices: Array) -> Array:
    """Maximal intervals on which the slope is at one of its bounds, shape (k, 2)."""
    sign = np.where(np.abs(prices) > BINDING * np.max(np.abs(prices)), np.sign(prices), 0)
    turns = np.flatnonzero(np.diff(sign)) + 1
    starts, stops = np.append(0, turns), np.append(turns, sign.size)
    present = sign[starts] != 0
    return knots[np.column_stack([starts[present], stops[present]])]


def solve_group(problem: GroupProblem, *, throw: bool = True, panel_width: float = 0.5) -> GroupAnswer:
    """The time-optimal centred table of a finite group.

    Parameters
    ----------
    problem
        A centred table, any shape.
    throw
        As in `solve_curve`.
    panel_width
        Width in log-odds of the panels of 16 nodes.

    Raises
    ------
    ProblemError
        If the advantages need not be centred.
    SolverError
        As in `solve_curve`.
    """
    found = best_group(problem, panel_width=panel_width)
    answer = answered_group(problem, found.advantages, GROUP_METHOD, CONVEX, found.prices)
    answer.certified(throw)
    return answer


class BestGroup(NamedTuple):
    """What the program for groups finds.

    Attributes
    ----------
    advantages
        Weights ω_K, K = 1..M-1, of the best centred table; under a crowding limit the push on all-wrong groups first.
    time
        Its time, by this module's own program.
    prices
        Of a crowding limit.
    """

    advantages: Array
    time: float
    prices: LimitPrices | None


def best_group(problem: GroupProblem, *, panel_width: float = 0.5) -> BestGroup:
    """The best centred table, by a program from the definitions of step, budget and limit."""
    if not problem.centred:
        raise ProblemError("method", "convex covers centred tables only; direct can do this one")
    curve, size = problem.curve, problem.group_size
    points = curve.panels(width=panel_width)
    rho, measure = points.rho.ravel(), points.weight.ravel()
    k = np.arange(1, size) / size
    groups = binomial(rho, size)[:, 1:-1]
    # From the definition of the step models, not through the Bernstein identity that the direct method uses.
    share = k * (1 - k) / (rho * (1 - rho))[:, None] if problem.step_model == "ratio" else 1.0
    moves, squares = groups * share, groups * k * (1 - k)
    if problem.crowding is not None:  # all wrong: M responses of advantage -1, over the probability of a wrong one
        none_right = (1 - rho) ** size
        moves = np.column_stack([none_right / (1 - rho), moves])
        squares = np.column_stack([none_right, squares])
    w = cp.Variable(moves.shape[1], nonneg=True)
    shaped = w if problem.crowding is None else w[1:]
    # In units of the curve's optimum the speed at every node is of order one.
    root = np.sqrt(curve.cost_density(rho))
    total = float(measure @ root)
    u = cp.multiply(1 / root, moves @ w)
    mass = measure * root / total
    if problem.budget_kind == "drift":
        constraints: list[cp.Constraint] = [mass @ u <= 1]
    else:
        per_time = measure * curve.cost_density(rho) / curve.clock(rho)  # dρ/κ
        noise = np.sqrt(squares * (per_time / (root * total))[:, None])
        spent = cp.sum([cp.quad_over_lin(cp.multiply(noise[j], w), u[j]) for j in range(rho.size)])
        constraints = [cp.NonNeg(1 - spent)]
    if problem.shape == "nonincreasing" and size > 2:
        constraints.append(cp.diff(shaped) <= 0)
    if problem.shape == "convex" and size > 3:
        constraints.append(cp.diff(shaped, 2) >= 0)
    limit = places = None
    if problem.crowding is not None:
        places = np.geomspace(*problem.limited_on, LIMIT_PLACES * size)
        limit = _room(problem, places) @ w >= 0
        constraints.append(limit)
    value = _run(cp.Problem(cp.Minimize(mass @ cp.inv_pos(u)), constraints))
    advantages = np.maximum(np.asarray(w.value), 0) * curve.budget / total
    time = value * total**2 / curve.budget
    prices = None
    if limit is not None and places is not None:
        # The dual is in units of the program, whose time is over total²/B and whose weights are over B/total.
        price = np.maximum(np.asarray(limit.dual_value), 0) * total**3 / curve.budget**2
        # The certificate's unit is the room of u, of which that of φ = ρu is ρ times as much.
        prices = LimitPrices(places, price * places if problem.crowding_measure == "gradient" else price)
    return BestGroup(advantages, time, prices)


def _room(problem: GroupProblem, places: Array) -> Array:
    """κφ - ρφ' at some places by unknown, φ being sums over groups and φ' their derivatives term by term."""
    assert problem.crowding is not None
    size, rho = problem.group_size, places[:, None]
    if problem.crowding_measure == "push":  # E[-A⁻_K] over the other M-1 responses
        count, value = size - 1, np.concatenate([[1.0], np.arange(1, size) / size])
        groups, k = binomial(places, count), np.arange(size)
        phi, slope = groups * value, groups * (k - count * rho) / (1 - rho) * value
    else:  # ρu: of mixed groups Σ Bin(K; M, ρ) (K/M)(1-K/M)/(1-ρ) ω_K, of all-wrong ones ρ(1-ρ)^(M-1)
        k = np.arange(size)
        value = np.concatenate([[1.0], (np.arange(1, size) / size) * (1 - np.arange(1, size) / size)])
        groups = binomial(places, size)[:, :-1] * value / (1 - rho)
        groups[:, 0] *= places
        slope = groups * ((k - size * rho) / (1 - rho) + rho / (1 - rho))
        slope[:, 0] += groups[:, 0]
        phi = groups
    # Between the places an elasticity, whose second derivative in ln ρ is of order M, exceeds it by this at most.
    between = size * (math.log(places[-1] / places[0]) / places.size) ** 2 / 4
    return (problem.crowding - between) * phi - slope


def _run(program: cp.Problem) -> float:
    try:
        with warnings.catch_warnings():
            # "Solution may be inaccurate": the certificate will say how inaccurate.
            warnings.simplefilter("ignore", UserWarning)
            program.solve(solver=cp.CLARABEL, tol_gap_abs=ASKED, tol_gap_rel=ASKED, tol_feas=ASKED, max_iter=500)
    except cp.SolverError as error:
        raise SolverError(f"the convex program failed: {error}") from None
    if not isinstance(program.value, float | np.floating):
        raise SolverError(f"the convex program ended with status {program.status!r}")
    return float(program.value)


SOLVERS = {"curve": solve_curve, "group": solve_group}
