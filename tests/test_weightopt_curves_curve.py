"""The direct solver: certified everywhere, never beaten by a feasible weighting, exact where the answer is known."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

from tests.amounts import examples, some_of
from theory import catalogue, clocks, closed_forms, dynamics
from theory.quadrature import panels
from weightopt import Problem, solve
from weightopt.answer import Status
from weightopt.curves import curve
from weightopt.curves.weighting import SolvedWeighting
from weightopt.errors import SolverError

CLOCKS = ("regular", "effective", "failures", "mixed:2", "mixed:16", "affine:1,0.5")
SPANS = ((1e-9, 0.999), (0.01, 0.9), (0.38, 0.7), (1e-9, 1.1e-9), (0.4999, 0.5001), (0.3, 0.3 + 1e-9), (0.95, 0.999999))
# Bounds in units of the mean weight B/(ρ1 - ρ0).
BOUNDS = ((0, math.inf), (0, 1.5), (0.5, math.inf), (0.7, 1.2), (0, 1000), (1e-9, math.inf), (0.999, 1.001))
MONOTONE = (None, "decreasing", "increasing")


def root(function, low, high) -> float:
    return float(brentq(function, low, high, xtol=1e-15))  # pyright: ignore[reportArgumentType]


def bounded(start, target, clock, bounds, **rest):
    mean = rest.get("budget", 1.0) / (target - start)
    return Problem(start, target, clock, min_weight=bounds[0] * mean, max_weight=bounds[1] * mean, **rest)


def integrals(problem, weighting, width=1 / 64):
    """Time and budget of a weighting by this test's own panels: fine enough for kinks nobody announced."""
    points = panels(problem.start, problem.target, width=width)
    weight = weighting(points.rho)
    cost = problem.clock(points.rho) / problem.mobility(points.rho)
    return float(np.sum(points.weight * cost / weight)), float(np.sum(points.weight * weight))


def feasible(problem, shape):
    """Any positive shape, scaled and clipped until it spends the budget between the bounds; keeps monotonicity."""

    def clipped(log_factor):
        return lambda rho: np.clip(math.exp(log_factor) * shape(rho), problem.min_weight, problem.max_weight)

    factor = root(lambda x: integrals(problem, clipped(x))[1] / problem.budget - 1, -60, 60)
    return clipped(factor)


@some_of("mobility", list(dynamics.MOBILITIES), 1)
@some_of("span", SPANS, lambda span: span == (0.01, 0.9), ids=str)
def test_every_problem_is_certified(span, mobility):
    start, target = span
    for clock, bounds, monotone in itertools.product(CLOCKS, BOUNDS, MONOTONE):
        problem = bounded(start, target, clock, bounds, mobility=mobility, monotone=monotone)
        solution = solve(problem, throw=False)
        told = (clock, bounds, monotone, solution.certificate)
        assert solution.status is Status.OPTIMAL, told
        assert solution.gap <= 1e-10, told
        assert abs(solution.certificate.budget_error) <= 1e-9, told
        assert solution.certificate.violation <= 1e-9, told
        assert solution.lower_bound <= solution.time * (1 + 1e-12), told


@pytest.mark.slow
@pytest.mark.parametrize("monotone", MONOTONE)
@pytest.mark.parametrize("bounds", BOUNDS, ids=str)
@pytest.mark.parametrize("clock", ["effective", "mixed:4"])
def test_constraints_hold_on_a_grid_of_this_test(clock, bounds, monotone):
    problem = bounded(0.001, 0.99, clock, bounds, monotone=monotone)
    weighting = solve(problem).weighting
    weight = weighting(np.linspace(0.001, 0.99, 5001))
    assert np.all(weight >= problem.min_weight)
    assert np.all(weight <= problem.max_weight)
    change = np.diff(weight) / weight[1:]
    if monotone == "decreasing":
        assert np.max(change) <= 1e-12  # pool ends are exact to rounding
    if monotone == "increasing":
        assert np.min(change) >= -1e-12
    # Kinks cost these panels of 1/64 at most (1/64)² in one of 500 panels.
    assert integrals(problem, weighting)[1] == pytest.approx(problem.budget, rel=1e-6)


@pytest.mark.slow
@examples(
    20,
    60,
    bounds=st.sampled_from(BOUNDS),
    monotone=st.sampled_from(MONOTONE),
    clock=st.sampled_from(CLOCKS),
    mobility=st.sampled_from(list(dynamics.MOBILITIES)),
    mix=st.floats(0.01, 1),
    powers=st.lists(st.tuples(st.floats(0.1, 3), st.floats(-2, 2)), min_size=1, max_size=3),
    constant=st.floats(0.01, 2),
)
def test_no_feasible_perturbation_beats_the_optimum(bounds, monotone, clock, mobility, mix, powers, constant):
    problem = bounded(0.005, 0.95, clock, bounds, mobility=mobility, monotone=monotone)
    solution = solve(problem)
    sign = {"decreasing": -1, "increasing": 1, None: None}[monotone]

    def shape(rho):
        terms = [size * rho ** (power if sign is None else sign * abs(power)) for size, power in powers]
        return constant + sum(terms)

    other = feasible(problem, shape)
    # The feasible weightings are a convex set and the budget is linear, so a mixture is feasible too.
    time, spent = integrals(problem, lambda rho: (1 - mix) * solution.weighting(rho) + mix * other(rho))
    # Unannounced kinks cost either integral up to 1e-6 (the clipped ends); without bounds or pools there are none.
    slack = 2e-6 if problem.min_weight > 0 or problem.max_weight < math.inf or monotone else 1e-12
    assert spent == pytest.approx(problem.budget, rel=slack)
    assert time >= solution.time * (1 - slack)
    assert time >= solution.lower_bound * (1 - slack)


@given(waves=st.lists(st.floats(-0.2, 0.2), min_size=1, max_size=4), clock=st.sampled_from(CLOCKS))
@settings(derandomize=True, max_examples=40, deadline=None)
def test_a_wave_on_the_optimum_costs_its_variance_at_second_order(waves, clock):
    """ω(1+g) with ∫ωg = 0 costs T(1 + ∫g²ω/B) to second order: the optimum is stationary, with curvature one."""
    problem = Problem(0.01, 0.9, clock)
    solution = solve(problem)
    points = panels(0.01, 0.9, width=1 / 8)
    weight = solution.weighting(points.rho)
    theta = np.log(points.rho / (1 - points.rho))
    wave = sum(a * np.cos((k + 1) * theta) for k, a in enumerate(waves))
    wave = wave - np.sum(points.weight * weight * wave)  # ∫ω = 1
    cost = problem.cost_density(points.rho)
    time = float(np.sum(points.weight * cost / (weight * (1 + wave / 10))))
    variance = float(np.sum(points.weight * weight * (wave / 10) ** 2))
    largest = float(np.max(np.abs(wave))) / 10
    assert time / solution.time - 1 == pytest.approx(variance, rel=2 * largest, abs=1e-13)  # next order: cubic


@pytest.mark.parametrize(("clock", "best"), [("regular", "grpo"), ("effective", "sqrt-r"), ("failures", "linear-r")])
@pytest.mark.parametrize("budget", [0.01, 1.0, 40.0])
def test_unconstrained_answer_is_the_named_weighting_at_that_budget(clock, best, budget):
    solution = solve(Problem(0.003, 0.97, clock, budget=budget))
    rho = np.geomspace(1e-4, 0.999, 30)
    ratio = solution.weighting(rho) / catalogue.WEIGHTINGS[best](rho)
    assert ratio == pytest.approx(np.full(30, ratio[0]), rel=1e-12)
    assert solution.time == pytest.approx(closed_forms.optimal_time(clock, 0.003, 0.97, budget), rel=1e-12)


def test_loose_bounds_and_idle_monotonicity_change_nothing():
    free = solve(Problem(0.01, 0.5, "effective"))  # √f falls on all of (0, 2/3)
    idle: tuple[dict[str, Any], ...] = (
        {"min_weight": 1e-6},
        {"max_weight": 1e6},
        {"max_weight": 1e29},
        {"monotone": "decreasing"},
        {"monotone": "decreasing", "min_weight": 1e-6, "max_weight": 1e6},
    )
    for extra in idle:
        assert solve(Problem(0.01, 0.5, "effective", **extra)).time == pytest.approx(free.time, rel=1e-13), extra


@pytest.mark.parametrize("span", [(0.01, 0.6), (0.5, 0.503), (0.1, 0.101), (0.1, 0.1 + 1e-6), (1e-9, 0.66)], ids=str)
def test_monotone_against_the_slope_pools_everything_into_a_constant(span):
    # c/κ = 1/ρ² falls everywhere, so the best non-decreasing weight is the constant B/(ρ1 - ρ0) = rloo.
    start, target = span
    solution = solve(Problem(start, target, "failures", monotone="increasing"))
    mean = 1 / (target - start)
    assert solution.weighting(np.linspace(start, target, 11)) == pytest.approx(np.full(11, mean), rel=1e-9)
    assert solution.time == pytest.approx((1 / start - 1 / target) * (target - start), rel=1e-9)


def test_decreasing_weight_on_the_regular_clock_is_pooled_from_a_point_that_solves_its_equation():
    # f = 1/(ρ(1-ρ)); pool [p, ρ1] with mean of f over it equal to f(p): (logit ρ1 - logit p)/(ρ1 - p) = f(p).
    target = 0.95

    def excess(p):
        def logit(x):
            return math.log(x / (1 - x))

        return (logit(target) - logit(p)) / (target - p) - 1 / (p * (1 - p))

    p = root(excess, 0.01, 0.4)
    solution = solve(Problem(0.01, target, "regular", monotone="decreasing"))
    grpo = catalogue.WEIGHTINGS["grpo"]
    below, within = np.linspace(0.01, p, 7), np.linspace(p, target, 7)
    scale = solution.weighting(below)[0] / grpo(below)[0]
    assert solution.weighting(below) == pytest.approx(scale * grpo(below), rel=1e-11)
    assert solution.weighting(within) == pytest.approx(np.full(7, scale * grpo(p)), rel=1e-11)


def test_water_filling_with_one_bound_solves_its_own_equation():
    # Effective clock, ω = min(μ/(ρ√(1-ρ)), b): below p the bound, ∫ = b(p - ρ0) + μ(h(ρ1) - h(p)), μ = b p √(1-p).
    start, target, bound = 0.01, 0.9, 3.0

    def primitive(x):
        return -2 * math.atanh(math.sqrt(1 - x))

    def excess(p):
        return bound * (p - start) + bound * p * math.sqrt(1 - p) * (primitive(target) - primitive(p)) - 1

    p = root(excess, start, 0.5)
    mu = bound * p * math.sqrt(1 - p)
    solution = solve(Problem(start, target, "effective", max_weight=bound))
    rho = np.array([0.01, 0.5 * p, 0.99 * p, 1.01 * p, 0.5, 0.9])
    expected = np.minimum(mu / (rho * np.sqrt(1 - rho)), bound)
    assert solution.weighting(rho) == pytest.approx(expected, rel=1e-12)
    time = ((math.log(p / (1 - p)) - 1 / p) - (math.log(start / (1 - start)) - 1 / start)) / bound
    time += (primitive(target) - primitive(p)) / mu
    assert solution.time == pytest.approx(time, rel=1e-12)


@pytest.mark.parametrize("monotone", MONOTONE)
@pytest.mark.parametrize("side", ["min_weight", "max_weight"])
@pytest.mark.parametrize("span", [(0.01, 0.9), (0.38, 0.7), (0.25, 0.75)], ids=str)
def test_a_bound_equal_to_the_mean_weight_leaves_one_answer(span, side, monotone):
    start, target = span
    problem = Problem(start, target, "effective", monotone=monotone, **{side: 1 / (target - start)})
    solution = solve(problem)
    rho = np.linspace(start, target, 9)
    # The rounding of the budget, ε, may be spent at one end: a corner of height δ and width δ/slope, δ ~ √(ε slope).
    assert solution.weighting(rho) == pytest.approx(np.full(9, 1 / (target - start)), rel=1e-6)


def test_tighter_constraints_cost_time_and_never_save_any():
    times = [
        solve(Problem(0.01, 0.9, "effective", max_weight=bound)).time for bound in (math.inf, 30.0, 10.0, 3.0, 1.5)
    ]
    assert times == sorted(times)
    assert times[-1] > times[0] * 1.1
    free = solve(Problem(0.01, 0.9, "effective")).time
    for monotone in ("decreasing", "increasing"):
        assert solve(Problem(0.01, 0.9, "effective", monotone=monotone)).time >= free * (1 - 1e-13)


@pytest.mark.slow
@given(budget=st.floats(1e-6, 1e6), bounds=st.sampled_from(BOUNDS), monotone=st.sampled_from(MONOTONE))
@settings(derandomize=True, max_examples=25, deadline=None)
def test_budget_and_bounds_together_only_rescale_the_answer(budget, bounds, monotone):
    one = solve(bounded(0.01, 0.9, "mixed:8", bounds, monotone=monotone))
    other = solve(bounded(0.01, 0.9, "mixed:8", bounds, monotone=monotone, budget=budget))
    assert other.time * budget == pytest.approx(one.time, rel=1e-12)
    rho = np.linspace(0.01, 0.9, 13)
    assert other.weighting(rho) == pytest.approx(budget * one.weighting(rho), rel=1e-9)  # the multiplier is a root


def test_a_common_factor_of_the_clock_changes_time_but_not_the_weighting():
    one = solve(Problem(0.01, 0.9, clocks.Affine(0.2, 0.1), max_weight=4.0, monotone="decreasing"))
    other = solve(Problem(0.01, 0.9, clocks.Affine(2.0, 1.0), max_weight=4.0, monotone="decreasing"))
    assert other.time == pytest.approx(10 * one.time, rel=1e-12)
    rho = np.linspace(0.01, 0.9, 13)
    assert other.weighting(rho) == pytest.approx(one.weighting(rho), rel=1e-10)


LIMITS = [
    ("regular", "natural", 0.0, 0.0),
    ("effective", "natural", 1.0, 0.0),
    ("failures", "natural", 1.0, 0.0),
    ("mixed:16", "natural", 0.25, 0.25),
    ("affine:3,4", "natural", 2.0, 0.0),
    ("affine:3,0", "natural", 0.0, 0.0),
    ("regular", "softmax-gradient", 1.0, 1.0),
    ("failures", "softmax-gradient", math.inf, 0.0),
    ("effective", "softmax-gradient", math.inf, 1.0),
]


@pytest.mark.parametrize(("clock", "mobility", "wrong", "right"), LIMITS)
def test_end_rules_of_a_solved_weighting_are_its_limits(clock, mobility, wrong, right):
    weighting = solve(Problem(0.01, 0.9, clock, mobility)).weighting
    assert isinstance(weighting, SolvedWeighting)
    # Leading coefficient of √f times the multiplier, by hand from the clock's formula.
    assert weighting.all_wrong_advantage == pytest.approx(-wrong * weighting.multiplier)
    assert weighting.all_right_advantage == pytest.approx(right * weighting.multiplier)
    x = 1e-10
    at_zero, at_one = float(-x * weighting(x)), float(x * weighting(1 - x))
    for stated, seen in ((weighting.all_wrong_advantage, at_zero), (weighting.all_right_advantage, at_one)):
        if math.isinf(stated):
            assert math.copysign(1, seen) == math.copysign(1, stated)
            assert abs(seen) > 1e4 * weighting.multiplier
        else:
            # The slowest approach is √x = 1e-5 times a coefficient below 2.
            assert seen == pytest.approx(stated, abs=3e-5 * weighting.multiplier)


@pytest.mark.parametrize(
    "extra", [{"max_weight": 50.0}, {"monotone": "decreasing"}, {"monotone": "increasing"}], ids=str
)
def test_end_rules_of_a_bounded_or_monotone_weighting_vanish(extra):
    weighting = solve(Problem(0.01, 0.9, "effective", **extra)).weighting
    assert (weighting.all_wrong_advantage, weighting.all_right_advantage) == (0.0, 0.0)
    x = 1e-10
    assert abs(x * float(weighting(x))) < 1e-7
    assert abs(x * float(weighting(1 - x))) < 1e-7


def test_a_solution_that_cannot_be_certified_raises_or_says_so(monkeypatch):
    monkeypatch.setattr(curve, "TOLERANCE", -1.0)
    with pytest.raises(SolverError, match="not certified"):
        solve(Problem(0.01, 0.9, "effective"))
    assert solve(Problem(0.01, 0.9, "effective"), throw=False).status is Status.UNCERTIFIED


def test_a_solution_prints_what_a_reader_needs():
    text = str(solve(Problem(0.01, 0.9, "effective", max_weight=3.0, monotone="decreasing")))
    for word in ("0.01", "0.9", "effective", "optimal", "time", "lower bound", "gap", "decreasing", "3"):
        assert word in text


def test_solving_twice_gives_the_same_bits():
    problem = bounded(0.01, 0.9, "mixed:16", (0.5, 1.5), monotone="decreasing")
    one, other = solve(problem), solve(problem)
    assert one.certificate == other.certificate
    assert np.array_equal(one.weighting(one.grid()), other.weighting(other.grid()))


@pytest.mark.parametrize("span", SPANS, ids=str)
def test_the_grid_of_a_solution_runs_from_start_to_target(span):
    start, target = span
    grid = solve(Problem(start, target, "effective")).grid(101)
    assert (grid[0], grid[-1]) == (start, target)
    assert np.all(np.diff(grid) > 0)
