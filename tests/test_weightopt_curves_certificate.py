"""Certificates tell the truth: about good weightings, bad ones, dishonest ones, and about the bound itself."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from tests.amounts import examples
from theory import catalogue, dynamics
from theory.quadrature import panels
from weightopt import Problem, solve
from weightopt.curves.certificate import Weight, certify

MONOTONE = (None, "decreasing", "increasing")
CLOCKS = ("regular", "effective", "failures", "mixed:8", "affine:1,0.5")


def scaled(problem, weighting, kinks=()) -> Weight:
    spent = dynamics.update_budget(weighting, problem.start, problem.target, kinks)
    return lambda rho: problem.budget / spent * weighting(rho)


@pytest.mark.parametrize(
    ("clock", "name", "ratio"),
    [
        ("effective", "grpo", 1.555),
        ("effective", "rloo", 3.309),
        ("regular", "linear-r", 1.954),
        ("regular", "sqrt-r", 1.371),
    ],
)
def test_a_wrong_weighting_gets_the_gap_it_deserves(clock, name, ratio):
    problem = Problem(0.01, 0.9, clock)
    certificate = certify(problem, scaled(problem, catalogue.WEIGHTINGS[name]))
    assert certificate.gap == pytest.approx(ratio - 1, abs=6e-4)  # the reference has three decimals
    assert certificate.lower_bound == pytest.approx(solve(problem).time, rel=1e-12)
    assert certificate.violation == 0


@pytest.mark.parametrize("factor", [1.0, 1.5, 3.0])
def test_overspending_is_charged_in_proportion(factor):
    problem = Problem(0.01, 0.9, "effective")
    best = solve(problem)
    certificate = certify(problem, lambda rho: factor * best.weighting(rho))
    assert certificate.budget_error == pytest.approx(factor - 1, abs=1e-13)
    assert certificate.time == pytest.approx(best.time, rel=1e-13)  # T/factor, charged by factor


@pytest.mark.parametrize("factor", [0.9, 0.5])
def test_underspending_is_slow_and_gains_nothing(factor):
    problem = Problem(0.01, 0.9, "effective")
    best = solve(problem)
    certificate = certify(problem, lambda rho: factor * best.weighting(rho))
    assert certificate.budget_error == pytest.approx(factor - 1, abs=1e-13)
    assert certificate.gap == pytest.approx(1 / factor - 1, rel=1e-10)


@pytest.mark.parametrize(
    ("extra", "violation"),
    [
        ({"max_weight": 2.0}, 0.5),  # 3 against at most 2
        ({"min_weight": 0.75}, 0.5),  # 0.5 against at least 0.75
        ({"monotone": "increasing"}, 5.0),  # a fall from 3 to 0.5 is 5 times what it falls to
        ({"monotone": "decreasing"}, 0.0),
        ({"max_weight": 3.0, "min_weight": 0.5, "monotone": "decreasing"}, 0.0),
    ],
    ids=str,
)
def test_a_violated_constraint_is_measured(extra, violation):
    # 3 below 0.3 and 1/2 above spends 0.3·(3 - 1/2) + 0.45 - 0.03·... on [0.01, 0.9]; only shapes matter here.
    problem = Problem(0.01, 0.9, "effective", budget=1.17, **extra)
    step = certify(problem, lambda rho: np.where(rho < 0.3, 3.0, 0.5), (0.3,))
    assert step.budget_error == pytest.approx(0, abs=1e-12)
    assert step.violation == pytest.approx(violation, abs=1e-12)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_a_weighting_that_is_not_positive_and_finite_cannot_be_certified(bad):
    with pytest.raises(ValueError, match="positive and finite"):
        certify(Problem(0.01, 0.9, "effective"), lambda rho: np.where(rho > 0.5, bad, 1.0))


SHAPES = st.lists(st.tuples(st.floats(0.05, 3), st.floats(-3, 3)), min_size=1, max_size=3)


@pytest.mark.slow
@examples(
    30,
    120,
    low=st.floats(-20, 2),
    width=st.floats(1e-3, 7),
    clock=st.sampled_from(CLOCKS),
    mobility=st.sampled_from(list(dynamics.MOBILITIES)),
    monotone=st.sampled_from(MONOTONE),
    shape=SHAPES,
)
def test_lower_bound_is_below_the_time_of_every_feasible_weighting(low, width, clock, mobility, monotone, shape):
    start, target = 1 / (1 + math.exp(-low)), 1 / (1 + math.exp(-(low + width)))
    sign = {"decreasing": -1.0, "increasing": 1.0}.get(monotone or "")

    def weighting(rho):
        terms = [size * rho ** (power if sign is None else sign * abs(power)) for size, power in shape]
        return np.sum(terms, axis=0)

    free = Problem(start, target, clock, mobility, monotone=monotone)
    certificate = certify(free, scaled(free, weighting))
    assert certificate.violation <= 1e-12
    assert certificate.lower_bound <= certificate.time * (1 + 1e-12)
    assert certificate.gap >= (certificate.time - certificate.lower_bound) / certificate.lower_bound - 1e-15
    # Bounds that this very weighting meets leave it feasible, and raise the bound at most up to its time.
    ends = np.array([start, target, *np.linspace(start, target, 4001)])
    values = scaled(free, weighting)(ends)
    lowest, highest = float(np.min(values)) * 0.98, float(np.max(values)) * 1.02
    bounded = Problem(start, target, clock, mobility, 1.0, lowest, highest, monotone)
    tight = certify(bounded, scaled(free, weighting))
    assert tight.violation <= 1e-12
    assert certificate.lower_bound * (1 - 1e-9) <= tight.lower_bound <= tight.time * (1 + 1e-9)


@pytest.mark.slow
@given(
    low=st.floats(-6, 1),
    width=st.floats(0.5, 5),
    clock=st.sampled_from(CLOCKS),
    bounds=st.sampled_from([(0, math.inf), (0, 1.5), (0.5, math.inf), (0.6, 1.3)]),
    steps=st.lists(st.floats(0, 1), min_size=1, max_size=6),
    decreasing=st.booleans(),
)
@settings(derandomize=True, max_examples=60, deadline=None)
def test_lower_bound_holds_for_step_functions_too(low, width, clock, bounds, steps, decreasing):
    """Monotone weightings are mixtures of steps: random ones, mixed with the mean weight until the bounds are met."""
    start, target = 1 / (1 + math.exp(-low)), 1 / (1 + math.exp(-(low + width)))
    mean = 1 / (target - start)
    problem = Problem(
        start,
        target,
        clock,
        "natural",
        1.0,
        bounds[0] * mean,
        bounds[1] * mean,
        "decreasing" if decreasing else "increasing",
    )
    jumps = np.linspace(start, target, len(steps) + 2)[1:-1]

    def raw(rho):
        value = np.full_like(rho, 0.02)
        for jump, size in zip(jumps, steps, strict=True):
            value = value + size * ((rho <= jump) if decreasing else (rho >= jump))
        return value

    shape = scaled(problem, raw, jumps.tolist())
    ends = shape(np.array([start, target]))
    room = min(
        1.0,
        (1 - bounds[0]) * mean / max(mean - float(np.min(ends)), 1e-300),
        (bounds[1] - 1) * mean / max(float(np.max(ends)) - mean, 1e-300),
    )
    certificate = certify(problem, lambda rho: (1 - room) * mean + room * shape(rho), jumps.tolist())
    assert certificate.budget_error == pytest.approx(0, abs=1e-11)
    assert certificate.violation <= 1e-9
    assert certificate.lower_bound <= certificate.time * (1 + 1e-10)


def test_lower_bound_survives_a_budget_that_barely_exceeds_the_lower_weight_bound():
    # Where the cost is steep, a relative slack of 1e-12 in the budget buys a quarter of the time.
    start, target = 1e-12, 0.9
    least = (1 - 0.9e-12) / (target - start)
    problem = Problem(start, target, "effective", min_weight=least)
    certificate = certify(problem, lambda rho: least + np.where(rho < 2e-12, 0.8, 0.0), (2e-12,))
    assert certificate.budget_error <= 0
    assert certificate.violation <= 1e-12
    assert certificate.lower_bound <= certificate.time * (1 + 1e-9)


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize(
    "extra", [{}, {"max_weight": 2.0}, {"min_weight": 0.5}, {"min_weight": 0.4, "max_weight": 2.0}], ids=str
)
def test_multiplier_is_the_price_of_the_budget(clock, extra):
    step = 1e-4
    times = [solve(Problem(0.01, 0.9, clock, budget=1 + s, **extra)).time for s in (-step, step)]
    price = -(times[1] - times[0]) / (2 * step)
    # Central difference: relative error (1e-4)² times a third derivative of order ten; rounding 1e-15/1e-4.
    assert solve(Problem(0.01, 0.9, clock, **extra)).certificate.multiplier == pytest.approx(price, rel=1e-5)


def test_lower_bound_agrees_with_a_linear_program_over_step_weightings():
    """T ≥ tangent planes: minimise Σ (2f/w₀ - f w/w₀²) over weights w feasible on cells, an independent lower road."""
    problem = Problem(0.05, 0.9, "effective", min_weight=0.5, max_weight=2.0, monotone="decreasing")
    points = panels(problem.start, problem.target, width=1 / 32)
    width = np.sum(points.weight, axis=1)
    cost = np.sum(points.weight * problem.cost_density(points.rho), axis=1)
    best = solve(problem).weighting(np.sqrt(points.edges[:-1] * points.edges[1:]))
    fall = np.zeros((width.size - 1, width.size))
    fall[np.arange(width.size - 1), np.arange(1, width.size)] = 1
    fall[np.arange(width.size - 1), np.arange(width.size - 1)] = -1
    program = linprog(
        -cost / best**2,
        A_ub=fall,
        b_ub=np.zeros(width.size - 1),
        A_eq=[width],
        b_eq=[problem.budget],
        bounds=(problem.min_weight, problem.max_weight),
    )
    assert program.status == 0
    lower = float(np.sum(2 * cost / best)) + program.fun
    # The tangent point is the true optimum at cell middles only: cells of 1/32 in log-odds, errors of their square.
    assert lower == pytest.approx(certify(problem, solve(problem).weighting).lower_bound, rel=2e-3)


@pytest.mark.parametrize("extra", [{}, {"max_weight": 2.0, "monotone": "decreasing"}], ids=str)
def test_certificate_does_not_depend_on_who_made_the_weighting(extra):
    problem = Problem(0.01, 0.9, "mixed:16", **extra)
    solution = solve(problem)
    rho = np.unique(np.concatenate([solution.grid(4001), solution.weighting.kinks]))
    values = solution.weighting(rho)
    copied = certify(problem, lambda x: np.interp(x, rho, values))
    # Linear interpolation on 4001 points: relative error of the weight 1e-6, of the stationary time its square,
    # but the kinks of the copy are unannounced and cost quadrature error, which is charged against the gap.
    assert copied.gap <= 1e-5
    assert copied.lower_bound == pytest.approx(solution.lower_bound, rel=1e-9)


def test_certificate_as_json_holds_every_number():
    certificate = solve(Problem(0.01, 0.9, "effective")).certificate
    values = certificate.to_dict()
    assert set(values) == {
        "time",
        "lower_bound",
        "gap",
        "quadrature_error",
        "multiplier",
        "budget_error",
        "violation",
    }
    assert all(type(value) is float for value in values.values())
