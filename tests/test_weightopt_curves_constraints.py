"""Lipschitz, ratio and piecewise-constant curves: the convex road, certificates against anything, laws."""

import json
import math

import numpy as np
import pytest
from hypothesis import strategies as st

from tests.amounts import examples, some_of
from weightopt import Problem, solve
from weightopt.convex import solve_curve
from weightopt.curves.certificate import SlopePrices, certify
from weightopt.curves.curve import tolerance
from weightopt.errors import ProblemError
from weightopt.table import WeightTable
from weightopt.verify import verify

COMBINATIONS = [
    {"max_ratio": 5.0},
    {"max_ratio": 3.0, "max_weight": 1.6},
    {"max_ratio": 2.0, "monotone": "decreasing"},
    {"bins": (0.05, 0.2, 0.5)},
    {"bins": (0.05, 0.2, 0.5), "max_ratio": 2.0, "monotone": "decreasing"},
    {"bins": (0.05, 0.2, 0.5), "lipschitz": 0.2},
    {"lipschitz": 1.0},
    {"lipschitz": 0.1},
    {"lipschitz": 20.0, "lipschitz_in": "rho"},
    {"lipschitz": 0.5, "max_weight": 1.5, "min_weight": 0.8, "monotone": "decreasing"},
    {"lipschitz": 0.3, "max_ratio": 1.7},
    {"lipschitz": 2.0, "lipschitz_in": "rho", "max_ratio": 1.5, "monotone": "increasing", "max_weight": 1.4},
]


@some_of("constraints", COMBINATIONS, 4, ids=str)
@some_of("clock", ["effective", "regular", "mixed:8"], 1)
def test_certified_and_equal_to_the_convex_road(constraints, clock):
    problem = Problem(0.01, 0.9, clock, **constraints)
    found = solve(problem)
    assert found.gap <= tolerance(problem)
    assert found.certificate.violation <= 1e-9
    # The other road has about 450 nodes, linear between neighbours: its kinks are off by 1e-6 of the time.
    assert solve_curve(problem).time == pytest.approx(found.time, rel=3e-6)


@some_of("constraints", COMBINATIONS, 4, ids=str)
def test_the_weights_are_what_was_asked_for(constraints):
    problem = Problem(0.02, 0.8, "effective", budget=0.9, **constraints)
    found = solve(problem)
    rho = np.linspace(problem.start, problem.target, 20_001)
    weight = found.weighting(rho)
    # Trapezoids on 20 000 cells: second order, with jumps at bins that cost first order.
    assert np.trapezoid(weight, rho) == pytest.approx(0.9, rel=1e-3)
    assert np.trapezoid(1 / (rho**2 * (1 - rho) * weight), rho) == pytest.approx(found.time, rel=1e-3)
    assert weight.max() <= problem.max_ratio * weight.min() * (1 + 1e-9)
    assert problem.min_weight - 1e-9 <= weight.min()
    assert weight.max() <= problem.max_weight + 1e-9
    if problem.monotone == "decreasing":
        assert np.all(np.diff(weight) <= 1e-12)
    if problem.monotone == "increasing":
        assert np.all(np.diff(weight) >= -1e-12)
    if problem.bins is None and math.isfinite(problem.lipschitz):
        assert np.all(np.abs(np.diff(weight)) <= problem.lipschitz * np.diff(problem.coordinate(rho)) + 1e-9)
    if problem.bins is not None:
        assert np.unique(weight).size <= len(problem.bins) + 1


@st.composite
def constrained(draw):
    start = draw(st.sampled_from([0.001, 0.03, 0.3]))
    target = draw(st.sampled_from([0.5, 0.9, 0.99]))
    mean = 1 / (target - start)
    values = {
        "min_weight": draw(st.sampled_from([0.0, 0.5, 0.9])) * mean,
        "max_weight": draw(st.sampled_from([1.2, 3.0, math.inf])) * mean,
        "monotone": draw(st.sampled_from([None, "decreasing", "increasing"])),
        "max_ratio": draw(st.sampled_from([math.inf, 1.3, 6.0])),
        "lipschitz": draw(st.sampled_from([math.inf, 0.05, 0.5, 5.0])) * mean,
        "lipschitz_in": draw(st.sampled_from(["log-odds", "rho"])),
        "bins": draw(st.sampled_from([None, None, (0.35, 0.4), ()])),
    }
    return Problem(start, target, draw(st.sampled_from(["regular", "effective", "mixed:4"])), **values)


@pytest.mark.slow
@examples(8, 150, constrained())
def test_any_combination_has_a_certified_answer(problem):
    # The constant weight meets every constraint, so none of these contradict each other.
    found = solve(problem)
    assert found.gap <= tolerance(problem)
    assert found.certificate.violation <= 1e-9
    relaxed = solve(problem.unconstrained)
    constant = problem.extent**2 * _mean_cost(problem)
    assert relaxed.time * (1 - 1e-9) <= found.time <= constant * (1 + 1e-9)


def _mean_cost(problem):
    points = problem.panels()
    return float(np.sum(points.weight * problem.cost_density(points.rho))) / problem.extent


@examples(4, 60, st.sampled_from([0.1, 1.0, 4.0]), st.floats(0.05, 0.45), st.floats(0.5, 0.85), st.floats(0.1, 60.0))
def test_the_lipschitz_bound_holds_whatever_prices_it_is_made_from(lipschitz, left, right, price):
    problem = Problem(0.01, 0.9, "effective", lipschitz=lipschitz)
    best = solve(problem).time
    prices = SlopePrices(price, np.array([[left, right]]))
    certificate = certify(problem, lambda rho: np.full_like(rho, 1 / 0.89), (), prices)
    assert certificate.lower_bound <= best * (1 + 1e-9)


@pytest.mark.slow
def test_tighter_constraints_take_longer_and_loose_ones_cost_nothing():
    free = solve(Problem(0.01, 0.9, "effective")).time
    times = [solve(Problem(0.01, 0.9, "effective", lipschitz=bound)).time for bound in (0.0, 0.1, 1.0, 10.0, 1e6)]
    assert times == sorted(times, reverse=True)
    assert times[-1] == pytest.approx(free, rel=1e-12)
    ratios = [solve(Problem(0.01, 0.9, "effective", max_ratio=bound)).time for bound in (1.0, 2.0, 10.0, 1e6)]
    assert ratios == sorted(ratios, reverse=True)
    assert ratios[-1] == pytest.approx(free, rel=1e-12)
    assert ratios[0] == pytest.approx(times[0], rel=1e-12)


def test_many_bins_approach_the_curve():
    # Midpoint steps are second order in the bin width; the loss is the square of that order's error: fourth... of the
    # weight, second of the time, so four times the bins divide the excess by about sixteen.
    free = solve(Problem(0.01, 0.9, "effective")).time
    excess = []
    for count in (20, 80):
        theta = np.linspace(math.log(0.01 / 0.99), math.log(9), count + 1)[1:-1]
        edges = tuple((1 / (1 + np.exp(-theta))).tolist())
        excess.append(solve(Problem(0.01, 0.9, "effective", bins=edges)).time / free - 1)
    assert excess[0] / excess[1] == pytest.approx(16, rel=0.1)


@pytest.mark.parametrize("constraints", [{"lipschitz": 1.0}, {"bins": (0.1, 0.5)}, {"max_ratio": 4.0}], ids=str)
def test_a_table_carries_its_constraints_and_can_be_checked(constraints, tmp_path):
    table = solve(Problem(0.01, 0.9, "effective", **constraints)).table()
    table.save(tmp_path / "table.json")
    loaded = WeightTable.load(tmp_path / "table.json")
    assert verify(loaded)
    assert loaded.for_group(8).weight == pytest.approx(
        solve(Problem(0.01, 0.9, "effective", **constraints)).weighting(np.arange(1, 8) / 8), rel=1e-4
    )
    json.dumps(loaded.problem)


@pytest.mark.parametrize(
    ("values", "field", "words"),
    [
        ({"lipschitz": -1.0}, "lipschitz", "from 0"),
        ({"lipschitz": 1.0, "lipschitz_in": "steps"}, "lipschitz_in", "log-odds or rho"),
        ({"max_ratio": 0.5}, "max_ratio", "from 1"),
        ({"bins": (0.5, 0.2)}, "bins", "0.2 follows 0.5"),
        ({"bins": (0.005,)}, "bins", "between start 0.01 and target 0.9"),
        ({"bins": "0.5"}, "bins", "list of numbers"),
        ({"min_weight": 3.0, "max_weight": 2.0}, "min_weight", "max_weight, which is 2"),
        ({"min_weight": 2.0, "lipschitz": 1.0}, "min_weight", "no weighting meets the budget"),
        ({"max_weight": 0.5, "max_ratio": 2.0}, "max_weight", "no weighting spends the budget"),
    ],
)
def test_what_contradicts_what_is_said(values, field, words):
    with pytest.raises(ProblemError) as caught:
        Problem(0.01, 0.9, "effective", **values)
    assert caught.value.field == field
    assert words in caught.value.sentence
